"""python -m dm2core."""

import sys

from dm2core.cli import main

sys.exit(main())
