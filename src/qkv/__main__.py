"""Run the command line: `python -m qkv`, and `torchrun -m qkv`."""

import sys

from qkv.cli import main

if __name__ == "__main__":
    sys.exit(main())
