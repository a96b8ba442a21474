"""The Working Context of a session for a terminal: entries by level, the map of the history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mccore.megacontext.sessions.session import Session
from mccore.megacontext.tree.cut import histogram
from mccore.runs.lod_map import Stretch, legend, text_map

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer


# --- to look at -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Passage:
    """Tokens `[start, stop)` of a history that an answer saw at LOD0, and how they begin."""

    start: int
    stop: int
    text: str


def passages(session: Session, tokenizer: Tokenizer, *, most: int = 20, width: int = 60) -> list[Passage]:
    """What of the far past the last answer saw word for word, newest first: everything before the recent tokens."""
    raw = [(start, stop) for start, stop, level in session.seen() if level == 0]
    found = []
    for start, stop in reversed(raw[:-1]):  # the last one is the conversation itself
        text = tokenizer.decode(session.ids(start, min(stop, start + width)).tolist())
        found.append(Passage(start, stop, " ".join(text.split())[:width]))
    return found[:most]


def copied(session: Session, tokenizer: Tokenizer, *, most: int = 20, width: int = 60) -> list[str]:
    """What of the last answer the lookup had found before in the history, a line for each passage, longest first."""
    found = sorted(session.spoken(), key=lambda each: (each.start - each.stop, each.start))[:most]
    return [
        f"looked up: {each.stop - each.start} tokens at {each.start:,} stood at {each.source:,}: "
        + " ".join(tokenizer.decode(session.ids(each.start, min(each.stop, each.start + width)).tolist()).split())[
            :width
        ]
        for each in found
    ]


def picture(session: Session) -> str:
    """The Working Context in a few lines: entries and tokens per level, and the map of the history, oldest first."""
    cut = session.focus.cut
    if not len(cut):
        return "the history is empty"
    counts = histogram(cut.level, int(cut.level.max()))
    lines = [
        f"{len(cut):,} of {session.model.options.wc_length:,} entries show {session.covered:,} tokens"
        + (f"; {session.unread:,} more are unread" if session.unread > 1 else "")
    ]
    for level in range(len(counts) - 1, -1, -1):
        if counts[level]:
            tokens = int(cut.span[cut.level == level].sum())
            name = f"LOD{level}" if level else "tokens"
            lines.append(f"  {name:7}{counts[level]:6,} entries {tokens:12,} tokens")
    bounds = zip(cut.start.tolist(), cut.stop.tolist(), cut.level.tolist(), strict=True)
    lines += [f"  {line}" for line in text_map([Stretch(*each) for each in bounds])]
    lines.append(f"  {legend()}; oldest first")
    return "\n".join(lines)
