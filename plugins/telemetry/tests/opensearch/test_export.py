"""`mccore events export` into a real node: what couldn't be sent, then everything, and each event is stored once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mccore_telemetry.opensearch.dead_letters import DeadLetters

from mccore.cli import main
from mccore.config import RunConfig
from mccore.events import EventWriter, read_events
from mccore.runs.rundir import RunDir

from ..servers import free_port
from .conftest import steps


@pytest.mark.servers
def test_what_couldnt_be_sent_is_sent_later_and_everything_is_stored_once(
    node: str,
    stream: str,
    stored: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path))
    run = RunDir.create(tmp_path / "runs", "one", RunConfig())
    with EventWriter(run.events_dir / "rank0.jsonl") as writer:
        for event in steps(50):
            writer.write(event)
    events = read_events(run.events_dir)
    letters = DeadLetters(run.path / "telemetry" / "opensearch-rank0-unsent.jsonl", 1 << 20)
    letters.add(events[10:30], "the node said 429")
    command = ["events", "export", "one", "--to", "opensearch"]
    nobody = f"http://127.0.0.1:{free_port()}"
    for _ in range(2):  # it keeps what it has, and no more with every attempt
        before = letters.path.read_bytes()
        assert main([*command, "--unsent", "--timeout", "2", "--set", f"opensearch.url={nobody}"]) == 1
        assert capsys.readouterr().out.startswith("opensearch: 20 events lost")
        assert letters.path.read_bytes() == before
    command += ["--set", f"opensearch.url={node}", "--set", f"opensearch.stream={stream}"]
    command += ["--set", "opensearch.timeout_seconds=60"]
    assert main([*command, "--unsent"]) == 0
    assert capsys.readouterr().out == "opensearch: 20 events sent\n"
    assert [document["step"] for document in stored()] == list(range(10, 30))
    assert not letters.path.exists()
    assert main([*command, "--unsent"]) == 0
    assert capsys.readouterr().out == "opensearch: nothing to send\n"
    assert main(command) == 2, "it has had some"
    assert main([*command, "--again"]) == 0
    assert [document["step"] for document in stored()] == list(range(50))
