"""The tables of docs/ARCHITECTURE.md: each package's own first sentence with the arrow table, and the files of each folder.

python -m tests.house.architecture       writes it again
"""

from __future__ import annotations

import ast

from tests.house.sources import PACKAGE, ROOT, modules

PAGE = ROOT / "docs" / "ARCHITECTURE.md"
ROOMS = ("<!-- rooms: written by tests/house/architecture.py -->\n", "<!-- end of rooms -->")
FILES = ("<!-- files: written by tests/house/architecture.py -->\n", "<!-- end of files -->")
FLOORS = {
    "Front ends": ("cli", "tui", "testing"),
    "Assembly": ("telemetry", "runtime", "stages", "launch", "contexts", "serve", "report"),
    "Engine": ("data", "tasks", "model", "train", "megacontext", "generate", "eval"),
    "Kernel (no torch)": ("config", "events", "host", "plugins", "resolve", "runs", "scaling"),
    "What a plugin's author sees first": ("api", "hookspecs", "errors", "units"),
}


def first_sentence(room: str) -> str:
    """The first sentence of the docstring of a package (`data/batches`) or module."""
    path = PACKAGE / room / "__init__.py"
    path = path if path.exists() else PACKAGE / f"{room}.py"
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(doc.split("\n\n")[0].split())
    return first.split(". ")[0].rstrip(".") + "."


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


def render_files() -> str:
    """A row for every folder: what it is, and its files."""
    lines = ["| folder | what it is | files |", "|---|---|---|"]
    for folder in sorted({module.path.parent for module in modules().values()} - {PACKAGE}):
        name = folder.relative_to(PACKAGE).as_posix()
        files = " ".join(f"`{path.stem}`" for path in sorted(folder.glob("*.py")) if not path.stem.startswith("__"))
        lines.append(f"| `{name}/` | {first_sentence(name)} | {files} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """The page with the tables as they should be."""
    for (begin, end), text in ((ROOMS, render()), (FILES, render_files())):
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{text}{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
