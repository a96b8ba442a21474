"""Jobs side by side: each gets what it would get alone, whatever else is read or fails meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
import torch

from mccore.config import Choice
from mccore.data.tokenizer.chat_format import render_conversation
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.generate.engine import Engine
from mccore.megacontext.focus.state import FocusError
from mccore.model import GPT
from mccore.runtime.sessions import Sessions, TreeBuilder
from mccore.serve.orders import Generate, Item
from mccore.serve.worker.jobs import SessionTurn, Upload, WindowTurn
from mccore.serve.worker.loop import Loop
from mccore.serve.worker.shelf import Held, SessionAddress, Shelf, Tail
from tests.generate.test_memory import context_model

HOW = Generate(temperature=0.8, top_k=0, top_p=0.95, max_tokens=12, seed=3)


class AtOnce(Executor):
    """Does what it is given where it is given it, so that steps are the same every time."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future


def taken(shelf: Shelf, address: SessionAddress) -> Held:
    """A session from the shelf, its steps done here."""
    steps = shelf.take(address)
    try:
        work = next(steps)
        while True:
            work = steps.send(work() if work is not None else None)
    except StopIteration as stop:
        held: Held = stop.value
        return held


class Bench:
    """A loop over sessions in a folder, and what it reported."""

    def __init__(
        self,
        folder: Path,
        gpt: GPT,
        tokenizer: Tokenizer,
        *,
        most: int = 2,
        rows: int = 8,
        threads: Executor | None = None,
    ) -> None:
        trees = TreeBuilder(Choice(name="disk", options={"fsync": False}))
        self.folder, self.tokenizer = folder, tokenizer
        self.shelf = Shelf(Sessions(context_model(gpt), trees), None, most=most, most_bytes=2**30)
        self.loop = Loop(Engine(gpt, tokenizer), most_rows=rows, threads=threads or AtOnce())
        self.told: dict[int, list[dict[str, Any]]] = {}
        self._number = 0

    def address(self, name: str, tokens: int | None = None, **more: Any) -> SessionAddress:
        return SessionAddress(
            session=name, root=self.folder / name, state=more.pop("state", "1"), spare="9", tokens=tokens, **more
        )

    def start(self, kind: Any, address: SessionAddress, **more: Any) -> int:
        self._number += 1
        number = self._number
        told = self.told.setdefault(number, [])
        job = kind(
            number,
            address.session[:1],
            lambda what, **fields: told.append({"kind": what, **fields}),
            self.shelf,
            address,
            tokenizer=self.tokenizer,
            **more,
        )
        self._job = job
        return number

    def say(self, address: SessionAddress, text: str | None, how: Generate | None = HOW) -> int:
        number = self.start(SessionTurn, address)
        self._job.items = [] if text is None else [Item(kind="user", text=text)]
        self._job.generate, self._job.opens_turn = how, how is not None
        self.loop.add(self._job)
        return number

    def upload(self, address: SessionAddress, texts: list[str]) -> int:
        number = self.start(Upload, address, name="book.txt")
        self._job.texts.extend(texts)
        self._job.complete = True
        self.loop.add(self._job)
        return number

    def run(self) -> None:
        while self.loop.busy:
            self.loop.step()

    def ids(self, number: int) -> list[int]:
        return [each for frame in self.told[number] if frame["kind"] == "said" for each in frame["ids"]]

    def last(self, number: int) -> dict[str, Any]:
        return self.told[number][-1]


@pytest.fixture
def bench(tmp_path: Path, random_gpt: Callable[..., GPT], byte_tokenizer: Tokenizer) -> Callable[..., Bench]:
    def make(name: str = "all", **options: Any) -> Bench:
        return Bench(tmp_path / name, random_gpt(), byte_tokenizer, **options)

    return make


def question(name: str, turn: int) -> str:
    return f"{name} {turn} " + "ask " * (7 * (ord(name[0]) % 5) + turn)


def test_many_at_once_get_what_each_gets_alone_beside_an_upload(bench: Callable[..., Bench]) -> None:
    names, turns = [f"{letter}{letter}" for letter in "abcdef"], 3
    together, alone = bench("together", most=2), bench("alone", most=0)
    tokens: dict[str, int | None] = dict.fromkeys(names)
    said: dict[tuple[str, int], list[int]] = {}
    book = together.upload(together.address("book"), ["some words of a long text\n" * 60] * 3)
    for turn in range(turns):
        numbers = {name: together.say(together.address(name, tokens[name]), question(name, turn)) for name in names}
        while together.loop.busy and any(number in together.loop.jobs for number in numbers.values()):
            together.loop.step()
        for name, number in numbers.items():
            said[name, turn] = together.ids(number)
            tokens[name] = together.last(number)["tokens"]
    together.run()
    assert together.last(book)["kind"] == "done"
    assert len(together.shelf) <= 2
    for name in names:
        count = None
        for turn in range(turns):
            number = alone.say(alone.address(name, count), question(name, turn))
            alone.run()
            assert alone.ids(number) == said[name, turn], (name, turn)
            count = alone.last(number)["tokens"]


