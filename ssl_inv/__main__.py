"""`python -m ssl_inv`, for launchers that start a module."""

import sys

from ssl_inv.run.cli import main

if __name__ == "__main__":
    sys.exit(main())
