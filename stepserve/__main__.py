"""``python -m stepserve`` is the ``stepserve`` command."""

import sys

from stepserve.cli import main

if __name__ == "__main__":
    sys.exit(main())
