"""What was saved and is used again: sessions, checkpoints, runs, under a base directory whose name isn't UTF-8 too.

RF1, RF7, RF10, RF12, RF16, BF1, BF9, BF19, and the wait for ranks of BF4.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

from mccore.api import TreeSpec
from mccore.cli import main
from mccore.cli import run as run_command
from mccore.cli.chat.sessions import SessionPlace, saved_model
from mccore.config import RunConfig
from mccore.errors import CheckpointError
from mccore.events import Event
from mccore.launch import launcher
from mccore.megacontext.sessions.files import create_session, open_session, save_session
from mccore.megacontext.sessions.mounts import open_shared
from mccore.megacontext.sessions.state import SessionError
from mccore.megacontext.tree.tree import TreeError
from mccore.runs.checkpoints import META_FILE, SUMS_FILE, file_sha256
from mccore.runs.rundir import Outcome, RunDir
from mccore.runtime.inputs import InputChanged
from mccore.runtime.open import open_model
from mccore.stages.ends import check_saved
from tests.megacontext.sessions.test_files import trees
from tests.support.sessions import W, context_model, ids_of

WRITTEN = Path(__file__).parents[1] / "support" / "old_build"
CHECKPOINT = "runs/old/checkpoints/sft/step_00000017"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base directory with a run, a session and a context of its model."""
    path = tmp_path / "base"
    shutil.copytree(WRITTEN, path)
    monkeypatch.setenv("MCCORE_BASE_DIR", str(path))
    return path


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


# --- sessions: RF7 ----------------------------------------------------------------------------------------------------


def on(path: Path) -> dict[str, Any]:
    return {"path": str(path), "tokens": 4, "digest": "0" * 64}


def test_a_session_that_is_mounted_on_itself_is_damaged(base: Path) -> None:  # RF7: opened itself until RecursionError
    edit(base / "context/session.json", base=on(base / "context"))
    with pytest.raises(SessionError, match="what it is mounted on leads back to it"):
        open_shared(base / "context", TreeSpec((), None), 4, trees)
    shutil.copytree(base / "context", base / "other")
    edit(base / "other/session.json", base=on(base / "context"))
    edit(base / "context/session.json", base=on(base / "other"))
    with pytest.raises(SessionError, match="what it is mounted on leads back to it"):
        open_shared(base / "other", TreeSpec((), None), 4, trees)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t.pop("keys"), id="RF7-no-keys"),
        pytest.param(lambda t: t.update(keys=t["keys"].flatten()), id="RF7-one-axis"),
        pytest.param(lambda t: t.update(values=t["values"][..., :1].contiguous()), id="narrow"),
        pytest.param(lambda t: t.update(logits=t["logits"].long()), id="integers"),
        pytest.param(lambda t: t.update(logits=t["logits"][:5].contiguous()), id="few-logits"),
        pytest.param(lambda t: t.update(more=torch.zeros(2)), id="one-more"),
        pytest.param(lambda t: t.clear(), id="none"),
    ],
)
def test_keys_that_can_not_be_are_read_again(tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """RF7: KeyError and IndexError. The sum of the file fits whatever is in it."""
    model = context_model(allocator="greedy")
    session = create_session(model, tmp_path / "s", trees)
    session.append(ids_of(9))
    logits = session.read()
    save_session(session, tmp_path / "s", trees)
    session.close()
    (path,) = (tmp_path / "s").glob("keys-*")
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))
    edit(tmp_path / "s/session.json", keys_sha256=file_sha256(path))
    again, _ = open_session(model, tmp_path / "s", trees)
    assert again.logits is None
    torch.testing.assert_close(again.read(), logits)
    again.close()


@pytest.mark.parametrize("run", [5, None, ["old"], "gone", "../old"])
def test_a_session_whose_notes_name_no_run_goes_by_its_model(base: Path, run: Any) -> None:  # RF7, BF19
    edit(base / "sessions/kept/session.json", notes={"run": run, "stage": 7})
    assert saved_model(SessionPlace("kept"), None) == ("old", "sft", base / CHECKPOINT)


