"""Markdown that is shown chapter by chapter."""

from __future__ import annotations

import asyncio

from textual.app import App, ComposeResult
from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownBlock

from mccore.tui.widgets.markdown import show_markdown

TEXT = """# Report

| figure | value |
| --- | --- |
| parameters | 1 |

## Stages

Words.

```
## no heading
```

- one
- two

### Deeper

The end.
"""


def test_chapter_by_chapter_it_is_the_same_text() -> None:
    class Page(App[None]):
        def compose(self) -> ComposeResult:
            yield Markdown("")

    async def shown() -> list[list[tuple[str, str]]]:
        async with Page().run_test() as pilot:
            document, found = pilot.app.query_one(Markdown), []
            await document.update(TEXT)
            for _ in range(3):  # at once, then in parts, then the parts again over what is there
                found.append([(type(each).__name__, str(each._content)) for each in document.query(MarkdownBlock)])
                await show_markdown(document, TEXT)
                assert document.source == TEXT
            return found

    whole, first, again = asyncio.run(shown())
    assert first == whole
    assert again == whole
