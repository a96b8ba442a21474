#!/usr/bin/env bash
# After Textual's Markdown.update(text), the first Markdown.append(more) puts its first block in the place of the last block of
# `text`: a table or paragraph is gone from the screen, though `source` still has it. update("") and appending everything
# keeps all blocks. Seen with 8.2.8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check textual==8.2.8
"$folder/venv/bin/python" - <<'EOF'
import asyncio

from textual import __version__
from textual.app import App
from textual.widgets import Markdown


class Page(App):
    def compose(self):
        yield Markdown("")


async def shown(first, *parts):
    async with Page().run_test() as pilot:
        document = pilot.app.query_one(Markdown)
        await document.update(first)
        for part in parts:
            await document.append(part)
        await pilot.pause()
        return [type(block).__name__ for block in document.children], document.source


parts = ("# One\n\nwords\n\n- a list\n\n", "## Two\n\nmore\n")
lost, source = asyncio.run(shown(*parts))
whole, _ = asyncio.run(shown("", *parts))
print(f"textual {__version__}: update, append {lost}; update of nothing, two appends {whole}")
assert source == "".join(parts)
assert whole == ["MarkdownH1", "MarkdownParagraph", "MarkdownBulletList", "MarkdownH2", "MarkdownParagraph"]
assert "MarkdownBulletList" not in lost, "the list stays by now: the way round isn't needed any more"
EOF
