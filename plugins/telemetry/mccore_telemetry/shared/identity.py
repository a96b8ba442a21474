"""Ids of events: the same event has the same id however often, and by whatever process, it is sent."""

from __future__ import annotations

import hashlib

from mccore.events import Event

_EPOCH_DIGITS = 16  # microseconds since 1970, so that ids sort by time and a store finds them quickly


def event_id(event: Event, key: str) -> str:
    """Microseconds since 1970 and a hash of what the event says. `key` tells the events of one run from those of any other.

    Of its line in the event file, not of what is sent: that may get more fields, and ids must stay what they are.
    """
    said = f"{key}\n{event.to_json()}".encode("utf-8", "backslashreplace")
    digest = hashlib.blake2b(said, digest_size=12).hexdigest()
    return f"{round(max(event.time, 0.0) * 1e6):0{_EPOCH_DIGITS}d}-{digest}"
