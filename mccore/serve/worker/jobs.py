"""What the worker is asked to do, each as small steps, so that no job keeps the others waiting.

A job's `steps` is a generator: what it does between two yields is one step, of some milliseconds. What waits for the disk it
yields as a call, `yield session.settle()`: that runs in a thread beside the loop, and the generator goes on with what it returned
or raised. Nothing else may use the session meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mccore.data.tokenizer.chat_format import render_turn
from mccore.errors import MccoreError
from mccore.generate.memory import begins_anew, closing, fit_window, prompt_room
from mccore.host.text import pieces_of
from mccore.serve.orders import Generate, Item
from mccore.serve.worker.shelf import Held, SessionAddress, Shelf

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.generate.engine import Engine
    from mccore.megacontext.sessions.session import Session

CHUNK = 1024  # tokens that go into a tree in one step
PIECE = 2**14  # characters that are encoded in one step

Report = Callable[..., None]  # report(kind, **fields): tells the server
Steps = Generator[Callable[[], Any] | None, Any, None]
Ending = Generator[Callable[[], Any] | None, Any, dict[str, Any]]


class Cancelled(MccoreError):
    """Whoever asked has gone."""


class Job:
    """What all jobs have. `report` tells the server of this job; `owner` is whose turn it takes among others'."""

    generate: Generate | None = None

    def __init__(self, number: int, owner: str, report: Report) -> None:
        self.number, self.owner, self.report = number, owner, report

    def steps(self) -> Steps:
        """Do it."""
        raise NotImplementedError

    def request(self) -> tuple[Sequence[int], Session | None]:
        """What the engine continues, once the steps are done: ids, or a session."""
        raise NotImplementedError

    def end(self) -> Ending:
        """The answer is over: steps that keep it, and return what the server should know of the history."""
        yield from ()
        return {}

    def close(self) -> None:
        """The job is over, however it ended."""


class SessionJob(Job):
    """Adds to a session's history, and lets the model answer from it."""

    def __init__(self, number: int, owner: str, report: Report, shelf: Shelf, place: SessionAddress) -> None:
        super().__init__(number, owner, report)
        self.shelf, self.place = shelf, place
        self.items: list[Item] = []
        self.opens_turn = False  # an assistant's turn begins behind the items
        self._held: Held | None = None

    @property
    def session(self) -> Session:
        """The session, once it is open."""
        assert self._held is not None
        return self._held.session

    def open(self) -> Steps:
        """Find the session, and say where it is and what it has."""
        self._held = yield from self.shelf.take(self.place)
        self.report("opened", state=self._held.state, tokens=self.session.tokens)

    def close(self) -> None:
        if self._held is not None:
            self._held = None
            self.shelf.give_back(self.place)

    def request(self) -> tuple[Sequence[int], Session | None]:
        return (), self.session


class SessionTurn(SessionJob):
    """Messages for a session, and an answer if one is wanted."""

    def __init__(self, *arguments: Any, tokenizer: Tokenizer) -> None:
        super().__init__(*arguments)
        self.tokenizer = tokenizer

    def steps(self) -> Steps:
        yield from self.open()
        yield None
        session, stops = self.session, []
        before = session.tokens
        if self.items:
            yield from self._append(self._beginning())
        system = ""
        for item in self.items:
            if item.kind == "system":
                system = f"{item.text}\n\n"
            else:
                yield from self._append(self._ids(item, system if item.kind == "user" else ""))
                system = "" if item.kind == "user" else system
            stops.append(session.tokens)
        if self.opens_turn and (self.items or closing(session, self.tokenizer) != [self._mark("assistant_end")]):
            yield from self._append(iter([[self._mark("assistant_start")]]))
            if stops:
                stops[-1] = session.tokens
        yield session.settle()
        self.report("read", before=before, stops=stops, tokens=session.tokens)

    def end(self) -> Ending:
        session = self.session
        seen = session.seen()
        if self.opens_turn:
            session.append(closing(session, self.tokenizer))
        yield session.settle()
        return {
            "tokens": session.tokens,
            "seen": seen,
            "entries": session.entries,
            "refocuses": session.refocuses,
            "entries_read": session.working_context.entries_read,
        }

    def _mark(self, name: str) -> int:
        return self.tokenizer.special(name)

    def _beginning(self) -> Iterator[list[int]]:
        """The marks that end what was left open, and begin a conversation where none has begun."""
        session = self.session
        if not self.opens_turn and all(item.kind in ("text", "ids") for item in self.items):
            yield [] if session.tokens else [self.tokenizer.bos_id]
            return
        yield closing(session, self.tokenizer) or (
            [self.tokenizer.bos_id] if begins_anew(session, self.tokenizer) else []
        )

    def _ids(self, item: Item, system: str) -> Iterator[list[int]]:
        """The tokens of an item, piece by piece. A text that fits one piece has those that rendering it whole gives."""
        if item.kind == "ids":
            yield item.ids
            return
        text = system + item.text
        if item.kind == "text":
            yield from (self.tokenizer.encode(piece) for piece in pieces_of(text, PIECE))
        elif len(text) <= PIECE:
            yield render_turn(self.tokenizer, item.kind, text).ids
        else:
            yield [self._mark(f"{item.kind}_start")]
            yield from (self.tokenizer.encode(piece) for piece in pieces_of(text, PIECE))
            yield [self._mark(f"{item.kind}_end")]

    def _append(self, pieces: Iterator[list[int]]) -> Steps:
        for ids in pieces:
            for start in range(0, len(ids), CHUNK):
                self.session.append(ids[start : start + CHUNK])
                yield None


