"""Plans that once failed are files of `found/`; the mutants are a module that tests import."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
