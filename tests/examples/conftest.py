"""What the tests of crashes know of the examples, too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