def test_a_context_finds_the_run_that_made_it_not_the_newest(base: Path) -> None:  # RF12
    newer = base / "runs/newer"
    shutil.copytree(base / "runs/old", newer)
    checkpoint = newer / "checkpoints/sft/step_00000017"
    edit(checkpoint / META_FILE, tokens=1)
    write_sums(checkpoint)
    event = json.loads((newer / "events/rank0.jsonl").read_text().splitlines()[0])
    (newer / "events/launcher.jsonl").write_text(json.dumps(event | {"type": "run.start", "time": time.time()}) + "\n")
    assert saved_model(SessionPlace(None, str(base / "context")), None) == ("old", "sft", base / CHECKPOINT)


def test_an_unknown_token_is_refused_and_the_session_goes_on() -> None:  # RF16: each later read failed
    session = context_session()
    before, vocab_size = session.read(), session.model.gpt.config.vocab_size
    for token in (vocab_size, vocab_size + 5000, -1, 2**63):
        with pytest.raises(TreeError, match="token ids of this model"):
            session.append_token(token)
    assert session.tokens == 9
    session.refocus_next()
    torch.testing.assert_close(session.read(), before)
    session.append_token(vocab_size - 1)
    session.read()


def context_session() -> Any:
    from tests.support.sessions import new_session

    session = new_session(context_model(allocator="greedy"))
    session.append(ids_of(9))
    return session


def test_a_refocus_after_a_prompt_is_measured_from_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:  # RF16
    """Its residency is that when it begins: nothing of a first, long prompt was there; it was that afterwards."""
    from tests.support.sessions import new_session

    session = new_session(context_model(allocator="greedy"))
    session.append(ids_of(50 * W))
    session.read()
    (first,) = session.recent[0].measures
    assert first.residency == 0.0
    assert first.swap_rate > 0.0


# --- checkpoints: RF1, RF10 -------------------------------------------------------------------------------------------


def write_sums(path: Path) -> None:
    names = sorted(file.name for file in path.iterdir() if file.name != SUMS_FILE)
    (path / SUMS_FILE).write_text("".join(f"{file_sha256(path / name)}  {name}\n" for name in names))


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("model", "depth", 300_000),
        ("model", "depth", 1),
        ("model", "vocab_size", 10**9),
        ("model", "n_embd", 2**20),
    ],
)
def test_a_configuration_is_compared_before_anything_is_made(base: Path, section: str, field: str, value: int) -> None:
    """RF10: 300,000 layers were made before they were compared with the two that there are."""
    path = base / CHECKPOINT
    content = json.loads((path / META_FILE).read_text())
    content["config"][section][field] = value
    (path / META_FILE).write_text(json.dumps(content))
    write_sums(path)
    with pytest.raises(CheckpointError, match=rf"doesn't hold the model|{field}"):
        open_model(path)


@pytest.mark.parametrize("stored", [True, False])
def test_a_working_context_beyond_the_memory_is_refused(
    base: Path, capsys: pytest.CaptureFixture[str], stored: bool
) -> None:
    """RF10: an allocation of petabytes, asked for by a checkpoint or on the command line."""
    path = base / CHECKPOINT
    content = json.loads((path / META_FILE).read_text())
    if stored:
        content["config"]["megacontext"]["wc_length"] = 10**12
    (path / META_FILE).write_text(json.dumps(content))
    write_sums(path)
    asked = [] if stored else ["--wc-length", "1000000000000"]
    assert main(["chat", "old", "--mc", *asked, "-p", "hi", "--device", "cpu"]) == 2
    assert "wc_length" in capsys.readouterr().err


def test_a_stage_claims_no_step_without_its_checkpoint(base: Path) -> None:  # RF1: `finished` with an older model
    run = SimpleNamespace(run=RunDir(base / "runs/old"), stage="sft")
    check_saved(run, 17)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="reached step 18, and its newest complete checkpoint is step_00000017"):
        check_saved(run, 18)  # type: ignore[arg-type]
    (base / CHECKPOINT / SUMS_FILE).unlink()
    with pytest.raises(CheckpointError, match="its newest complete checkpoint is none"):
        check_saved(run, 17)  # type: ignore[arg-type]


