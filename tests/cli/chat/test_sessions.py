"""`mccore chat` with sessions, as a user drives it: names that last, branches, what was seen, and what can't be."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mccore.cli import main
from mccore.config import MegaContextConfig, RunConfig
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.model import GPT
from mccore.runs.checkpoints import Meta
from mccore.runs.rundir import RunDir
from mccore.train.checkpoint.write import write_checkpoint

MEGACONTEXT = MegaContextConfig(
    enabled=True, block_size=4, wc_length=96, refocus_interval=8, train_wc_length=32, recent_tokens=16, horizon=8
)


def make_run(root: Path, name: str, gpt: GPT, tokenizer: Tokenizer, seed: int = 0) -> RunDir:
    """A run with MegaContext as training leaves it, its networks random."""
    config = RunConfig(model=gpt.config, megacontext=MEGACONTEXT)
    run = RunDir.create(root / "runs", name, config)
    tokenizer.save(run.tokenizer_dir)
    nets = MegaContextNets(config.megacontext, gpt.config, seed=seed)
    state = {f"model/gpt.{key}": tensor for key, tensor in gpt.state_dict().items()}
    state |= {f"model/mc.{key}": tensor for key, tensor in nets.state_dict().items()}
    for stage in ("base", "sft"):
        meta = Meta(stage, 7, 70, config.model_dump(mode="json"), tokenizer.fingerprint)
        write_checkpoint(run.checkpoint_dir(stage), state, meta)
    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Tokenizer, random_gpt: Callable[..., GPT]) -> Path:
    root = tmp_path_factory.mktemp("base")
    make_run(root, "other", random_gpt(1), byte_tokenizer, seed=1)
    make_run(root, "mc", random_gpt(), byte_tokenizer)
    os.utime(root / "runs" / "other" / "run.json", (1, 1))
    return root


@pytest.fixture
def chat(
    base: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(base))
    shutil.rmtree(base / "sessions", ignore_errors=True)

    def run(*args: str, lines: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        capfd.readouterr()
        code = main(["chat", "--device", "cpu", "--seed", "1", "--max-new-tokens", "12", *args])
        return code, *capfd.readouterr()

    return run


def test_a_session_goes_on_where_it_was_left(chat: Callable[..., tuple[int, str, str]], base: Path) -> None:
    assert chat("mc", "--session", "thesis", lines="one\ntwo\n")[0] == 0
    state = json.loads((base / "sessions" / "thesis" / "session.json").read_text())
    assert state["notes"] == {"run": "mc", "stage": "sft", "system": None}
    code, out, err = chat("--session", "thesis", "-p", "three", "--json")  # the session knows its run
    assert f"(session 'thesis': {state['tokens']:,} tokens of history)" in err
    record = json.loads(out)
    assert (code, record["run"], record["session"]) == (0, "mc", "thesis")
    assert record["context"]["tokens"] > state["tokens"]
    assert record["context"]["seen"][0][0] == 0
    # The same conversation without a break, sentence by sentence.
    _, unbroken, _ = chat("mc", "--json", lines="one\ntwo\n")
    _, again, _ = chat("mc", "--session", "again", "--json", lines="one\ntwo\n")
    assert [json.loads(x)["reply"] for x in unbroken.splitlines()] == [
        json.loads(x)["reply"] for x in again.splitlines()
    ]


def test_nothing_is_left_out_of_a_long_conversation(chat: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text("It was a dark and stormy night. " * 400)
    code, out, err = chat("mc", "--file", str(text), "--json", "-p", "what was it?")
    record = json.loads(out)
    assert code == 0
    assert "12,800 characters go with the next message" in err
    assert record["messages_left_out"] == record["tokens_left_out"] == 0
    assert record["context"]["tokens"] > 12_800
    assert record["context"]["entries"] <= 96
    assert record["context"]["seen"][-1][1] == pytest.approx(record["context"]["tokens"], abs=3)


def test_commands_of_sessions(chat: Callable[..., tuple[int, str, str]], base: Path) -> None:
    lines = f"{'word ' * 60}\n/cut\n/stats\n/sources\n/save\n/branch copy\nmore\n/save\n/clear\n/branch copy\n/branch\n/help\n"
    code, _, err = chat("mc", "--session", "first", lines=lines)
    assert code == 0
    for part in (
        "of 96 entries show 3",
        "oldest first",
        "refocuses: ",
        "(saved: ",
        "(going on in the session 'copy'; 'first' stays as it is)",
        "the session 'copy' keeps its history",
        "there is a session 'copy' already",
        "a name for the branch is missing",
        "/cut ",
    ):
        assert part in err
    tokens = {
        name: json.loads((base / "sessions" / name / "session.json").read_text())["tokens"]
        for name in ("first", "copy")
    }
    assert tokens["copy"] > tokens["first"] > 300
    code, _, err = chat("mc", lines="hello\n/save\n/branch kept\n/cut\n/clear\n")
    assert "this session has no name" in err
    assert "(going on in the session 'kept')" in err
    code, _, err = chat("mc", lines="hello\n/clear\n/cut\n")
    assert "(forgotten)" in err
    assert "the history is empty" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["mc", "--session", "a/b"], "'a/b' can't be the name of a session"),
        (["mc", "--session", ".."], "can't be the name of a session"),
        (["mc", "--session", "x", "--no-mc"], "--no-mc goes with a window"),
        (["mc", "--file", "/nowhere/x.txt"], "can't read /nowhere/x.txt"),
        (["mc", "--wc-length", "12"], "a Working Context of 12 entries is too small"),
        (["mc", "--search", "ngram"], "the allocator 'greedy' doesn't show what a search finds"),
        (["mc", "--search", "ngram", "--no-mc"], "--no-mc goes with a window"),
        (["mc", "--allocator", "nobodys"], "there is no allocator named 'nobodys'"),
        (["other", "--session", "mine"], "is of another model than this one"),
        (["mc", "--stage", "base", "--session", "mine"], "is of another model than this one"),
    ],
)
def test_errors_say_what_to_do(chat: Callable[..., tuple[int, str, str]], args: list[str], message: str) -> None:
    assert chat("mc", "--session", "mine", "-p", "hello")[0] == 0
    code, _, err = chat(*args, "-p", "hello")
    assert code != 0
    assert message in err
    assert "hint:" in err
    assert "Traceback" not in err


def test_a_search_finds_what_the_question_is_about(
    chat: Callable[..., tuple[int, str, str]], tmp_path: Path, base: Path
) -> None:
    words = np.random.default_rng(0).integers(97, 123, 6000).astype(np.uint8).tobytes().decode()
    secret = "THE HERON SLEEPS AT NOON. " * 3
    (tmp_path / "book.txt").write_text(words[:2000] + secret + words[2000:])
    said = ["mc", "--wc-length", "192", "--file", str(tmp_path / "book.txt"), "--allocator", "spans"]
    lines = "THE HERON SLEEPS\n/sources\n/stats\n"
    code, _, err = chat(*said, "--search", "ngram", "--session", "found", lines=lines)
    assert code == 0
    assert "nothing is searched" not in err
    assert "searched in spans of 64" in err
    found = [line for line in err.splitlines() if line.startswith("tokens ")]
    assert any("HERON" in line for line in found)
    start = (2000 + len("Here is a part of book.txt:")) // 64 * 64
    assert any(line.startswith(f"tokens {start:,} to") or f"to {start + 128:,}:" in line for line in found)
    _, _, err = chat("--session", "found", "--allocator", "spans", "--search", "ngram", lines="NOON. THE\n/sources\n")
    assert "HERON" in err.split("tokens of history)")[1]
    # Without a search it is a window, and says so once.
    code, _, err = chat(*said, "--search", "none", lines=lines)
    assert code == 0
    assert err.count("nothing is searched") == 1
    assert "saw nothing word for word but the newest tokens" in err
    assert "searched in spans" not in err
    assert "nothing is searched" not in chat("mc", "--search", "none", "-p", "hello")[2]


def test_a_session_open_elsewhere_and_a_damaged_one(chat: Callable[..., tuple[int, str, str]], base: Path) -> None:
    chat("mc", "--session", "mine", "-p", "hello")
    (base / "sessions" / "mine" / "session.json").write_text("{")
    code, _, err = chat("mc", "--session", "mine", "-p", "hello")
    assert code != 0
    assert "is damaged" in err


def test_a_model_without_megacontext_has_a_window(
    base: Path, chat: Callable[..., tuple[int, str, str]], byte_tokenizer: Tokenizer, random_gpt: Callable[..., GPT]
) -> None:
    from tests.cli.chat.test_command import make_run as make_plain

    make_plain(base, "plain", random_gpt(), byte_tokenizer)
    try:
        assert chat("plain", "-p", "hello", "--json")[0] == 0
        code, _, err = chat("plain", "--session", "x", "-p", "hello")
        assert code != 0
        assert "was trained without MegaContext" in err
        code, out, _ = chat("mc", "--no-mc", "-p", "hello", "--json")
        assert "context" not in json.loads(out)
    finally:
        shutil.rmtree(base / "runs" / "plain")


def test_a_chat_begins_with_a_context(chat: Callable[..., tuple[int, str, str]], tmp_path: Path, base: Path) -> None:
    (tmp_path / "notes.txt").write_text("the code word is heron. " * 40)
    context = str(tmp_path / "context")
    assert main(["context", "build", str(tmp_path / "notes.txt"), "--out", context, "--run", "mc"]) == 0
    built = json.loads((tmp_path / "context" / "session.json").read_text())["tokens"]
    for name in ("one", "two"):
        _, out, _ = chat("mc", "--context", context, "--session", name, "-p", "what is it?", "--json")
        assert json.loads(out)["context"]["tokens"] > built > 900
    assert (base / "sessions" / "one" / "tree" / "level-0.rows").stat().st_size < 4 * 200  # its own tokens alone
    _, out, err = chat("mc", "--session", "one", "-p", "again", "--json")
    assert json.loads(out)["context"]["tokens"] > built
    _, out, _ = chat("mc", "--context", "one", "-p", "and now?", "--json")  # a session is a context as well
    assert json.loads(out)["context"]["tokens"] > built
    code, _, err = chat("mc", "--session", "one", "--context", context, "-p", "x")
    assert code != 0
    assert "a context comes before everything that was said" in err
    code, _, err = chat("mc", "--context", str(tmp_path / "nowhere"), "-p", "x")
    assert code != 0
    assert "hint:" in err


def test_kill_9_in_an_answer_loses_no_question(base: Path, chat: Callable[..., tuple[int, str, str]]) -> None:
    chat("mc", "--session", "frail", "-p", "hello")
    before = json.loads((base / "sessions" / "frail" / "session.json").read_text())["tokens"]
    command = [sys.executable, "-m", "mccore", "chat", "mc", "--device", "cpu", "--session", "frail"]
    process = subprocess.Popen(
        [*command, "--temperature", "1", "--max-new-tokens", "100000", "-p", "a question " * 30],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    process.stdout.read(1)  # it has begun to answer
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, _, err = chat("mc", "--session", "frail", "-p", "are you there?")
    assert code == 0
    tokens = int(err.split("'frail': ")[1].split(" tokens")[0].replace(",", ""))
    assert tokens >= before + len("a question " * 30)


def test_settings_of_the_session_have_their_effect(base: Path) -> None:
    from mccore.runtime.open import open_model
    from mccore.runtime.sessions import Sessions, session_options

    (checkpoint,) = (base / "runs" / "mc" / "checkpoints" / "sft").glob("step_*")
    opened = open_model(checkpoint)

    def sessions(**flags: Any) -> Sessions:
        return opened.sessions(session_options(opened.config.megacontext, **flags))

    model = opened.sessions().model
    options = model.options
    assert (options.wc_length, options.refocus_interval, options.kv_policy) == (96, 8, "reuse")
    assert model.recent_tokens == 24  # a quarter, where the allocator asks for more
    changes = {"wc_length": 80, "refocus_interval": 4, "kv_policy": "exact", "surprise": 3.0}
    other = sessions(**changes).model.options
    assert {name: getattr(other, name) for name in changes} == changes
    sizes = {}
    for dtype in ("fp32", "bf16", "fp16", "int8"):
        session = sessions(gist_dtype=dtype).new()
        session.append(range(200))
        assert torch.isfinite(session.read()).all()
        sizes[dtype] = session.tree.backend.read(1, 0, 1).nbytes
    assert sizes["fp32"] == 2 * sizes["bf16"] == 2 * sizes["fp16"] > 3 * sizes["int8"]
    searching = sessions(allocator="spans", search="ngram", token_positions="contiguous", wc_length=192)
    session = searching.new()
    assert session.search is not None
    assert session.search.span == 64
    assert searching.model.nets.config.token_positions == "contiguous"
    assert model.nets.config.token_positions == "absolute"  # others of the same model stay as they are
    stochastic = sessions(allocator="stochastic_greedy", tree="disk")
    assert type(stochastic.model.allocator(2, 0).allocator).__name__ == "StochasticGreedyAllocator"
    assert stochastic.trees.memory.name == "ram"
    assert stochastic.trees.files.name == "disk"
    assert stochastic.in_files
    assert not opened.sessions().in_files
    assert stochastic.model.identity == model.identity
    assert stochastic.model.gpt is model.gpt
