"""Test folders are no packages; this one has a helper of its own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
