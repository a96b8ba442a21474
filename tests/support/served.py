"""A real `mccore serve` over a tiny model, in processes of its own, for tests of clients."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.model import GPT


class Server:
    """A server that runs. `url` is where."""

    def __init__(self, base: Path, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "mccore", "serve", "mc", "--port", "0", "--device", "cpu", "--threads", "1"]
        env = {**os.environ, "MCCORE_BASE_DIR": str(base), "OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True, env=env)
        self.log: list[str] = []
        self.url = self._wait()
        self.token = environment.get("MCCORE_SERVE_TOKEN", "")
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        self.http = httpx.Client(base_url=self.url, timeout=120, headers=headers)

    def _wait(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"at (http://\S+)", line):
                return found[1]
        raise AssertionError("".join(self.log))

    @property
    def worker(self) -> int:
        """The process that has the model."""
        (child,) = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        return int(child)

    def wait_until_ready(self) -> None:
        """Wait for a worker that was started again."""
        while self.http.get("/health").status_code != 200:
            time.sleep(0.05)

    def stop(self) -> str:
        """End it as Ctrl-C does; all it said."""
        self.http.close()
        self.process.send_signal(signal.SIGINT)
        assert self.process.stderr is not None
        rest = self.process.stderr.read()
        assert self.process.wait(60) in (0, 130), rest
        return "".join(self.log) + rest


@contextlib.contextmanager
def serving(base: Path, *arguments: str, **environment: str) -> Iterator[Server]:
    """A server for a while."""
    server = Server(base, *arguments, **environment)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def served_base(
    tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Tokenizer, random_gpt: Callable[..., GPT]
) -> Path:
    """A base directory with the run `mc`, a tiny model with MegaContext."""
    from tests.cli.chat.test_sessions import make_run

    root = tmp_path_factory.mktemp("served")
    make_run(root, "mc", random_gpt(), byte_tokenizer)
    return root