# --- a run that goes on: BF1, BF19, BF4 -------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_with_no_other_corpus(
    new_run: Any, make_config: Any, in_process: Any, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    """BF1 from end to end: stopped, the corpus replaced, resumed; then put back, and it goes on."""
    from mccore.runtime.runtime import Stopped

    corpus = tmp_path / "mine.jsonl"
    shutil.copy(sources[0], corpus)
    run = new_run("changed", make_config(data={"corpus": f"jsonl:{corpus}"}, base={"tokens": 512 * 3}))
    in_process(run, "encode")
    run.request_stop()
    with pytest.raises(Stopped):
        in_process(run, "base")
    run.clear_stop()
    corpus.write_text('{"text": "other words"}\n{"text": "and others"}\n' * 40)
    with pytest.raises(InputChanged, match=r"the corpus.* has changed since this run began: .* was .*, is "):
        in_process(run, "base")
    shutil.copy(sources[0], corpus)
    assert in_process(run, "base")["step"] == 3


@pytest.mark.parametrize(
    ("outcome", "said", "unsaid"),
    [
        (
            Outcome("failed", "data", "mine.txt doesn't exist", "check the path"),
            "hint: check the path; then",
            "from the last",
        ),
        (Outcome("finished", "data"), "finished", "mccore chat"),
    ],
)
def test_the_end_of_a_run_is_told_in_words_that_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], outcome: Outcome, said: str, unsaid: str
) -> None:
    """BF19: a failed stage's own hint comes first; a run without a model isn't sent to a chat."""
    run = RunDir.create(tmp_path, "one", RunConfig(stages=("data",)))
    run.log_path("data").parent.mkdir()
    run.log_path("data").write_text("")
    run_command._say_outcome(run, outcome)
    told = "".join(capsys.readouterr())
    assert said in told
    assert unsaid not in told


class Impatient:
    """Presses Ctrl-C as soon as it hears that the ranks haven't met."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def event(self, event: Event) -> None: ...

    def tick(self) -> None: ...

    def notice(self, text: str) -> None:
        self.heard.append(text)
        if "haven't met" in text and len(self.heard) == 1:
            os.kill(os.getpid(), signal.SIGINT)


def test_ranks_that_do_not_meet_are_told_and_ctrl_c_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BF4: nothing was said for two hours, and two Ctrl-C and 20 s were needed."""
    config = RunConfig(stages=("base",), hardware={"nproc": 2}, telemetry=[])  # type: ignore[arg-type]
    run = RunDir.create(tmp_path, "alone", config)
    waits = [sys.executable, "-c", "import time; time.sleep(600)"]  # as torchrun does whose peers don't come
    monkeypatch.setattr(launcher, "MEET_SECONDS", 0.2)
    monkeypatch.setattr(launcher, "stage_command", lambda *_, **__: waits)
    listener = Impatient()
    began = time.monotonic()
    outcome = launcher.launch(run, listener=listener)
    assert (outcome.state, outcome.message) == ("stopped", "base was stopped before its ranks had met")
    assert listener.heard[0].startswith("base: 2 ranks haven't met after 0 s; Ctrl-C ends the wait")
    assert "nothing to save" in listener.heard[1]
    assert time.monotonic() - began < 60  # the wait itself is of ten minutes


# --- a base directory that isn't UTF-8: BF9 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs",),
        ("runs", "show", "old"),
        ("context", "info", "{base}/context"),
        ("context", "verify", "{base}/context"),
        ("chat", "old", "--no-mc", "-p", "hi", "--max-new-tokens", "2"),
        ("chat", "--session", "kept", "-p", "hi", "--max-new-tokens", "2"),
        ("chat", "--context", "{base}/context", "--session", "new", "-p", "hi", "--max-new-tokens", "2"),
    ],
    ids=lambda arguments: "-".join(arguments[:2]),
)
def test_a_base_directory_that_is_not_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """BF9: sound checkpoints were called damaged, with the advice to delete them."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/base\xe9"))
    shutil.copytree(WRITTEN, path)
    monkeypatch.setenv("MCCORE_BASE_DIR", str(path))
    code = main([argument.format(base=path) for argument in arguments])
    assert (code, "Traceback" in capfd.readouterr().err) == (0, False)
