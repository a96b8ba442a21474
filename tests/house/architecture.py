"""The tables of docs/ARCHITECTURE.md: each package's own first sentence with the arrow table, and every file with its own.

python -m tests.house.architecture       writes it again
"""

from __future__ import annotations

import ast
from itertools import takewhile
from pathlib import Path
from textwrap import wrap

from tests.house.sources import PACKAGE, ROOT, modules

PAGE = ROOT / "docs" / "ARCHITECTURE.md"
ROOMS = ("<!-- rooms: written by tests/house/architecture.py -->\n", "<!-- end of rooms -->")
FILES = ("<!-- files: written by tests/house/architecture.py -->\n", "<!-- end of files -->")
FLOORS = {
    "Front ends": ("cli", "tui", "testing"),
    "Assembly": ("telemetry", "runtime", "stages", "launch", "contexts", "serve", "report", "exchange"),
    "Engine": ("data", "tasks", "model", "train", "megacontext", "generate", "eval"),
    "Kernel (no torch)": ("config", "events", "host", "plugins", "resolve", "runs", "scaling"),
    "What a plugin's author sees first": ("api", "hookspecs", "errors", "units"),
}


def first_sentence(room: str) -> str:
    """The first sentence of the docstring of a package (`data/batches`) or module."""
    path = PACKAGE / room / "__init__.py"
    return opening(path if path.exists() else PACKAGE / f"{room}.py")


def render() -> str:
    """The table, floor by floor, the front ends first."""
    from tests.house.test_arrows import ARROWS

    lines = []
    for floor, rooms in FLOORS.items():
        lines += [f"### {floor}", "", "| room | what it is | may use | why |", "|---|---|---|---|"]
        for room in rooms:
            uses, why = ARROWS.get(room, ((), "every room may use it"))
            below = "anything below" if len(uses) > 8 else ", ".join(f"`{each}`" for each in uses) or "nothing"
            lines.append(f"| `{room}` | {first_sentence(room)} | {below} | {why} |")
        lines.append("")
    return "\n".join(lines)


def opening(path: Path) -> str:
    """The first sentence of a file: of its docstring, or of the `//!` comment that opens a Rust file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".rs":
        lines = takewhile(lambda line: line.startswith("//!"), text.splitlines())
        doc = "\n".join(line.removeprefix("//!").strip() for line in lines)
    else:
        doc = ast.get_docstring(ast.parse(text)) or ""
    return " ".join(doc.split("\n\n")[0].split()).split(". ")[0].rstrip(".") + "."


def folders() -> list[Path]:
    """Every folder of sources, in the order of the page: the core's, those of our plugins, the trainer's."""
    core = sorted({module.path.parent for module in modules().values()} - {PACKAGE})
    ours = sorted({path.parent for path in (ROOT / "plugins").glob("*/mccore_*/**/*.py")})
    return [*core, *ours, ROOT / "rustbpe" / "src", ROOT / "rustbpe" / "src" / "python"]


def render_files() -> str:
    """A table for every folder: each file with its own first sentence."""
    lines = []
    for folder in folders():
        files = [*sorted(folder.glob("*.py")), *sorted(folder.glob("*.rs"))]
        package, files = folder / "__init__.py", [path for path in files if not path.stem.startswith("__")]
        said = f" {opening(package)}" if package in folder.iterdir() else ""
        lines += [*wrap(f"**`{folder.relative_to(ROOT).as_posix()}/`**{said}", 100), ""]
        if files:
            lines += [
                "| file | what it is |",
                "|---|---|",
                *(f"| `{path.name}` | {opening(path)} |" for path in files),
                "",
            ]
    return "\n".join(line.replace("<|", "&lt;|") for line in lines)


def with_table(page: str) -> str:
    """The page with the tables as they should be."""
    for (begin, end), text in ((ROOMS, render()), (FILES, render_files())):
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{text}{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
