"""W&B in front of whole launches: several stages, a launcher that is killed, and a run that goes on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from mccore.events import last_metrics, read_events

from ..servers import wait_for
from ..test_runs import STEPS, make, start
from .conftest import logs, rows


def test_one_run_through_stages_deaths_and_starts(tmp_path: Path) -> None:
    """Stages hold until W&B's client, which takes its time to begin, has what was written."""
    run = make(tmp_path, {"base": [*STEPS, {"do": "hang"}]}, wandb={"mode": "offline"})
    process = start(run)
    wait_for(lambda: len(rows(run.path)) == len(STEPS))
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: json.loads((run.path / "telemetry/wandb.json").read_text())["attempts"][-1]["closed"])
    (run.path / "plan.json").write_text(json.dumps({"base": [*STEPS, {"do": "stop-aware"}]}))
    process = start(run)
    wait_for(lambda: len(rows(run.path)) == 2 * len(STEPS))
    run.request_stop()
    process.wait(240)
    events = read_events(run.events_dir)
    assert [(event.data["state"], event.data["lost"]) for event in events if event.type == "telemetry"] == [
        ("ready", 0)
    ] * 2
    assert len(logs(run.path)) == 2
    assert len({log.name for log in logs(run.path)}) == 1, "one id"
    found = rows(run.path)
    assert len(found) == 2 * len(STEPS), "each event is one row"
    for name, value in last_metrics(events).items():
        assert found[-1][f"train/{name}"] == value
