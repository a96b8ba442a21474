"""Real servers for tests, each started by the test that needs it and ended with it; a missing one skips the test."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
SCRIPT = Path(__file__).parents[3] / ".ci" / "servers"


def binary(name: str) -> str:
    """Where a server's program is. Skips the test when it isn't here."""
    found = subprocess.run([SCRIPT, "--path", name], capture_output=True, text=True, check=False).stdout.strip()
    if not found:
        pytest.skip(f"{name} isn't installed: `.ci/servers` gets it")
    return found


def free_port() -> int:
    """A port of the loopback address that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(what: Callable[[], T | None], seconds: float = 240.0, process: subprocess.Popen[bytes] | None = None) -> T:
    """The first answer that isn't None or empty, asked for again and again. Fails when there is none in time."""
    end = time.monotonic() + seconds
    problem: Exception | None = None
    while time.monotonic() < end:
        try:
            if answer := what():
                return answer
        except (OSError, ValueError, KeyError, IndexError) as error:
            problem = error
        if process is not None and process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}")
        time.sleep(0.05)
    pytest.fail(f"nothing within {seconds:.0f} s: {problem}")


@contextlib.contextmanager
def running(command: list[str], log: Path, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process; killed at the end, its output in `log`."""
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **how)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def get(url: str, **query: str) -> str:
    """What an address answers."""
    with urllib.request.urlopen(url + ("?" + urllib.parse.urlencode(query) if query else ""), timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def get_json(url: str, **query: str) -> Any:
    return json.loads(get(url, **query))


def answers(url: str) -> bool:
    """Whether anything speaks HTTP there."""
    try:
        get(url)
    except urllib.error.HTTPError:
        return True
    return True


@contextlib.contextmanager
def prometheus(directory: Path, scrape: dict[str, Any], rules: str = "") -> Iterator[str]:
    """A Prometheus that scrapes every second what `scrape` says (the body of a scrape configuration); gives its address."""
    program = binary("prometheus")
    directory.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms", "scrape_timeout": "200ms"},
        "scrape_configs": [{"job_name": "mccore", **scrape}],
    }
    if rules:
        (directory / "rules.yaml").write_text(rules)
        config["rule_files"] = [str(directory / "rules.yaml")]
    (directory / "prometheus.yaml").write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    command = [
        program,
        f"--config.file={directory / 'prometheus.yaml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    address = f"http://127.0.0.1:{port}"
    with running(command, directory / "prometheus.log") as process:
        wait_for(lambda: get(f"{address}/-/ready"), process=process)
        yield address


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """What a Prometheus answers to an expression now: its series with `metric` and `value`."""
    answer = get_json(f"{address}/api/v1/query", query=expression)
    assert answer["status"] == "success", answer
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def check_metrics(page: str) -> str:
    """What `promtool check metrics` objects to."""
    done = subprocess.run(
        [binary("promtool"), "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).strip() or ("" if done.returncode == 0 else f"exit code {done.returncode}")
