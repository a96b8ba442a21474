"""`mccore chat --stream`: JSON lines in and out."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mccore.cli import main
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import CheckpointError
from mccore.model import GPT
from tests.cli.chat.test_command import make_run

Talk = Callable[..., tuple[int, list[dict[str, object]]]]


@pytest.fixture
def talk(
    tmp_path: Path,
    byte_tokenizer: Tokenizer,
    random_gpt: Callable[..., GPT],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Talk:
    """`talk(lines, *options)`: the exit code, and what was said."""
    make_run(tmp_path, "one", random_gpt(), byte_tokenizer)
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path))

    def talk(lines: list[str], *options: str) -> tuple[int, list[dict[str, object]]]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("".join(f"{x}\n" for x in lines).encode())))
        code = main(["chat", "one", "--device", "cpu", "--stream", "--max-new-tokens", "4", *options])
        return code, [json.loads(line) for line in capfd.readouterr().out.splitlines()]

    return talk


def test_an_answer_comes_in_pieces_and_then_whole(talk: Talk) -> None:
    code, said = talk(['{"message": "hello"}'])
    assert code == 0
    assert said[0]["type"] == "ready"
    assert (said[0]["run"], said[0]["step"], said[0]["megacontext"]) == ("one", 7, False)
    pieces = [each for each in said if each["type"] == "piece"]
    assert said[-1]["type"] == "answer"
    assert "".join(str(each["text"]) for each in pieces if each["part"] == "text") == said[-1]["reply"]
    assert said[-1]["new_tokens"] == 4
    assert "cut off after 4 tokens" in str(said[-1]["remarks"])


@pytest.mark.parametrize("line", ["nope", "3", '{"message": 3}', '{"message": " "}', "{}", "[" * 100_000])
def test_a_line_that_asks_nothing_is_told_and_the_next_is_answered(talk: Talk, line: str) -> None:
    code, said = talk([line, "", '{"message": "x"}'])
    assert code == 0
    assert [each["type"] for each in said if each["type"] != "piece"] == ["ready", "error", "answer"]
    assert said[1]["hint"]


def test_the_conversation_can_be_forgotten(talk: Talk) -> None:
    _, said = talk(['{"message": "hello"}', '{"new": true}', '{"message": "hello"}'])
    answers = [each for each in said if each["type"] == "answer"]
    assert [each["type"] for each in said if each["type"] in ("cleared", "answer")] == ["answer", "cleared", "answer"]
    assert answers[0]["prompt_tokens"] == answers[1]["prompt_tokens"]


def test_a_checkpoint_is_chosen_by_its_step(talk: Talk, capfd: pytest.CaptureFixture[str]) -> None:
    assert talk([], "--stage", "sft", "--step", "7")[1][0]["step"] == 7
    assert main(["chat", "one", "--stage", "sft", "--step", "8", "--stream"]) == CheckpointError.exit_code
    assert "no checkpoint of sft at step 8" in capfd.readouterr().err


def test_it_goes_with_no_other_way_to_speak(talk: Talk) -> None:
    assert talk([], "--json")[0] == 2
    assert talk([], "-p", "x")[0] == 2
