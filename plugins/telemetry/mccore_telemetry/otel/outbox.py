"""What waits to be sent of one signal, and which events are lost with what can't be sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from mccore_telemetry.otel.transport import Refused, Transport
from mccore_telemetry.shared.batches import Backlog, Backoff

BATCH = 512
BACKLOG = 20_000


class _Answer(Protocol):
    """An Export...ServiceResponse."""

    partial_success: Any


class Trouble(Exception):
    """Sending failed for now; what waited still waits."""


class Outbox:
    """Spans or log records of one process on their way to a collector, each with the number of its event (0 for none).

    A batch that may be sent again stays in front of the others; one that was refused for good is lost, item by item where
    it was only too large. `lost` holds the numbers of events of which something is lost, until `take_lost`.
    """

    def __init__(
        self,
        transport: Transport,
        encode: Callable[[Sequence[Any]], bytes],
        answer: Callable[[bytes], _Answer],
        *,
        seconds: float,
        limit: int = BACKLOG,
    ) -> None:
        self.why = ""
        self.seconds = seconds  # what a request may take
        self._transport = transport
        self._encode = encode
        self._answer = answer
        self._waiting: Backlog[tuple[int, Any]] = Backlog(limit)
        self._limit = limit
        self._backoff = Backoff()
        self._lost: list[range] = []

    def add(self, number: int, item: Any) -> None:
        """Keep an item; of more than the limit the oldest goes."""
        if len(self._waiting) >= self._limit:
            self._lose(self._waiting.take(1), self.why or "more waits to be sent than is kept")
        self._waiting.add((number, item))

    @property
    def full(self) -> bool:
        """Whether a batch is complete and may be sent."""
        return len(self._waiting) >= BATCH and self._backoff.ready

    def send(self, seconds: float, *, deadline: float | None = None, last: bool = False) -> None:
        """Send all that waits, each request within that many seconds and all by a deadline (time.monotonic). Raises Trouble.
        The `last` time there is no pause to keep, and what isn't sent is lost."""
        try:
            if not self._backoff.ready and not last:
                raise Trouble(self.why)
            while len(self._waiting):
                left = seconds if deadline is None else min(seconds, deadline - time.monotonic())
                if left <= 0:
                    raise Trouble(self.why or "there was no time left")
                self._send(self._waiting.take(BATCH), left)
        except Trouble as trouble:
            if not last:
                raise
            self._lose(self._waiting.take(len(self._waiting)), str(trouble))

    @property
    def oldest(self) -> int | None:
        """The number of the oldest event of which something waits: only such events can still be lost."""
        waiting = self._waiting.oldest
        return waiting[0] if waiting else None

    def take_lost(self) -> list[range]:
        """Numbers of events of which something was lost since the last call; some may be there more than once."""
        lost, self._lost = self._lost, []
        return lost

    def close(self) -> None:
        """Let go of connections."""
        self._transport.close()

    def _send(self, batch: list[tuple[int, Any]], seconds: float) -> None:
        try:
            answer = _read(self._answer, self._transport.send(self._encode([item for _, item in batch]), seconds))
        except Refused as refusal:
            self.why = str(refusal)
            if refusal.again:
                self._waiting.give_back(batch)
                self._backoff.failed(refusal.pause)
                raise Trouble(self.why) from None
            if refusal.too_large and len(batch) > 1:
                half = len(batch) // 2
                self._waiting.give_back(batch[half:])
                self._send(batch[:half], seconds)
                return
            self._lose(batch, self.why)
            return
        self._backoff.succeeded()
        if rejected := rejected_items(answer):
            # Which ones isn't said.
            self._lose(
                batch[:rejected], f"{rejected} of {len(batch)} were rejected: {answer.partial_success.error_message}"
            )

    def _lose(self, batch: Sequence[tuple[int, Any]], why: str) -> None:
        if batch:
            self.why = why
        self._lost += [range(number, number + 1) for number, _ in batch if number]


class Latest:
    """Metrics on their way to a collector. What couldn't be sent isn't kept: the next request says the same and more.

    Events count as delivered with the first request after them that is accepted, and as lost when there is none.
    """

    def __init__(
        self,
        transport: Transport,
        collect: Callable[[], bytes],
        answer: Callable[[bytes], _Answer],
        *,
        seconds: float,
    ) -> None:
        self.why = ""
        self.seconds = seconds  # what a request may take
        self._transport = transport
        self._collect = collect
        self._answer = answer
        self._backoff = Backoff()
        self._began = False
        self._since = range(0)  # numbers of events since the last accepted request: they come one after another
        self._lost: list[range] = []

    def add(self, number: int) -> None:
        """Note an event whose values are collected."""
        self._began = True
        self._since = range(self._since.start if self._since else number, number + 1)

    @property
    def full(self) -> bool:
        """Never: metrics are sent when it is time."""
        return False

    def send(self, seconds: float, *, deadline: float | None = None, last: bool = False) -> None:
        """Send the values as they are now, as `Outbox.send` does: also where no event came, since the heartbeat grows then."""
        if not self._began:
            return
        try:
            if not self._backoff.ready and not last:
                raise Trouble(self.why)
            left = seconds if deadline is None else min(seconds, deadline - time.monotonic())
            answer = _read(self._answer, self._transport.send(self._collect(), max(left, 0.05)))
        except Refused as refusal:
            self.why = str(refusal)
            self._backoff.failed(refusal.pause)
            if not last:
                raise Trouble(self.why) from None
            self._lost.append(self._since)
            return
        self._backoff.succeeded()
        if rejected := rejected_items(answer):
            self.why = f"{rejected} data points were rejected: {answer.partial_success.error_message}"
            self._lost.append(self._since[-rejected:])
        self._since = range(0)

    @property
    def oldest(self) -> int | None:
        """The number of the oldest event that no accepted request has told of."""
        return self._since.start if self._since else None

    def take_lost(self) -> list[range]:
        """Numbers of events that were lost since the last call."""
        lost, self._lost = self._lost, []
        return lost

    def close(self) -> None:
        """Let go of connections."""
        self._transport.close()


def _read(answer: Callable[[bytes], _Answer], body: bytes) -> _Answer:
    """What a request was answered. Raises Refused for what isn't OTLP: a page of another server says nothing of arrival."""
    try:
        return answer(body)
    except DecodeError:
        said = " ".join(body[:80].decode(errors="replace").split())
        raise Refused(f"something else than a collector answers there: {said}") from None


def rejected_items(answer: _Answer) -> int:
    """How many items of an accepted request weren't taken."""
    return sum(int(value) for field, value in answer.partial_success.ListFields() if field.name.startswith("rejected"))
