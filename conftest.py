"""What holds for every test, those of the plugins and of the Rust member included."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# The same examples every time, so that a change fails or passes by what it changes. HYPOTHESIS_PROFILE=random looks for
# new ones: as many as a test says, other ones in every run, and what fails is tried again first in the next.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# Images of containers often forbid Python to keep what it compiled. Then each of the hundreds of processes that tests start
# would compile torch anew, 3 s of it, and pytest all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Tests run side by side (`-n` in pyproject.toml); each with all cores for itself would only stand in the others' way.
# Before torch is imported, and for the processes that tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # A worker ignores Ctrl-C, and so would the programs that tests start to send them one.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """What a command puts into the environment of its process, as `.mc_env` says, ends with the test that called it."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process per core, eight at most; none where single files are named, which it would only delay."""
    named = any("::" in argument or argument.endswith(".py") for argument in config.args)
    return 0 if named else min(8, os.cpu_count() or 1)


# Rooms whose tests start trainings, servers and other processes. They come first: a worker that took one last would be at work
# long after the others have nothing left.
LONG = (
    "tests/journeys/",
    "tests/stages/",
    "plugins/telemetry/",
    "tests/launch/",
    "tests/serve/",
    "tests/train/",
    "tests/cli/",
)
# Folders whose files share a server that takes long to start: one worker has them all.
TOGETHER = ("plugins/telemetry/tests/opensearch/",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))  # stable: within a file the order stays


class ByFile(LoadFileScheduling):
    """A file goes to one worker, as `--dist loadfile` says, and a folder of TOGETHER as if it were one file."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile | None:
    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None
