"""`python -m aetheria` is `aetheria`."""

import sys

from aetheria.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
