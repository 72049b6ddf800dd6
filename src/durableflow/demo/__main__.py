"""`python -m durableflow.demo`."""

import sys

from durableflow.demo import main

sys.exit(main())
