"""`python -m tierwave VERB ...`: see `tierwave.cli`."""

import sys

from tierwave.cli import main

if __name__ == "__main__":
    sys.exit(main())
