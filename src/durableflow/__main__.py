"""`python -m durableflow`, for where the console script is not on the path."""

import sys

from durableflow.cli import main

sys.exit(main())
