"""The Working Context over its history: one line per slice, detail by shade, the last edits highlighted."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from mccore.events import Event
from mccore.runs.lod_map import Stretch, cells, changed, histogram, stretches
from mccore.tui.glyphs import Glyphs
from mccore.tui.widgets.plot import filled

SHADES = (Style(color="bright_green"), Style(color="cyan"), Style(color="blue"), Style(color="bright_black"))
EDITED = Style(color="yellow", bold=True, reverse=True)
WORDS = Style(color="bright_black")


class LodMap(Widget):
    """Draws a `working_context_snapshot`, beside the one before it."""

    DEFAULT_CSS = "LodMap { height: 1fr; min-height: 4; }"
    version = reactive(0)

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._glyphs = glyphs
        self._now: Event | None = None
        self._before: Event | None = None
        self._words = ""
        self._drawn: tuple[int, int, int] | None = None
        self._rows: list[Strip] = []

    def show(self, now: Event | None, before: Event | None = None, words: str = "") -> None:
        """Draw this snapshot; cells that differ from `before` are highlighted."""
        self._now, self._before, self._words = now, before, words
        self.version += 1

    def render_line(self, y: int) -> Strip:
        key = (self.version, self.size.width, self.size.height)
        if key != self._drawn:
            self._rows, self._drawn = filled(self._draw(), self), key
        return self._rows[y] if y < len(self._rows) else Strip.blank(self.size.width, self.rich_style)

    def _draw(self) -> list[Strip]:
        width, height = self.size
        if self._now is None or width < 8 or height < 2:
            return [Strip([Segment("Working Context: no snapshot yet"[:width], WORDS)])]
        data = self._now.data
        try:
            shown = _stretches(self._now)
            lines = max(1, height - 2)
            label = 8
            count = (width - label) * lines
            levels = cells(shown, count)
            edits = changed(_stretches(self._before), shown, count) if self._before else [False] * count
        except (ValueError, TypeError, KeyError):
            return [Strip([Segment("Working Context: the snapshot is damaged"[:width], WORDS)])]
        used = f"{data.get('entries')}/{data.get('budget')} entries"
        kinds = "  ".join(f"LOD{level} {entries}" for level, entries in histogram(data["runs"]).items())
        head = f"Working Context {used} over {shown[-1].stop:,} tokens  {kinds}  {self._words}"
        rows = [Strip([Segment(head[:width], Style(bold=True))])]
        total = shown[-1].stop
        for line in range(lines):
            first = line * (width - label)
            segments = [Segment(f"{int(total * line / lines):>{label - 1},} "[:label], WORDS)]
            for level, edited in zip(
                levels[first : first + width - label], edits[first : first + width - label], strict=True
            ):
                place = min(level, len(SHADES) - 1)
                segments.append(Segment(self._glyphs.levels[place], EDITED if edited else SHADES[place]))
            rows.append(Strip(segments).simplify())
        key = "  ".join(
            f"{char} {name}"
            for char, name in zip(self._glyphs.levels, ("tokens", "LOD1", "LOD2", "coarser"), strict=True)
        )
        rows.append(Strip([Segment(f"{key}  highlighted: changed by the last refocus"[:width], WORDS)]))
        return rows


def _stretches(event: Event) -> list[Stretch]:
    data = event.data
    return stretches(data["runs"], int(data["block_size"]), int(data["history"]))
