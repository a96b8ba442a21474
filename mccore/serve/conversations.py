"""Everything that can be done with conversations, for the HTTP side: begun, matched, answered, branched, looked at, deleted."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from mccore.serve.exchanges import Exchange, Refused
from mccore.serve.frames import Frame
from mccore.serve.ledger.dialogues import Dialogue, Dialogues, Utterance, title_of
from mccore.serve.ledger.journal import Record, append_records, read_records
from mccore.serve.link import Overloaded, WorkerGone, WorkerLink
from mccore.serve.orders import Generate

MOST_PASSAGE = 4096  # tokens of a history that are shown at once


class Conversations:
    """The conversations of one model. most_kept: on disk; of those made for requests without one, the oldest make room."""

    def __init__(
        self, link: WorkerLink, dialogues: Dialogues, *, most_kept: int, on_end: Callable[[Exchange], None]
    ) -> None:
        self.link, self.dialogues, self.most_kept, self.on_end = link, dialogues, most_kept, on_end

    @property
    def lasting(self) -> bool:
        """Whether conversations have sessions: a model without MegaContext has a window."""
        return bool(self.link.info.get("megacontext"))

    def get(self, name: str, owner: str) -> Dialogue:
        """A conversation of this owner. Raises Refused where there is none."""
        dialogue = self.dialogues.get(name, owner)
        if dialogue is None:
            raise Refused(404, "session_not_found", f"there is no session {name[:64]!r}", param="session_id")
        return dialogue

    async def create(
        self,
        owner: str,
        *,
        title: str = "",
        system: str | None = None,
        kept: bool = True,
        base: tuple[Dialogue, int] | None = None,
    ) -> Dialogue:
        """A new conversation. system: what goes before its first message; base: the first messages of another one.

        Raises Refused where there are too many, RunError.
        """
        await self._make_room(kept)
        dialogue = self.dialogues.new(owner, kept=kept)
        begin: Record = {"type": "conversation", "v": 1, "owner": owner, "title": title, "kept": kept}
        records = [begin]
        if system:
            records.append({"type": "system", "text": system})
        if base is not None:
            other, count = base
            begin["parent"] = other.id
            if self.lasting and count:
                begin["source"] = [other.id, other.marks[count - 1].stop]
            begin["title"] = title or other.title
            records += (await self.messages(other))[:count]
            for record in records:
                record.pop("ids", None)  # they are in the history by now
        begin["time"] = round(time.time(), 3)
        try:
            await asyncio.to_thread(append_records, dialogue.root, records)
        except BaseException:
            self.dialogues.remove(dialogue)
            raise
        for record in records:
            dialogue.apply(record)
        self.dialogues.index(dialogue)
        return dialogue

    async def branch(self, dialogue: Dialogue, count: int, title: str = "") -> Dialogue:
        """A conversation of its own that begins with the first `count` messages. Raises Refused, WorkerGone."""
        if not 0 <= count <= len(dialogue.marks):
            raise Refused(400, "invalid_value", f"the session has {len(dialogue.marks)} messages", param="at")
        count = _before_system(dialogue, count)
        made = await self.create(dialogue.owner, title=title, base=(dialogue, count))
        if made.source is not None:
            try:
                # Its history is made now: what it branches from may be deleted.
                exchange = await self._exchange(
                    made, {"order": "turn", "items": [], "owner": made.owner}, answers=False
                )
                await exchange.whole()
            except BaseException:
                await self.delete(made)
                raise
        return made

    async def reply(self, dialogue: Dialogue, messages: Sequence[Utterance], how: Generate) -> Exchange:
        """Add messages, the last of them the user's, and let the model answer; without any, the last one again."""
        if not messages and (not dialogue.marks or dialogue.marks[-1].role != "user"):
            raise Refused(400, "nothing_to_answer", "the last message of the session isn't the user's", param="content")
        system = dialogue.pending_system
        if system is not None and messages and messages[0].role != "system":
            messages = [Utterance("system", system), *messages]
        items = [{"kind": each.role, "text": each.text} for each in messages]
        if not self.lasting:
            before = [Utterance(each["role"], each["text"]) for each in await self.messages(dialogue)]
            items = [{"kind": each.role, "text": each.text} for each in [*before, *messages] if each.role != "file"]
        if not self.link.info.get("chat"):
            how = how.model_copy(update={"plain": True})
        order = {"order": "turn", "owner": dialogue.owner, "items": items, "generate": how.model_dump()}
        return await self._exchange(dialogue, order, [(each, {}) for each in messages])

    async def upload(self, dialogue: Dialogue, name: str) -> Exchange:
        """Begin to take a document into the history; its text goes to the job of the exchange."""
        if not self.lasting:
            raise Refused(
                400,
                "no_megacontext",
                "a model without MegaContext has no history to take a file into",
                hint="put the text into a message",
            )
        order = {"order": "upload", "owner": dialogue.owner, "name": name}
        return await self._exchange(dialogue, order, [(Utterance("file", name), {})], answers=False)

    async def complete(self, owner: str, item: Frame, how: Generate) -> Exchange:
        """Let a text go on that belongs to no conversation."""
        order = {"order": "text_turn", "owner": owner, "items": [item], "generate": how.model_dump()}
        exchange = Exchange(self.link, order, on_end=self.on_end)
        await exchange.begin()
        return exchange

    async def look(self, dialogue: Dialogue, span: tuple[int, int] | None = None) -> Frame:
        """The Working Context, or the text of tokens `[start, stop)`. Raises Refused, WorkerGone."""
        if not self.lasting:
            raise Refused(400, "no_megacontext", "a model without MegaContext has no Working Context")
        if dialogue.tokens is None:
            return {"kind": "cut", "tokens": 0, "covered": 0, "entries": 0, "budget": 0, "refocuses": 0, "runs": []}
        if span is not None and not 0 <= span[0] <= span[1] <= span[0] + MOST_PASSAGE:
            raise Refused(400, "invalid_value", f"start and stop lie up to {MOST_PASSAGE} tokens apart", param="stop")
        busy = dialogue.running is not None
        place = dialogue.place(self.dialogues, whole=not busy)
        order = {"order": "look", "owner": dialogue.owner, "place": place, "span": span}
        if busy:
            exchange = Exchange(self.link, order, answers=False)
            await exchange.begin()
        else:
            exchange = await self._exchange(dialogue, {**order}, answers=False)
        return await exchange.whole()

    async def messages(self, dialogue: Dialogue) -> list[Record]:
        """What was said, from the journal. Raises Refused where it can't be read."""
        try:
            records = await asyncio.to_thread(lambda: list(read_records(dialogue.root)))
        except OSError as error:
            raise Refused(
                500, "session_damaged", f"the journal of {dialogue.id} can't be read: {error.strerror}"
            ) from error
        return [record for record in records if record["type"] == "message"]

    async def rename(self, dialogue: Dialogue, title: str) -> None:
        """Give a conversation a title. Raises RunError."""
        record: Record = {"type": "title", "title": title_of(title), "time": round(time.time(), 3)}
        await asyncio.to_thread(append_records, dialogue.root, [record])
        dialogue.apply(record)

    async def delete(self, dialogue: Dialogue) -> None:
        """Remove a conversation and its files; an answer that is on its way ends."""
        self.dialogues.remove(dialogue)
        running = dialogue.running
        if isinstance(running, Exchange):
            await running.cancel()
            await running.settled()
        with contextlib.suppress(WorkerGone, Overloaded):
            job = await self.link.begin({"order": "forget", "session": dialogue.id})
            await job.next()
        await asyncio.to_thread(shutil.rmtree, dialogue.root, ignore_errors=True)

    async def settled(self) -> None:
        """Wait until all that is going on is in the journals; the worker has been told to end it."""
        running = [each.running for each in self.dialogues.by_id.values() if isinstance(each.running, Exchange)]
        await asyncio.gather(*(each.settled() for each in running))

    def match(self, owner: str, messages: Sequence[Utterance]) -> tuple[Dialogue | None, int, int]:
        """The conversation that a list of messages goes on with; see `Dialogues.longest`."""
        return self.dialogues.longest(owner, messages)

    async def continued(self, owner: str, messages: Sequence[Utterance], copies: int) -> tuple[list[Dialogue], int]:
        """Conversations that hold the first messages of a list, one for each of `copies` answers, and how many those are.

        The first is the conversation that they go on with, if it ends there and nobody is at it; else one that branches.
        """
        found, inside, known = self.match(owner, messages)
        made: list[Dialogue] = []
        base = None if found is None else (found, inside)
        if found is not None and inside == len(found.marks) and found.running is None:
            made.append(found)
        while len(made) < copies:
            made.append(await self.create(owner, kept=False, base=base))
        return made, known

    async def search(self, owner: str, query: str) -> list[Dialogue]:
        """The conversations in which all words of a query occur, in titles or messages."""
        words = query.casefold().split()

        def holds(dialogue: Dialogue) -> bool:
            try:
                said = [str(each.get("text", "")) for each in read_records(dialogue.root) if each["type"] == "message"]
            except OSError:
                said = []
            text = " ".join([dialogue.title, *said]).casefold()
            return all(word in text for word in words)

        dialogues = self.dialogues.of(owner)
        return await asyncio.to_thread(lambda: [each for each in dialogues if holds(each)])

    async def _exchange(
        self,
        dialogue: Dialogue,
        order: Frame,
        messages: Sequence[tuple[Utterance, dict[str, Any]]] = (),
        *,
        answers: bool = True,
    ) -> Exchange:
        exchange = Exchange(self.link, order, dialogue, self.dialogues, messages, answers, self.on_end)
        await exchange.begin()
        return exchange

    async def _make_room(self, kept: bool) -> None:
        """Let the oldest conversation go that nobody asked for by name, where there are too many."""
        if len(self.dialogues.by_id) < self.most_kept:
            return
        loose = [each for each in self.dialogues.by_id.values() if not each.kept and each.running is None]
        if not loose:
            raise Refused(
                507,
                "too_many_sessions",
                f"there are {self.most_kept} sessions, which is the most that are kept",
                hint="delete some",
            )
        await self.delete(min(loose, key=lambda each: each.updated))


def _before_system(dialogue: Dialogue, count: int) -> int:
    """A number of messages that doesn't end with a system message, which is part of the one behind it."""
    while count and dialogue.marks[count - 1].role == "system":
        count -= 1
    return count
