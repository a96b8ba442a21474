"""`mccore serve` before it serves: what it refuses, and what it tells telemetry."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mccore.cli import main
from mccore.cli.serve import _lock, _rules, _Teller
from mccore.errors import UsageError
from mccore.events import EventWriter, read_events
from mccore.serve.exchanges import Exchange, Figures
from mccore.serve.http.server import open_socket
from mccore.serve.link import WorkerLink
from mccore.serve.orders import Hello
from mccore.telemetry.emitter import Emitter
from tests.support.served import served_base

__all__ = ["served_base"]  # a fixture
OPTIONS = {"token_file": None, "allow_host": (), "allow_origin": ()}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", ""])
def test_an_address_that_others_reach_needs_a_token(
    served_base: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], host: str
) -> None:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(served_base))
    monkeypatch.delenv("MCCORE_SERVE_TOKEN", raising=False)
    assert main(["serve", "mc", "--host", host]) == 2
    assert "needs a token" in capfd.readouterr().err
    monkeypatch.setenv("MCCORE_SERVE_TOKEN", "x" * 32)
    assert _rules(host, OPTIONS).owner(f"Bearer {'x' * 32}") is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.5.5.5"])
def test_this_machine_alone_needs_none(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delenv("MCCORE_SERVE_TOKEN", raising=False)
    rules = _rules(host, {**OPTIONS, "allow_host": ("My.Name",)})
    assert rules.owner("") == "local"
    assert {"127.0.0.1", "localhost", "[::1]", "my.name"} <= rules.hosts


def test_tokens_that_can_be_guessed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tokens"
    for content, reason in (("short\n", "guessed"), ("\n\n", "no token")):
        file.write_text(content)
        with pytest.raises(UsageError, match=reason):
            _rules("127.0.0.1", {**OPTIONS, "token_file": file})
    with pytest.raises(UsageError, match="can't read"):
        _rules("127.0.0.1", {**OPTIONS, "token_file": tmp_path / "none"})
    file.write_text(f"{'a' * 20}\n{'b' * 20}\n")
    assert len(_rules("127.0.0.1", {**OPTIONS, "token_file": file}).tokens) == 2


def test_two_servers_do_not_share_their_conversations_or_a_port(tmp_path: Path) -> None:
    _lock(tmp_path / "here")
    with pytest.raises(UsageError, match="another server"):
        _lock(tmp_path / "here")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="can't listen"):
            open_socket("127.0.0.1", taken.getsockname()[1])


def test_telemetry_is_told_of_requests_and_answers_but_not_of_words(tmp_path: Path) -> None:
    exchange = Exchange(WorkerLink(Hello(checkpoint="")), {})
    exchange.figures = Figures(10, 4, 6, 0.1, 0.5, "stop")
    with Emitter(EventWriter(tmp_path / "events.jsonl")) as emitter:
        teller = _Teller(emitter)
        teller.request("POST /v1/sessions/{session}/messages", 200, 0.25, None)
        teller.request("answer", 0, 0.5, exchange)
    request, turn = read_events(tmp_path)
    assert (request.type, request.data["status"], request.data["seconds"]) == ("request", 200, 0.25)
    assert (turn.type, turn.data["new_tokens"], turn.data["finish"]) == ("chat.turn", 6, "stop")
