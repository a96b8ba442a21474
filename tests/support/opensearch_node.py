"""A real OpenSearch node for tests and benchmarks, or by hand: `python tests/support/opensearch_node.py`.

`.ci/servers` gets the distribution, which needs Java 21 or newer and has no security plugin. Each node has a directory of
its own for its configuration and data, so several can run from one distribution. A node starts in about ten seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

VERSION = "3.8.0"
HEAP = "512m"
_SERVERS = Path(__file__).parents[2] / ".ci/servers"
# Lines of the distribution's jvm.options that name places a node may not write to, or another heap.
_UNWANTED = re.compile(r"^(9-:-Xlog|-XX:HeapDump|-XX:\+HeapDump|-XX:ErrorFile|-Xm|\d*-?\d*:?-Xlogg?c)")


class Unavailable(Exception):
    """What the machine lacks for a node: the reason of a skipped test."""


def distribution() -> Path:
    """The unpacked distribution. Raises Unavailable where `.ci/servers` hasn't got it."""
    found = subprocess.run(
        [_SERVERS, "--path", "opensearch"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not found:
        raise Unavailable("opensearch isn't installed: `.ci/servers` gets it")
    return Path(found).parents[1]


def java_home() -> Path:
    """The home of a Java 21 or newer: named by the environment, or the newest that is installed."""
    named = [os.environ[name] for name in ("OPENSEARCH_JAVA_HOME", "JAVA_HOME") if os.environ.get(name)]
    homes = [Path(name) for name in named] + sorted(Path("/usr/lib/jvm").glob("*"), reverse=True)
    for home in homes:
        release = home / "release"
        version = re.search(r'JAVA_VERSION="(\d+)', release.read_text()) if release.is_file() else None
        if version and int(version[1]) >= 21 and (home / "bin/java").exists():
            return home
    raise Unavailable("OpenSearch needs Java 21 or newer: set OPENSEARCH_JAVA_HOME")


class OpenSearchNode:
    """One node: `url` answers from the end of `start` to `stop` or `kill`. `start` again goes on with its data and port."""

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None, java_options: str = "") -> None:
        self.directory = directory
        self._java_options = java_options
        self.log = directory / "output.log"
        self._settings = settings or {}
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the HTTP interface, on loopback."""
        return f"http://127.0.0.1:{self._port}"

    def start(self, seconds: float = 240) -> None:
        """Start the node and wait until it answers. Raises Unavailable when the machine can't run it."""
        java = java_home()
        # OpenSearch refuses to run as root, and root's cache is closed to others: they get links to its files.
        user = "nobody" if os.geteuid() == 0 else None
        home = self._links(distribution()) if user else distribution()
        self._configure(home, user)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "OPENSEARCH_JAVA_HOME": str(java),
            "OPENSEARCH_JAVA_OPTS": f"-Xms{HEAP} -Xmx{HEAP} {self._java_options}",
            "OPENSEARCH_PATH_CONF": str(self.directory / "config"),
            "OPENSEARCH_TMPDIR": str(self.directory / "tmp"),
        }
        ports = self.directory / "logs/http.ports"
        ports.unlink(missing_ok=True)
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [home / "bin/opensearch"], env=environment, cwd=self.directory, stdout=log, stderr=log, user=user,
                extra_groups=[] if user else None, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + seconds
        while not self._answers(ports):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise Unavailable(f"OpenSearch didn't start: {self.log.read_text(errors='replace')[-500:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End the node in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the node as a crash would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let the node accept connections and answer nothing until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signal(signal.SIGCONT)

    def _answers(self, ports: Path) -> bool:
        if not ports.exists() or not (line := ports.read_text().strip()):
            return False
        self._port = int(line.splitlines()[0].rpartition(":")[2])
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"{self.url}/_cluster/health", timeout=5).close()
            return True
        return False

    def _links(self, home: Path) -> Path:
        links = self.directory / "home"
        if not links.exists():
            shutil.copytree(home, links, copy_function=_link)
        return links

    def _configure(self, home: Path, user: str | None) -> None:
        config = self.directory / "config"
        if not config.exists():
            shutil.copytree(home / "config", config)
            for name in ("data", "logs", "tmp"):
                (self.directory / name).mkdir()
        options = (home / "config/jvm.options").read_text().splitlines()
        (config / "jvm.options").write_text("\n".join(line for line in options if not _UNWANTED.match(line)) + "\n")
        settings = {
            "discovery.type": "single-node",
            "network.host": "127.0.0.1",
            "http.port": str(self._port),
            "transport.port": "0",
            "node.portsfile": "true",
            "path.data": str(self.directory / "data"),
            "path.logs": str(self.directory / "logs"),
            # A disk that is nearly full for other reasons must not close the indices of a test.
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            **self._settings,
        }
        (config / "opensearch.yml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
        if user:
            own = [self.directory / name for name in ("config", "data", "logs", "tmp")]
            for path in (self.directory, *own, *(path for folder in own for path in folder.rglob("*"))):
                shutil.chown(path, user)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(number)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._process = None


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@contextlib.contextmanager
def opensearch_node(settings: Mapping[str, str] | None = None, java_options: str = "") -> Iterator[OpenSearchNode]:
    """A running node in a directory of its own, gone afterwards."""
    # Not below pytest's own directory: that one is closed to other users, and the node is one where tests run as root.
    with tempfile.TemporaryDirectory(prefix="opensearch-", ignore_cleanup_errors=True) as name:
        node = OpenSearchNode(Path(name), settings, java_options)
        try:
            node.start()
            yield node
        finally:
            node.stop()


def main() -> None:
    """Run a node until Ctrl-C or SIGTERM; `KEY=VALUE` arguments are settings of opensearch.yml."""
    settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the node ends with this process
    try:
        with contextlib.suppress(KeyboardInterrupt), opensearch_node(settings) as node:
            print(f"OpenSearch {VERSION} answers at {node.url}; Ctrl-C ends it", flush=True)
            signal.pause()
    except Unavailable as reason:
        sys.exit(str(reason))


if __name__ == "__main__":
    main()
