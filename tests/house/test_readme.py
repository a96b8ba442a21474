"""The commands of the README do what it says they do. Training is only planned here; `.ci/run` does it."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mccore.cli import main
from mccore.resolve.resolve import resolve
from mccore.runs.rundir import RunDir

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.model import GPT

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
PREFIX = "uv run mccore "
COMMANDS = [line.partition(" #")[0].strip() for block in BLOCKS for line in block.splitlines()]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Tokenizer, random_gpt: Callable[..., GPT]) -> Path:
    """A base directory with a run that has a model, and an older one, `mc`, with MegaContext."""
    from mccore.runs.checkpoints import Meta
    from mccore.train.checkpoint.write import write_checkpoint
    from tests.cli.chat.test_sessions import make_run

    root = tmp_path_factory.mktemp("readme")
    run = RunDir.create(root / "runs", "trained", resolve("tiny"))
    byte_tokenizer.save(run.tokenizer_dir)
    gpt = random_gpt()
    config = run.config.model_copy(update={"model": gpt.config}).model_dump(mode="json")
    state = {f"model/gpt.{name}": tensor for name, tensor in gpt.state_dict().items()}
    write_checkpoint(run.checkpoint_dir("sft"), state, Meta("sft", 1, 1, config, byte_tokenizer.fingerprint))
    make_run(root, "mc", gpt, byte_tokenizer)
    os.utime(root / "runs" / "mc" / "run.json", (1, 1))
    return root


@pytest.fixture
def held(base: Path) -> Iterator[None]:
    """The run is running."""
    run = RunDir.open("trained", base / "runs")
    with run.lock():
        yield
    run.clear_stop()


def test_the_first_two_commands_are_the_promised_ones_and_those_of_ci() -> None:
    assert [block.strip() for block in BLOCKS[:2]] == ["pip install uv && uv run mccore run tiny", "uv run pytest"]
    checked = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert any(line.endswith(" uv run mccore run tiny") for line in checked)
    assert "uv run pytest" in checked


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith(PREFIX)])
def test_every_other_command_works(
    command: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setenv("MCCORE_BASE_DIR", str(base))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text("some words of a text " * 20)
    (tmp_path / "notes.txt").write_text("buy milk")
    arguments = shlex.split(command.removeprefix(PREFIX))
    if "--session" in arguments:  # goes on with what the commands above it have begun
        for earlier in COMMANDS[: COMMANDS.index(command)]:
            if "--session" in earlier:
                assert main(shlex.split(earlier.removeprefix(PREFIX))) == 0
    if arguments[0] == "run" and "--dry-run" not in arguments:
        arguments.append("--dry-run")
    if arguments[:2] == ["runs", "stop"]:
        request.getfixturevalue("held")
    assert main(arguments) == 0


def test_a_run_is_named_before_it_is_used() -> None:
    """The fixture makes the runs that commands name, so it wouldn't notice that a reader has none of that name."""
    named, asked = set(), set()
    for words in (shlex.split(command.removeprefix(PREFIX)) for command in COMMANDS):
        if words[0] == "run" and "--name" in words:
            named.add(words[words.index("--name") + 1])
        elif words[0] == "chat" and len(words) > 1 and not words[1].startswith("-"):
            asked.add((words[1], words[1] in named))
    assert asked == {(name, True) for name in named}
    assert named


@pytest.mark.parametrize("command", re.findall(r"`mccore ([^`]+)`", (ROOT / "README.md").read_text(encoding="utf-8")))
def test_commands_in_the_text_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in shlex.split(command) if not word.isupper()]
    options = [word for word in words if word.startswith("--")]
    assert main([*(word for word in words if word not in options), "--help"]) == 0
    told = capsys.readouterr().out
    assert [option for option in options if option not in told] == []