def test_the_history_is_the_conversation_as_it_is_trained(bench: Callable[..., Bench]) -> None:
    here = bench()
    number = here.say(here.address("x"), "hello")
    here.run()
    session = taken(here.shelf, here.address("x")).session
    text = here.tokenizer.decode(here.ids(number))
    whole = render_conversation(
        here.tokenizer, [{"role": "user", "content": "hello"}, {"role": "assistant", "content": ""}]
    )
    told = session.ids(0, session.tokens).tolist()
    assert told == [*whole.ids[:-1], *here.ids(number), whole.ids[-1]], text


def test_a_long_message_has_the_tokens_of_a_short_one(bench: Callable[..., Bench]) -> None:
    here = bench()
    text = "\n".join(f"line {number} of a long text" for number in range(900))
    number = here.say(here.address("x"), text)
    here.run()
    session = taken(here.shelf, here.address("x")).session
    read = next(frame for frame in here.told[number] if frame["kind"] == "read")
    whole = render_conversation(here.tokenizer, [{"role": "user", "content": text}]).ids
    assert session.ids(0, read["tokens"] - 1).tolist() == whole


def test_a_history_is_cut_back_to_what_counts_and_a_lost_answer_comes_again(bench: Callable[..., Bench]) -> None:
    here = bench()
    first = here.say(here.address("x"), "hello")
    here.run()
    read, done = here.told[first][1]["tokens"], here.last(first)["tokens"]
    again = here.say(here.address("x", read), None)  # the same question once more
    here.run()
    assert here.ids(again) == here.ids(first)
    assert here.told[again][0] == {"kind": "opened", "state": "9", "tokens": read}
    here.shelf.forget("x")
    tail = Tail(start=read, ids=[*here.ids(first), here.tokenizer.special("assistant_end")])
    held = taken(here.shelf, here.address("x", done, tail=tail, state="1"))
    assert held.session.tokens == done
    with pytest.raises(Exception, match="has lost tokens"):
        taken(here.shelf, here.address("x", done + 5))


@pytest.mark.parametrize("what", ["advance", "append_token"])
@pytest.mark.parametrize("others", [("good", "fine"), ("good",)])
def test_who_fails_fails_alone(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, what: str, others: tuple[str, ...]
) -> None:
    here, alone = bench("here"), bench("alone")
    long = HOW.model_copy(update={"max_tokens": 40})
    names = (others[0], "bad", *others[1:])
    numbers = {name: here.say(here.address(name), f"{name} " * 18, long) for name in names}
    while min(len(here.ids(number)) for number in numbers.values()) < 6:
        here.loop.step()
    bad = taken(here.shelf, here.address("bad")).session

    def fail(*_: object) -> torch.Tensor:
        raise FocusError("scores are not numbers")

    monkeypatch.setattr(bad, what, fail)
    here.run()
    assert here.last(numbers["bad"]) == {
        "kind": "error", "status": 500, "code": "session_failed", "message": "scores are not numbers", "hint": None
    }  # fmt: skip
    for name in others:
        assert here.last(numbers[name])["kind"] == "done"
        single = alone.say(alone.address(name), f"{name} " * 18, long)
        alone.run()
        assert here.ids(numbers[name]) == alone.ids(single)
        assert here.last(numbers[name])["tokens"] == alone.last(single)["tokens"]
    monkeypatch.undo()
    again = here.say(here.address("bad"), "once more")  # what failed can be tried again
    here.run()
    assert here.last(again)["kind"] == "done"


