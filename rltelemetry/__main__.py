"""`python -m rltelemetry`."""

import sys

from rltelemetry.cli import main

sys.exit(main())
