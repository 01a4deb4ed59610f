"""`python -m kdzoo` is `kdzoo`."""

import sys

from kdzoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
