"""Whether a run goes to a server at all, and what happens when that server fails."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from mccore_telemetry.wandb.access import unreachable

from mccore.api import EventsLost
from mccore.errors import ConfigError
from mccore.events import Event

from ..servers import wait_for
from .backend import Backend
from .conftest import WANDB_ID, Open, rows, steps

KEY = "planted" + "0" * 33


def attempts(directory: Path) -> list[tuple[str, str]]:
    record = json.loads((directory / "telemetry/wandb.json").read_text())
    return [(attempt["mode"], attempt["why"]) for attempt in record["attempts"]]


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", backend.url)


class TestMode:
    def test_without_a_key_it_is_offline(self, open_provider: Open, tmp_path: Path) -> None:
        for mode in ("auto", "online"):
            provider = open_provider(mode)
            for event in steps(3, 1 if mode == "auto" else 4):
                provider.record(event)
            provider.close()
        assert [mode for mode, why in attempts(tmp_path) if "there is no key" in why] == ["offline", "offline"]
        assert len(rows(tmp_path)) == 6

    @pytest.mark.parametrize(("variable", "value"), [("WANDB_RUN", "dummy"), ("WANDB_MODE", "disabled")])
    def test_the_environment_can_switch_it_off(
        self, open_provider: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
    ) -> None:
        monkeypatch.setenv(variable, value)
        provider = open_provider("auto")
        provider.record(steps(1)[0])
        provider.flush()
        provider.close()
        assert not (tmp_path / "telemetry").exists()

    @pytest.mark.usefixtures("key")
    @pytest.mark.parametrize("mode", ["offline", "dryrun"])
    def test_the_environment_can_keep_it_offline(
        self, open_provider: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Backend, mode: str
    ) -> None:
        monkeypatch.setenv("WANDB_MODE", mode)
        provider = open_provider("auto")
        provider.record(steps(1)[0])
        provider.close()
        assert attempts(tmp_path) == [("offline", f"WANDB_MODE is {mode}")]
        assert backend.paths == []

    @pytest.mark.usefixtures("key")
    def test_a_folder_can_keep_it_offline(
        self, open_provider: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Backend
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "wandb").mkdir()
        (tmp_path / "wandb" / "settings").write_text("[default]\nmode = offline\n")  # as `wandb offline` does
        provider = open_provider("auto")
        provider.record(steps(1)[0])
        provider.close()
        assert attempts(tmp_path) == [("offline", "the mode in W&B's settings is offline")]
        assert backend.paths == []

    @pytest.mark.parametrize("mode", ["Disabled", "OFFLINE", " offline", "", "ofline"])
    def test_a_mode_that_wandb_doesnt_know_is_refused_as_wandb_does(
        self, open_provider: Open, monkeypatch: pytest.MonkeyPatch, mode: str
    ) -> None:
        import wandb

        monkeypatch.setenv("WANDB_MODE", mode)
        with pytest.raises(ConfigError, match=f"WANDB_MODE is {mode!r}, which W&B doesn't know"):
            open_provider("auto")
        with pytest.raises(ValueError, match="mode"):
            wandb.Settings().update_from_env_vars(dict(os.environ))

    def test_a_key_without_a_network_is_offline(
        self, open_provider: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as taken:  # bound and not listening: connections are refused
            taken.bind(("127.0.0.1", 0))
            monkeypatch.setenv("WANDB_API_KEY", KEY)
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
            provider = open_provider("auto")
            provider.record(steps(1)[0])
            provider.close()
        ((mode, why),) = attempts(tmp_path)
        assert mode == "offline"
        assert "refused" in why
        assert len(rows(tmp_path)) == 1

    @pytest.mark.usefixtures("key")
    def test_a_server_that_never_answers_is_offline(
        self, open_provider: Open, tmp_path: Path, backend: Backend
    ) -> None:
        backend.silent = True
        provider = open_provider("auto")
        provider.record(steps(1)[0])
        provider.close()
        ((mode, why),) = attempts(tmp_path)
        assert mode == "offline"
        assert "timed out" in why or "no answer" in why

    @pytest.mark.usefixtures("key")
    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_a_server_that_refuses_is_offline(
        self, open_provider: Open, tmp_path: Path, backend: Backend, status: int
    ) -> None:
        backend.refuse_runs = status
        provider = open_provider("auto")
        for event in steps(3):
            provider.record(event)
        provider.close()
        ((mode, why),) = attempts(tmp_path)
        assert (mode, "W&B's server doesn't let it begin" in why) == ("offline", True)
        assert len(rows(tmp_path)) == 3

    def test_names_are_looked_up_within_the_time(self) -> None:
        assert unreachable("http://no-such-host.invalid", seconds=1.0)


@pytest.mark.usefixtures("key")
class TestServer:
    def test_rows_arrive_and_a_run_that_goes_on_continues(
        self, open_provider: Open, tmp_path: Path, backend: Backend
    ) -> None:
        for first in (1, 21):
            provider = open_provider("auto", upload_report=False)
            for event in steps(20, first):
                provider.record(event)
            provider.close()
        assert [mode for mode, _ in attempts(tmp_path)] == ["online", "online"]
        assert [row["axes/step"] for row in backend.rows(WANDB_ID)] == list(range(1, 41))

    def test_what_was_refused_for_a_while_arrives_once(self, open_provider: Open, backend: Backend) -> None:
        provider = open_provider("auto", upload_report=False)
        backend.status = 500
        for event in steps(20):
            provider.record(event)
        wait_for(lambda: any("file_stream" in path for path in backend.paths))
        backend.status = 200
        provider.close()
        assert [row["axes/step"] for row in backend.rows(WANDB_ID)] == list(range(1, 21))

    def test_a_server_that_falls_silent_ends_with_the_patience(
        self, open_provider: Open, tmp_path: Path, backend: Backend
    ) -> None:
        provider = open_provider("auto", patience=1.0, upload_report=False)
        provider.record(steps(1)[0])
        backend.silent = True
        for event in steps(19, 2):
            provider.record(event)
        with pytest.raises(EventsLost, match=r"`wandb sync .*` uploads what is missing") as caught:
            provider.close()
        assert caught.value.count == 0
        backend.released.set()
        wait_for(lambda: len(rows(tmp_path)) == 20)  # all is in the log

    def test_the_key_is_nowhere(
        self, open_provider: Open, tmp_path: Path, backend: Backend, capfd: pytest.CaptureFixture[str]
    ) -> None:
        backend.status = 401
        provider = open_provider("auto", patience=2.0)
        provider.record(steps(1)[0])
        provider.record(Event("run.end", steps(2)[1].time, data={"outcome": "finished"}))
        said = ""
        try:
            provider.close()
        except EventsLost as error:
            said = str(error)
        printed = capfd.readouterr()
        for text in (said, printed.out, printed.err):
            assert KEY not in text
        for path in tmp_path.rglob("*"):
            assert path.is_dir() or KEY.encode() not in path.read_bytes(), path

    def test_nothing_is_told_to_anybody_else(self, open_provider: Open, backend: Backend) -> None:
        provider = open_provider("auto", upload_report=False)
        for event in steps(20):
            provider.record(event)
        provider.close()
        assert [path for path in backend.paths if "otel" in path or "sentry" in path] == []
