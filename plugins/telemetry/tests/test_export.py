"""`mccore events export` and `mccore doctor telemetry` in front of servers."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from mccore.cli import main
from mccore.config import RunConfig
from mccore.events import EventWriter
from mccore.runs.rundir import RunDir

from .collectors import Answer, ToldCollector, collector, received
from .events import run_events
from .servers import free_port, get, wait_for
from .test_prometheus import start_gateway

SECRET = "hunter2-planted"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path))
    for name in ("MC_OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "WANDB_API_KEY", "WANDB_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    run = RunDir.create(tmp_path / "runs", "one", RunConfig())
    for event in run_events():
        with EventWriter(run.events_dir / f"rank{event.rank}.jsonl", rank=event.rank) as writer:
            writer.write(event)
    return run


@pytest.mark.servers
def test_a_finished_run_is_replayed_once(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as stack:
        gateway = start_gateway(stack, tmp_path / "gateway.log")
        http, _, out = stack.enter_context(collector(tmp_path / "collector"))
        options = [f"otel.endpoint={http}", "prometheus.mode=push", f"prometheus.gateway={gateway}"]
        command = ["events", "export", "one", "--to", "otel", "--to", "prometheus"]
        command += [part for option in options for part in ("--set", option)]
        assert main(command) == 0
        assert capsys.readouterr().out.splitlines() == ["otel: 11 events sent", "prometheus: 11 events sent"]
        assert 'mccore_train_loss_nats{instance="rank0",job="mccore",rank="0",run="one",stage="base"} 3.5' in get(
            f"{gateway}/metrics"
        )
        spans = wait_for(lambda: found.spans if len((found := received(out)).spans) >= 6 else None)
        assert {"train one", "stage base"} <= {span["name"] for span in spans}
        assert main(command) == 2
        assert "has had events" in capsys.readouterr().err
        assert len(received(out).spans) == len(spans)
        assert main([*command, "--again"]) == 0


def test_what_is_refused_is_told_and_fails(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    with ToldCollector() as told:
        told.answer = Answer(401)
        assert main(["events", "export", "one", "--to", "otel", "--set", f"otel.endpoint={told.address}"]) == 1
        out = capsys.readouterr().out
        assert "otel: 11 events lost" in out
        assert "401" in out
        told.answer = Answer()
        assert main(["events", "export", "one", "--to", "otel", "--set", f"otel.endpoint={told.address}"]) == 0


class TestDoctor:
    def test_what_arrived_and_what_didnt_in_the_servers_words(
        self, run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={SECRET}")
        monkeypatch.setenv("MCCORE_PROMETHEUS_PORT", "0")
        with ToldCollector() as told:
            monkeypatch.setenv("MC_OTEL_ENDPOINT", told.address)
            assert main(["doctor", "telemetry", "--json"]) == 0
            found = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
            assert found["otel"]["detail"] == "5 events sent and accepted"
            assert "series at http://127.0.0.1:" in found["prometheus"]["detail"]
            assert "train mccore-doctor" in {span["name"] for span in told.received.spans}
            told.answer = Answer(401)
            assert main(["doctor", "telemetry", "--to", "otel"]) == 1
        out = capsys.readouterr().out
        assert "fail" in out
        assert "401" in out
        assert SECRET not in out

    def test_a_server_that_isnt_there(self, run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
        endpoint = f"otel.endpoint=http://127.0.0.1:{free_port()}"
        assert main(["doctor", "telemetry", "--to", "otel", "--set", endpoint]) == 1
        assert "refused" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("status", "hint"),
        [(401, "credentials"), (403, "credentials"), (404, "the path isn't"), (500, "start the server")],
    )
    def test_what_to_do_fits_what_the_server_says(
        self, run: RunDir, capsys: pytest.CaptureFixture[str], status: int, hint: str
    ) -> None:
        with ToldCollector() as told:
            told.answer = Answer(status)
            assert main(["doctor", "telemetry", "--to", "otel", "--set", f"otel.endpoint={told.address}"]) == 1
        out = capsys.readouterr().out
        assert str(status) in out
        assert hint in out

    def test_an_address_of_another_machine(self, run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
        foreign = "prometheus.address=192.0.2.1"  # kept for documentation: no machine has it
        assert main(["doctor", "telemetry", "--to", "prometheus", "--set", foreign]) == 1
        out = capsys.readouterr().out
        assert "can't serve metrics at 192.0.2.1: that is no address of this machine" in out
        assert "0.0.0.0" in out

    def test_weights_and_biases_says_that_it_would_stay_here(
        self, run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_MODE", "offline")
        assert main(["doctor", "telemetry", "--to", "wandb"]) == 0
        assert "recorded offline, in the run directory: WANDB_MODE is offline" in capsys.readouterr().out

    def test_a_mode_that_weights_and_biases_doesnt_know(
        self, run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_MODE", "ofline")
        assert main(["doctor", "telemetry", "--to", "wandb"]) == 1
        out = capsys.readouterr().out
        assert "WANDB_MODE is 'ofline', which W&B doesn't know" in out
        assert "set it to online, offline or disabled" in out

    def test_nothing_is_configured(self, run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor", "telemetry"]) == 0
        assert "none" in capsys.readouterr().out
