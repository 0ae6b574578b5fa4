"""`python -m analysis.cli`: the `circuits` command, where it is not on the path."""

import sys

from analysis.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