def test_what_fails_for_all_ends_all(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    here = bench()
    numbers = [here.say(here.address(name), "hello", HOW) for name in ("one", "two")]
    while min(len(here.ids(number)) for number in numbers) < 3:
        here.loop.step()

    def fail(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(here.shelf.sessions.model.gpt, "hidden", fail)
    here.run()
    assert [here.last(number)["code"] for number in numbers] == ["internal_error"] * 2
    monkeypatch.undo()
    again = here.say(here.address("one"), "once more")
    here.run()
    assert here.last(again)["kind"] == "done"


def test_a_cancelled_answer_keeps_what_was_said(bench: Callable[..., Bench]) -> None:
    here = bench()
    number = here.say(here.address("x"), "hello", HOW.model_copy(update={"max_tokens": 1000}))
    while len(here.ids(number)) < 5:
        here.loop.step()
    here.loop.cancel(number)
    here.run()
    done = here.last(number)
    session = taken(here.shelf, here.address("x")).session
    assert (done["kind"], done["finish"], done["tokens"]) == ("done", "cancelled", session.tokens)
    said = here.ids(number)
    assert session.ids(0, session.tokens).tolist()[-len(said) - 1 : -1] == said
    assert not here.loop.busy


def test_sessions_that_are_put_away_come_back(bench: Callable[..., Bench]) -> None:
    here, open_ = bench("away", most=0), bench("open", most=9)
    for each in (here, open_):
        each.run()
    counts: dict[str, int | None] = {"here": None, "open": None}
    for turn in range(3):
        for name, each in (("here", here), ("open", open_)):
            number = each.say(each.address("x", counts[name]), f"question {turn} " * 20)
            each.run()
            counts[name] = each.last(number)["tokens"]
        assert here.ids(turn + 1) == open_.ids(turn + 1)
    assert (len(here.shelf), len(open_.shelf)) == (0, 1)
    assert open_.shelf.close() == []


def test_a_model_without_gists_answers_from_its_window(
    random_gpt: Callable[..., GPT], byte_tokenizer: Tokenizer
) -> None:
    engine = Engine(random_gpt(), byte_tokenizer)
    loop = Loop(engine, most_rows=4)
    told: dict[int, list[dict[str, Any]]] = {}
    talk = [
        Item(kind="system", text="be brief"),
        *(Item(kind=role, text="words " * 9) for role in ("user", "assistant", "user")),
    ]
    kinds = [
        (talk, HOW),
        ([Item(kind="text", text="once")], HOW.model_copy(update={"plain": True})),
        ([Item(kind="text", text="x" * 500)], HOW.model_copy(update={"plain": True})),
    ]
    for number, (items, how) in enumerate(kinds):
        frames = told.setdefault(number, [])
        job = WindowTurn(
            number, "me", lambda kind, frames=frames, **more: frames.append({"kind": kind, **more}), engine, items
        )
        job.generate = how
        loop.add(job)
    while loop.busy:
        loop.step()
    assert [told[number][-1]["kind"] for number in told] == ["done", "done", "error"]
    assert told[0][0]["tokens"] < engine.max_tokens
    assert (told[2][-1]["status"], told[2][-1]["code"]) == (400, "context_length_exceeded")


class Disk(Executor):
    """A disk that is slow: what it is given is done when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            done = AtOnce().submit(work, *arguments, **named)
            if (error := done.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result())

        self.waiting.append(run)
        return future

    def turn(self) -> None:
        """Do all that waits."""
        waiting, self.waiting = self.waiting, []
        for run in waiting:
            run()


def test_a_slow_disk_delays_nobody_else(bench: Callable[..., Bench]) -> None:
    disk = Disk()
    here, alone = bench("here", threads=disk), bench("alone")
    long = HOW.model_copy(update={"max_tokens": 60})
    first = here.say(here.address("first"), "hello", long)
    while not here.ids(first):  # opened, then kept
        here.loop.step()
        disk.turn()
    second = here.say(here.address("second"), "hello", long)
    while here.loop.counts["running"]:  # the disk doesn't move
        here.loop.step()
    assert here.told[second] == []
    assert here.last(first)["kind"] == "said"  # all of it, and nobody was told yet that it is kept
    while here.loop.busy:
        disk.turn()
        here.loop.step()
    single = alone.say(alone.address("x"), "hello", long)
    alone.run()
    for number in (first, second):
        assert here.last(number)["kind"] == "done"
        assert here.ids(number) == alone.ids(single)


def test_two_jobs_open_a_session_once(bench: Callable[..., Bench]) -> None:
    disk = Disk()
    here = bench("here", threads=disk)
    jobs = [here.upload(here.address("x"), ["some words\n"]) for _ in range(2)]
    while here.loop.busy:
        here.loop.step()
        disk.turn()
    assert [here.last(job)["kind"] for job in jobs] == ["done", "done"]
    assert len(here.shelf) == 1


@pytest.mark.parametrize("turns", range(3))
def test_cancelled_while_the_disk_is_waited_for(bench: Callable[..., Bench], turns: int) -> None:
    """Before it is open, before the question is kept, and before the answer is: which was all said, and is kept."""
    disk = Disk()
    here = bench("here", threads=disk)
    number = here.say(here.address("x"), "hello", HOW)
    for turn in range(turns + 1):
        if turn:
            disk.turn()
        while not disk.waiting:
            here.loop.step()
    threading.Timer(0.05, disk.turn).start()  # cancelling waits for a session that is being opened
    here.loop.cancel(number)
    while here.loop.busy:
        here.loop.step()
        disk.turn()
    last = here.last(number)
    assert last["kind"] == ("error" if turns < 2 else "done")
    assert last.get("code", "stop") in ("cancelled", "stop")
    again = here.say(here.address("x"), "once more")  # it isn't locked by what was cancelled
    while here.loop.busy:
        here.loop.step()
        disk.turn()
    assert here.last(again)["kind"] == "done"
