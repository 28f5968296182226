"""`python -m maitred.server` is `maitred`."""

import sys

from maitred.server.cli import main

sys.exit(main())
