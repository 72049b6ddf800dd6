"""The plane that other tests stand on is tested here; its code is beside this folder."""

import sys
from pathlib import Path

# Test folders are no packages; these have helpers of their own.
sys.path.insert(0, str(Path(__file__).parent.parent))

from planekit.fixtures import namespace, plane

__all__ = ["namespace", "plane"]
