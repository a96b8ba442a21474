#!/usr/bin/env bash
# Textual's DataTable measures added rows when its message pump is idle. A row that is painted before that is cut to the width
# its column had then, and stays so: measuring doesn't have the line painted again, though the column is wide enough by now.
# Whoever fills a table from a worker meets that now and then, more often on a busy machine. Seen with 8.2.8.
# Way out: clear the table's caches and refresh it after it has measured.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check textual==8.2.8
"$folder/venv/bin/python" - <<'EOF'
import asyncio

from textual import __version__
from textual.app import App
from textual.widgets import DataTable


class Page(App):
    def compose(self):
        yield DataTable()


async def painted():
    async with Page().run_test() as pilot:
        table = pilot.app.query_one(DataTable)
        table.add_columns("a", "b")
        table.add_row("a row", "before it")
        await pilot.pause()
        table.clear()
        table.add_row("x", "longer than its title")
        pilot.app.export_screenshot()  # what a frame between adding and idling does
        await pilot.pause(2.0)
        kept = pilot.app.export_screenshot()
        table.refresh_row(0)
        table.notify_style_update()
        await pilot.pause(0.5)
        return kept, pilot.app.export_screenshot(), table.ordered_columns[1].content_width


kept, again, width = asyncio.run(painted())
words = "its&#160;title"
print(f"textual {__version__}: the column is {width} wide; shown whole after 2 s: {words in kept}; "
      f"after an explicit refresh: {words in again}")
assert width == len("longer than its title"), "the column wasn't measured"
assert words not in kept, "the row is painted again by now: the way out isn't needed any more"
assert words in again, "the refresh shows it whole"
EOF
