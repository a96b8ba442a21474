"""Long texts in Markdown, a part at a time: the library makes a widget of every block and every cell of a table."""

from __future__ import annotations

import asyncio
import re

from textual.widgets import Markdown

__all__ = ["show_markdown"]

_PARTS = re.compile(r"^(?=#{1,3} )", re.MULTILINE)


async def show_markdown(document: Markdown, text: str) -> None:
    """Show a text from its beginning on, chapter by chapter, so that a person reads and keys are heard while the rest comes."""
    await document.update("")  # not the first part: what is appended then takes the place of its last block
    for part in _PARTS.split(text):
        await asyncio.sleep(0)
        await document.append(part)
