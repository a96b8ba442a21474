"""The `mccore` command with the stand-in worker."""

import functools
import sys

import mccore.launch

mccore.launch.launch = functools.partial(mccore.launch.launch, worker="standin_worker", grace_seconds=2.0)

from mccore.cli import main  # noqa: E402

sys.exit(main())
