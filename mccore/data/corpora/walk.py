"""The one walker of folders that people name: what below a folder is a file of theirs, and what is left out and why.

Left out are hidden names, caches, virtual environments and installed packages: they hold copies, settings and other people's
text. What is named itself is taken, whatever it is called. Links to folders aren't followed; links to files only where the
caller says so (the Hugging Face cache consists of them).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mccore.host.text import spell

_INSTALLED = {"node_modules", "__pycache__", "site-packages", "dist-packages"}


@dataclass(frozen=True)
class Skipped:
    """A file or folder that is left out, and why."""

    name: str
    why: str


class Walk:
    """All files below `root`, in a fixed order. `skipped` fills while the walk goes on.

    wanted: whether a file or folder is of interest, by its path below the root; what isn't is left out as `unwanted`, or
    without a word where that is empty. Raises OSError for a folder that can't be listed.
    """

    def __init__(
        self,
        root: Path,
        *,
        wanted: Callable[[str, bool], bool] = lambda relative, is_folder: True,
        unwanted: str = "",
        links: bool = True,
    ) -> None:
        self.root, self.links = root, links
        self._wanted, self._unwanted = wanted, unwanted
        self.skipped: list[Skipped] = []

    def __iter__(self) -> Iterator[tuple[Path, str]]:
        """(path, its place below the root as text that can be shown and hashed)."""
        for place, folders, names in os.walk(self.root, onerror=_fail):
            relative = os.path.relpath(place, self.root) if place != str(self.root) else ""
            folders[:] = [
                folder
                for folder in sorted(folders)
                if self._keeps(os.path.join(relative, folder), why_not_folder(Path(place, folder)), True)
            ]  # os.walk goes on with these, in this order
            for name in sorted(names):
                below, path = os.path.join(relative, name), Path(place, name)
                if self._keeps(below, self._why_not_file(path), False):
                    yield path, spell(Path(below).as_posix())

    def _keeps(self, below: str, why: str, is_folder: bool) -> bool:
        name = spell(Path(below).as_posix()) + ("/" if is_folder else "")
        if not self._wanted(name.removesuffix("/"), is_folder):
            why = self._unwanted
            if not why:
                return False
        if why:
            self.skipped.append(Skipped(name, why))
        return not why

    def _why_not_file(self, path: Path) -> str:
        if path.name.startswith("."):
            return "hidden"
        if path.is_symlink() and not self.links:
            return "a link"
        return "" if path.is_file() else "not a file"


def why_not_folder(path: Path) -> str:
    """Why a folder below another one isn't entered; "" for one that is."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_symlink():
        return "a link"
    if (path / "pyvenv.cfg").is_file():
        return "a virtual environment"
    if path.name in _INSTALLED:
        return "installed or made by a program"
    return "a cache" if (path / "CACHEDIR.TAG").is_file() else ""


def count_reasons(skipped: Iterable[Skipped]) -> dict[str, int]:
    """How much was left out for each reason, the most frequent first."""
    return dict(Counter(each.why for each in skipped).most_common())


def describe_skipped(skipped: Sequence[Skipped]) -> list[str]:
    """What was left out: a line per reason, with the first names."""
    lines = []
    for why, number in count_reasons(skipped).items():
        names = [each.name for each in skipped if each.why == why]
        more = f" and {number - 5:,} more" if number > 5 else ""
        lines.append(f"left out, {why}: {', '.join(names[:5])}{more}")
    return lines


def _fail(error: OSError) -> None:
    raise error  # os.walk would go on without what it can't read
