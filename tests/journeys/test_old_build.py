"""A run, a checkpoint, a session and a context of an older build still load, and compute what they did there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mccore.cli import main
from mccore.contexts.check import check_context
from mccore.contexts.manifest import describe_context
from mccore.events import read_events
from mccore.generate.answer import Request
from mccore.generate.sampling import Sampling
from mccore.megacontext.sessions.files import mount_context, open_session
from mccore.megacontext.sessions.session import Session
from mccore.runs.rundir import RunDir, list_runs
from mccore.runtime.open import OpenModel, find_checkpoint, find_run, open_on
from mccore.runtime.sessions import Sessions
from mccore.train.checkpoint.read import load_into

WRITTEN = Path(__file__).parents[1] / "support" / "old_build"
EXPECTED: dict[str, Any] = json.loads((WRITTEN / "expected.json").read_text(encoding="utf-8"))
CLOSE = {"atol": 1e-3, "rtol": 1e-4}  # another processor may add up in another order


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A base directory with a copy of everything: what is opened may be written to."""
    path = tmp_path_factory.mktemp("old") / "base"
    shutil.copytree(WRITTEN, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MCCORE_BASE_DIR", str(path))
        yield path


@pytest.fixture(scope="module")
def run(base: Path) -> RunDir:
    return find_run(None)


@pytest.fixture(scope="module")
def opened(run: RunDir) -> OpenModel:
    stage, checkpoint = find_checkpoint(run, None)
    assert stage == EXPECTED["stage"]
    return open_on(checkpoint, "cpu")


@pytest.fixture(scope="module")
def sessions(opened: OpenModel) -> Sessions:
    return opened.sessions()


@pytest.fixture(scope="module")
def prompt(opened: OpenModel) -> list[int]:
    return [opened.tokenizer.bos_id, *opened.tokenizer.encode(EXPECTED["prompt"])]


def close(logits: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(logits, torch.tensor(expected), **CLOSE)


def test_the_run_is_listed_with_its_configuration_events_and_results(run: RunDir) -> None:
    assert [each.name for each in list_runs()] == ["old"]
    assert (run.config.seed, run.config.megacontext.block_size, run.config.megacontext.wc_length) == (7, 4, 64)
    steps = [event for event in read_events(run.events_dir) if event.type == "step"]
    assert {stage: len([e for e in steps if e.stage == stage]) for stage in ("base", "sft")} == {"base": 60, "sft": 17}
    assert all(event.metrics["loss"] > 0 for event in steps)
    assert main(["runs", "show", "old"]) == 0


def test_the_checkpoint_gives_the_same_logits_and_tokens(opened: OpenModel, prompt: list[int]) -> None:
    assert opened.source == {"run": "old", "stage": "sft", "step": EXPECTED["step"]}
    with torch.inference_mode():
        close(opened.gpt(torch.tensor([prompt]))[0, -1], EXPECTED["logits"])
    sampling = Sampling(temperature=0.8, top_k=20, max_new_tokens=16, seed=5)
    assert list(opened.engine().stream(Request(prompt, sampling))) == EXPECTED["sampled"]


def test_training_goes_on_from_the_checkpoint(run: RunDir, opened: OpenModel) -> None:
    from mccore.runtime.runtime import look_at

    training = look_at(run, "sft").training()
    meta = load_into(opened.checkpoint, training.model.state_dict(), training.optimizer.state_dict())
    assert meta.step == EXPECTED["step"]
    assert torch.equal(training.gpt.embedding.weight, opened.gpt.embedding.weight)


def test_the_session_goes_on(base: Path, sessions: Sessions, prompt: list[int]) -> None:
    expected = EXPECTED["session"]
    session, notes = open_session(sessions.model, base / "sessions" / "kept", sessions.trees)
    assert (session.tokens, session.covered, session.refocuses) == tuple(
        expected[name] for name in ("tokens", "covered", "refocuses")
    )
    assert notes == expected["notes"]
    assert session.working_context.cache.length == session.covered - _hidden_by_gists(
        session
    )  # keys and values are kept
    close(session.read(), expected["logits"])
    session.append(prompt * 4)
    close(session.read(), expected["next"])
    assert session.focus.cut.level.tolist() == expected["levels"]
    session.close()


def _hidden_by_gists(session: Session) -> int:
    cut = session.focus.cut
    return int((cut.span - 1).sum())


def test_the_context_is_sound_and_sessions_begin_with_it(base: Path, sessions: Sessions, prompt: list[int]) -> None:
    place, expected = base / "context", EXPECTED["context"]
    check = check_context(place, sessions.trees, sessions.model, every_gist=True)
    assert (check.problems, check.gists > 1000) == ([], True)
    manifest = describe_context(place).manifest
    assert manifest is not None
    assert [file.name for file in manifest.files] == ["notes.txt"]
    session = mount_context(sessions.model, place, sessions.trees)
    session.append(prompt)
    assert session.tokens == expected["tokens"]
    close(session.read(), expected["logits"])
    assert session.focus.cut.level.tolist() == expected["levels"]
    session.close()


def test_a_chat_goes_on_in_the_session(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--session", "kept", "--device", "cpu", "--json", "-p", "brew", "--max-new-tokens", "4"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["run"], record["session"]) == ("old", "kept")
    assert record["context"]["tokens"] > EXPECTED["session"]["tokens"]
