"""The chat beside the Working Context, with a stand-in for `mccore chat --stream`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from mccore.runs.rundir import RunDir
from mccore.tui.app import make_monitor
from mccore.tui.conversation import RunTalk
from mccore.tui.screens.chat import ChatScreen
from mccore.tui.screens.monitor import MonitorScreen
from tests.tui.pilot import drive, until

CHILD = r"""
import json, signal, sys, time
def say(kind, **data): print(json.dumps({"type": kind, **data}), flush=True)
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
say("ready", words="a model")
for line in sys.stdin:
    request = json.loads(line)
    if request.get("new"):
        say("cleared"); continue
    if request["message"] == "die":
        print("error: it fell over", file=sys.stderr); sys.exit(1)
    say("piece", part="text", text="well \x1b]0;x\x07")
    say("context", history=18, entries=12, budget=64, block_size=4, runs=[[1, 2], [0, 10]])
    while request["message"] == "long" and not stopped: time.sleep(0.01)
    say("answer", remarks=["stopped"] if stopped else [])
    stopped.clear()
"""
Started = list[tuple[str, ...]]


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    """Its command lines, one a start."""
    program, started = tmp_path / "child.py", []
    program.write_text(CHILD)

    def command(*arguments: str) -> list[str]:
        started.append(arguments)
        return [sys.executable, str(program)]

    monkeypatch.setattr("mccore.tui.actions.command", command)
    return started


def said(talk: RunTalk) -> list[tuple[str, str]]:
    return [(turn.who, turn.text) for turn in talk.turns]


def test_a_conversation_is_streamed_stopped_and_begun_anew(root: Path, run: RunDir, child: Started) -> None:
    app = make_monitor(root)

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("5")
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        talk = screen.conversation
        await until(pilot, lambda: talk.status == "ready", "the model")
        assert child == [("chat", str(run.path), "--stream")]
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: talk.status == "ready" and len(talk.turns) == 2, "the answer")
        assert said(talk)[0] == ("you", "hi")
        await until(pilot, lambda: screen.query_one("#context").display, "the Working Context")
        await pilot.pause()
        picture = app.export_screenshot()
        assert "12/64" in picture
        assert not set("\x1b\x07") & set(picture)
        await pilot.press(*"long", "enter")
        await until(pilot, lambda: talk.status == "answering" and len(talk.turns) == 4, "the first piece")
        await pilot.press("escape")
        await until(pilot, lambda: talk.status == "ready", "the stop")
        assert said(talk)[-1] == ("note", "stopped")
        await pilot.press("escape")  # nothing to stop: back, and the conversation stays
        assert isinstance(app.screen, MonitorScreen)
        await pilot.press("5")
        assert isinstance(app.screen, ChatScreen)
        assert app.screen.conversation is talk
        assert len(child) == 1
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not talk.turns, "the new one")

    drive(app, steps)


def test_a_chat_that_ends_says_why_and_can_be_started_again(root: Path, run: RunDir, child: Started) -> None:
    app = make_monitor(root)

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("5")
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        talk = screen.conversation
        await until(pilot, lambda: talk.status == "ready", "the model")
        await pilot.press(*"die", "enter")
        await until(pilot, lambda: talk.status == "ended", "the end")
        assert said(talk)[-1] == ("error", "error: it fell over")
        await pilot.press(*"more", "enter")
        assert screen.query_one(Input).value == "more"  # nothing that was typed is lost
        await pilot.press("ctrl+r")
        await until(pilot, lambda: talk.status == "ready", "another one")

    drive(app, steps)


def test_a_run_without_a_model_says_so_in_the_words_of_the_command(root: Path, run: RunDir) -> None:
    app = make_monitor(root)

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("5")
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        await until(pilot, lambda: screen.conversation.status == "ended", "the refusal")
        await until(pilot, lambda: "no checkpoint yet" in str(screen.query_one("#turns", Static).render()), "its words")

    drive(app, steps)


def test_a_checkpoint_has_a_conversation_of_its_own(root: Path, run: RunDir, child: Started) -> None:
    app = make_monitor(root)

    async def steps(pilot: Pilot[None]) -> None:
        app.show_view(run, "logs")
        await pilot.pause()
        app.show_view(run, "chat", ("base", 20))
        await pilot.pause()
        await until(pilot, lambda: child, "the start")
        assert child == [("chat", str(run.path), "--stream", "--stage", "base", "--step", "20")]

    drive(app, steps)


def test_lines_that_make_no_sense_are_passed_over(run: RunDir) -> None:
    talk = RunTalk(run)
    for line in ({}, {"type": "unknown"}, {"type": "piece", "text": 3}, {"type": "answer", "remarks": None}):
        talk.take(line)
    talk.status = "answering"
    for _ in range(100):
        talk.take({"type": "piece", "text": "x" * 10_000})
    assert len(talk.turns[-1].text) < 200_000
