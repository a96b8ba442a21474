"""The monitor in front of a run that really trains, from the form to the report and a chat."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Markdown, MarkdownViewer, Select, Static, Switch

from mccore.events import read_events
from mccore.runs.requests import EVALUATE
from mccore.runs.rundir import RunDir
from mccore.tui.app import make_monitor
from mccore.tui.screens.chat import ChatScreen
from mccore.tui.screens.evaluate import EvaluateScreen
from mccore.tui.screens.launch import LaunchScreen
from mccore.tui.screens.monitor import MonitorScreen
from tests.tui.pilot import drive, until

MOVING = ("loss", "swap_rate", "residency", "controller_duration")
STEPS, REGULAR = 40, 8  # of the run, and between two evaluations
SECONDS = 280  # for one thing to happen, on a machine that is busy


def settings(corpus: Path) -> dict[str, str]:
    return {
        "stages": json.dumps(["data", "tokenizer", "encode", "base", "report"]),
        "data.corpus": f"text:{corpus}",
        "model.depth": "1",
        "base.tokens": str(2048 * STEPS),
        "base.batch_tokens": "2048",
        "base.eval_every_tokens": str(2048 * REGULAR),
        "base.eval_tokens": "4096",
        "base.sample_every_tokens": "0",
    }


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base directory with a corpus, and a preset of the form that makes a run short."""
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    words = [f"{rng.choice('bcdfgklmnprst')}{rng.choice('aeiou')}{rng.choice('lmnrst')}" for _ in range(300)]
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(60):
        (corpus / f"{number}.txt").write_text(" ".join(rng.choice(words) for _ in range(1500)))
    preset = {"tiny": {"recipe": "tiny", "sets": settings(corpus)}}
    (tmp_path / "monitor-presets.json").write_text(json.dumps(preset))
    return tmp_path


@pytest.mark.timeout(1500)
def test_from_the_form_to_the_report_and_a_chat(home: Path) -> None:
    """Start with MegaContext on two ranks, watch, evaluate, quit, attach, stop, resume, read the report, chat."""
    root = home / "runs"

    async def launch(pilot: Pilot[None]) -> None:
        app = pilot.app
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen), "the form")
        await pilot.press("f3")
        app.screen.query_one("#megacontext", Switch).value = True
        app.screen.query_one("#ranks", Input).value = "2"
        app.screen.query_one("#name", Input).value = "real"
        await pilot.pause()
        app.screen.query_one("#allocator", Select).value = "stochastic_greedy"
        await pilot.pause()
        await pilot.press("f5")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen), "the run", SECONDS)
        screen = app.screen
        assert isinstance(screen, MonitorScreen)
        await until(pilot, lambda: set(MOVING) <= set(screen.metrics_of_stage()), "all four curves", SECONDS)
        loss = screen.watch.state.traces["base", "loss"]
        seen = loss.points
        await until(pilot, lambda: screen.watch.state.traces["base", "loss"].points > seen, "a further step", SECONDS)
        assert screen.metrics_of_stage()[:4] == list(MOVING)
        assert screen.watch.state.stages["base"].ranks == 2
        await pilot.press("4")
        await until(pilot, lambda: isinstance(app.screen, EvaluateScreen), "the results")
        run = RunDir(root / "real")

        async def asked_for() -> bool:
            """Whether a step that isn't a regular one was evaluated; else it is asked for again."""
            if not (run.path / EVALUATE).exists():
                await pilot.press("e")
            await pilot.pause(0.2)
            steps = [event.step or 0 for event in read_events(run.events_dir) if event.type == "eval"]
            return any(step % REGULAR for step in steps)

        deadline = time.monotonic() + SECONDS
        while not await asked_for():
            assert run.is_running(), "no step was evaluated because it was asked for"
            assert time.monotonic() < deadline
        await pilot.press("q")

    drive(make_monitor(root), launch)
    run = RunDir(root / "real")
    assert run.is_running(), "leaving the monitor leaves the run alive"
    assert run.config.megacontext.allocator is not None
    assert run.config.megacontext.allocator.name == "stochastic_greedy"

    async def stop_and_go_on(pilot: Pilot[None]) -> None:
        screen = pilot.app.screen
        assert isinstance(screen, MonitorScreen)
        await until(pilot, lambda: screen.watch.state.metrics, "the run again", SECONDS)
        await pilot.press("s", "y")
        await until(pilot, lambda: screen.watch.outcome.state == "stopped", "the stop", SECONDS)
        step = screen.watch.state.stages["base"].step
        assert step is not None
        assert step < STEPS
        await pilot.press("r")
        await until(pilot, lambda: screen.watch.outcome.state == "finished", "the end", SECONDS)
        await until(pilot, lambda: screen.watch.state.stages["base"].step == STEPS, "the last step", SECONDS)
        status = screen.query_one("#status", Static)
        await until(pilot, lambda: "finished" in str(status.render()), "the word for it", SECONDS)
        await pilot.press("o")
        await until(pilot, lambda: pilot.app.screen.query(MarkdownViewer), "the report")
        await until(pilot, lambda: "swap" in pilot.app.screen.query_one(Markdown).source, "what it says")
        await pilot.press("escape", "5")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen), "the chat")
        chat = pilot.app.screen
        assert isinstance(chat, ChatScreen)
        await until(pilot, lambda: chat.conversation.status == "ready", "the model", SECONDS)
        await pilot.press(*"hello", "enter")
        await until(pilot, lambda: chat.conversation.status == "ready", "the answer", SECONDS)
        assert [turn.who for turn in chat.conversation.turns][:2] == ["you", "model"]
        turns = chat.query_one("#turns", Static)
        await until(pilot, lambda: "hello" in str(turns.render()), "what was said")

    drive(make_monitor(root, run), stop_and_go_on)
