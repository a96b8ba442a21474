"""Tasks of other packages: in mixtures, evaluations and rewards as our own, and blamed where they are at fault."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from mccore.data.tokenizer.reply import Piece
from mccore.errors import PluginError
from mccore.tasks import plugged
from mccore.tasks.catalogue import benchmark_names, mix_conversations, open_free_task, open_task, task_names
from mccore.tasks.task import LikelihoodRequest, OptionScore, Response

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
HEAD = """
    from mccore.api import Extension, Question
    from mccore.hookspecs import hookimpl
    class Task:
        def __init__(self, options, spec): self.directory = spec.directory
        def score(self, question, said): return SCORE
        def questions(self):
            return QUESTIONS
    @hookimpl
    def mccore_task(): return Extension(build=Task, summary="mine")
"""
FREE = "[Question(str(n), f'{n} + 1?', str(n + 1), kind='sum') for n in range(60)]"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`install(name, questions, score)`: a distribution with one task; `source` in place of these."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "home"))
    plugged._read.cache_clear()

    def install(
        name: str, questions: str = FREE, score: str = "float(said == question.answer)", source: str = ""
    ) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)  # another test's
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[mccore.tasks]\n{name} = {name}\n")
        text = source or dedent(HEAD).replace("QUESTIONS", questions).replace("SCORE", score)
        (site / f"{name}.py").write_text(text)

    return install


def said(text: str) -> Response:
    return Response(parts=(Piece("text", text),))


def test_the_page_is_true(install: Callable[..., None]) -> None:
    """The code of docs/benchmarks.md, installed as the page says."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == 1
    install("capitals_of_the_page", source=code[0])
    task = open_free_task("capitals_of_the_page")
    requests = {request.id: request for split in ("train", "val", "test") for request in _all(task, split)}
    request = requests["capitals_of_the_page/Peru"]
    assert request.right_reply == "The capital of Peru is Lima."
    assert task.judge(request, said("It is lima!")).reward == 1
    assert task.judge(request, said("Quito")).reward == 0


def _all(task: object, split: str) -> list:
    try:
        return list(task.requests(split))  # type: ignore[attr-defined]
    except PluginError:
        return []  # ten questions are few for three splits


def test_a_free_task_in_all_three_uses(install: Callable[..., None]) -> None:
    install("plus_one")
    assert "plus_one" in task_names()
    assert benchmark_names(["plus_one"]) == ("plus_one",)
    task = open_free_task("plus_one")
    splits = {split: {made["id"] for made in task.conversations(split, seed=1)} for split in ("train", "val", "test")}
    assert sum(map(len, splits.values())) == len(set().union(*splits.values())) == 60
    assert all(splits.values())
    assert splits["test"] == {request.id for request in task.requests("test", seed=9)}
    mixed = mix_conversations({"plus_one": 7, "arithmetic": 3}, "train", seed=0)
    assert sum(made["id"].startswith("plus_one/") for made in mixed) == 7
    (request, *_) = task.requests("test", limit=1)
    assert request.kind == "sum"
    assert (task.judge(request, said(request.answer)).reward, task.judge(request, said("?")).reward) == (1, 0)
    assert task.fingerprint() == open_task("plus_one").fingerprint()


def test_choices_are_answered_by_letter(install: Callable[..., None]) -> None:
    install("choose", "[Question(str(n), f'{n} + 1?', str(n + 1), choices=('x', str(n + 1), 'y')) for n in range(60)]")
    task = open_task("choose")
    (request, *_) = task.requests("test", limit=1)
    assert isinstance(request, LikelihoodRequest)
    assert [option.reply for option in request.options] == ["A", "B", "C"]
    scores = tuple(OptionScore(logprob, 1) for logprob in (-3.0, -1.0, -2.0))
    assert task.judge(request, Response(options=scores)).reward == 1
    assert task.conversations("test", limit=1)[0]["messages"][-1]["content"] == "B"


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ("[]", "it has no questions"),
        ("[('a', 'b')]", "object of type tuple instead of a Question"),
        ("[Question('1', '', 'a')]", "lacks its id, its text or its answer"),
        ("[Question('1', 'a?', 5)]", "lacks its id, its text or its answer"),
        ("[Question('1', 'a?', 'b'), Question('1', 'c?', 'd')]", "two of its questions have one id"),
        ("[Question('1', 'a?', 'b', choices=('x', 'y'))]", "isn't one of at most 26 choices"),
        ("[Question('1', 'a?', 'b', choices=('b', 'y')), Question('2', 'c?', 'd')]", "have choices and others none"),
        ("1 / 0", "failed while its questions were read: .*ZeroDivisionError"),
        ("exit(3)", "failed while its questions were read: .*SystemExit"),
    ],
)
def test_faults_are_told_with_the_package(install: Callable[..., None], questions: str, message: str) -> None:
    install("faulty_task", questions)
    with pytest.raises(PluginError, match=message) as error:
        open_task("faulty_task")
    assert error.value.blame is not None
    assert error.value.blame.distribution == "faulty_task-dist"


@pytest.mark.parametrize(
    ("score", "message"),
    [("7", "score is 7, not a number"), ("None", "score is None"), ("{}[1]", "a reply was judged: .*KeyError")],
)
def test_scores_that_are_none(install: Callable[..., None], score: str, message: str) -> None:
    install("scores", score=score)
    task = open_free_task("scores")
    with pytest.raises(PluginError, match=message):
        task.judge(task.requests("train", limit=1)[0], said("x"))


def test_a_name_of_ours_stays_ours(install: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    from mccore.cli import main
    from mccore.tasks.stdlib.arithmetic import Arithmetic

    install("arithmetic")
    assert isinstance(open_task("arithmetic"), Arithmetic)
    assert main(["plugins", "--check"]) == 1
    assert "mccore itself has a task of this name" in capsys.readouterr().out
    assert main(["plugins", "new", "task", "gsm8k"]) == 2
    assert "exists already, in mccore itself" in capsys.readouterr().err
