"""`python -m mccore`: the `mccore` command where the script isn't on the path."""

import sys

from mccore.cli import main

sys.exit(main())
