"""`python -m kdzoo.bench` is `kdzoo bench`."""

import sys

from kdzoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
