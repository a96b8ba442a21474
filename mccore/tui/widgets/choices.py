"""A list of which several are chosen, with marks that are read without colours."""

from __future__ import annotations

from rich.segment import Segment
from textual.strip import Strip
from textual.widgets import SelectionList

__all__ = ["Choices"]


class Choices(SelectionList[str]):
    """The library tells chosen from not chosen by a colour alone, which sixteen colours, ASCII and some eyes don't have."""

    def render_line(self, y: int) -> Strip:
        strip = super().render_line(y)
        index = self.scroll_offset.y + y
        if index >= self.option_count:
            return strip
        chosen = self.get_option_at_index(index).value in self.selected
        _, _, _, *line = strip
        return Strip([Segment("[X]" if chosen else "[ ]", line[0].style), *line])