class Upload(SessionJob):
    """A document for a session, whose text comes in pieces while it is read."""

    def __init__(self, *arguments: Any, tokenizer: Tokenizer, name: str) -> None:
        super().__init__(*arguments)
        self.tokenizer, self.name = tokenizer, name
        self.texts: deque[str] = deque()
        self.complete = False
        self.waits = False  # the next step has nothing to do

    def steps(self) -> Steps:
        yield from self.open()
        yield None
        session = self.session
        before = session.tokens
        session.append([*closing(session, self.tokenizer), self.tokenizer.bos_id])
        session.append(self.tokenizer.encode(f"File: {self.name}\n\n"))
        self.report("wants")
        while True:
            while not self.texts:
                if self.complete:
                    yield session.settle()
                    self.report("read", before=before, stops=[session.tokens], tokens=session.tokens)
                    return
                self.waits = True
                yield None
                self.waits = False
            for piece in pieces_of(self.texts.popleft(), PIECE):
                ids = self.tokenizer.encode(piece)
                for start in range(0, len(ids), CHUNK):
                    session.append(ids[start : start + CHUNK])
                    yield None
            self.report("wants", tokens=session.tokens - before)


class Look(SessionJob):
    """What a session's Working Context shows, or some of its text."""

    def __init__(self, *arguments: Any, tokenizer: Tokenizer, span: tuple[int, int] | None) -> None:
        super().__init__(*arguments)
        self.tokenizer, self.span = tokenizer, span

    def steps(self) -> Steps:
        yield from self.open()
        session = self.session
        if self.span is not None:
            start, stop = (min(edge, session.tokens) for edge in self.span)
            text = self.tokenizer.decode(session.ids(start, stop).tolist())
            self.report("text", start=start, stop=stop, text=text)
        else:
            from mccore.megacontext.sessions.seen import runs_of

            runs = runs_of(session.focus.cut)
            self.report(
                "cut",
                tokens=session.tokens,
                covered=session.covered,
                entries=session.entries,
                budget=session.model.options.wc_length,
                refocuses=session.refocuses,
                runs=[
                    list(run) for run in zip(runs.start.tolist(), runs.stop.tolist(), runs.level.tolist(), strict=True)
                ],
            )
        yield None


class WindowTurn(Job):
    """An answer from a window: for models without MegaContext. `items` are the whole conversation, or one text."""

    def __init__(self, number: int, owner: str, report: Report, engine: Engine, items: list[Item]) -> None:
        super().__init__(number, owner, report)
        self.engine, self.items = engine, items
        self._ids: list[int] = []

    def steps(self) -> Steps:
        assert self.generate is not None
        tokenizer, size = self.engine.tokenizer, self.engine.max_tokens
        if self.generate.plain:
            (item,) = self.items
            self._ids = item.ids if item.kind == "ids" else [tokenizer.bos_id, *tokenizer.encode(item.text)]
        else:
            system = next((item.text for item in self.items if item.kind == "system"), None)
            messages = [{"role": item.kind, "content": item.text} for item in self.items if item.kind != "system"]
            room = prompt_room(size, self.generate.max_tokens)
            self._ids = fit_window(tokenizer, system, messages, room).ids  # type: ignore[arg-type]
        self.report("read", before=0, stops=[], tokens=len(self._ids))
        yield None

    def request(self) -> tuple[Sequence[int], Session | None]:
        return self._ids, None


class TextTurn(SessionTurn):
    """A text of any length that goes on, in a session of its own that nobody keeps."""

    def __init__(self, number: int, owner: str, report: Report, session: Session, tokenizer: Tokenizer) -> None:
        Job.__init__(self, number, owner, report)
        self.items, self.opens_turn, self.tokenizer = [], False, tokenizer
        self._held = Held(session, "")

    def open(self) -> Steps:
        """It is open."""
        yield from ()

    def close(self) -> None:
        if self._held is not None:
            self._held.session.close()
            self._held = None
