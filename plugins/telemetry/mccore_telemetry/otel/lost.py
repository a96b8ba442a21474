"""Which events were told as lost, so that none counts twice: one signal may lose an event now, another signal hours later."""

from __future__ import annotations

from collections.abc import Iterable


class Lost:
    """A set of event numbers of one bit each, as a collector may refuse for days. Numbers are asked for from `first` on."""

    def __init__(self) -> None:
        self._first = 0  # number of the first bit, a multiple of 8
        self._bits = bytearray()

    def add(self, numbers: Iterable[range]) -> int:
        """Add ranges of numbers, and say how many of them weren't there."""
        return sum(self._add(each) for each in numbers if each)

    def forget(self, before: int) -> None:
        """Let go of the numbers below, which nobody will add any more."""
        gone = max(0, before - self._first) // 8
        del self._bits[:gone]
        self._first += 8 * gone

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return len(self._bits)

    def _add(self, numbers: range) -> int:
        begin, end = numbers.start - self._first, numbers.stop - self._first
        place, last = begin // 8, -(-end // 8)
        self._bits.extend(bytes(max(0, last - len(self._bits))))
        before = int.from_bytes(self._bits[place:last], "little")
        after = before | ((1 << len(numbers)) - 1) << (begin - 8 * place)
        self._bits[place:last] = after.to_bytes(last - place, "little")
        return after.bit_count() - before.bit_count()
