"""The `mccore` command with the stand-in worker."""

import functools
import sys

import mccore.launch.launcher

mccore.launch.launcher.launch = functools.partial(
    mccore.launch.launcher.launch, worker="standin_worker", grace_seconds=2.0
)

from mccore.cli import main  # noqa: E402

sys.exit(main())
