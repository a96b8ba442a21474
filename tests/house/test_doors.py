"""One door each: for text that comes in, for text that goes to a terminal, and one walker of the folders that people name.

The exceptions stand here with their reason, and a list may only shrink.
"""

from __future__ import annotations

import re

from tests.house.sources import PACKAGE, modules

# Own output of worker processes, which goes to a log file; the launcher shows it through the door.
INTO_A_LOG = {
    "mccore/eval/context/recall.py",
    "mccore/launch/stop_signal.py",
    "mccore/launch/worker.py",
    "mccore/stages/evaluate.py",
    "mccore/stages/focus.py",
    "mccore/stages/train.py",
}
# Other programs' output: a page made for the repository, the answer of a child that lists built-ins.
FOR_PROGRAMS = {"mccore/data/corpora/stdlib/builtins.py", "mccore/events/page.py"}
BARS = {"mccore/cli/progress.py", "mccore/cli/report.py"}  # rich draws; every text in it passes `visible` first
OWN_FOLDERS = {
    "mccore/contexts/manifest.py": "the size of a context of ours",
    "mccore/data/corpora/files.py": "a glob pattern, which names files itself",
    "mccore/data/corpora/stdlib/sources.py": "the standard library, by rules of its own",
    "mccore/host/paths.py": "escapes a pattern",
    "mccore/tasks/catalogue.py": "mccore's own code",
}


def using(pattern: str) -> set[str]:
    """The modules in whose code a pattern occurs."""
    return {str(module) for module in modules().values() if re.search(pattern, module.text, re.MULTILINE)}


def test_one_printer_to_terminals() -> None:
    printers = using(r"click\.(echo|secho|style)\(|^\s*print\(|std(out|err)\.write\(|click_echo")
    printers -= INTO_A_LOG | FOR_PROGRAMS
    assert printers == set(), "print with mccore.host.terminal.echo"


def test_what_draws_shows_only_visible_text() -> None:
    drawing = using(r"Console\(|\._stream\.write\(") - {name for name in using("tui") if "/tui/" in name}
    assert drawing == BARS
    for name in BARS:
        text = (PACKAGE.parent / name).read_text()
        bare = re.findall(
            r"(?:console\.print|_stream\.write|Markdown)\((?!visible|f\"\{visible|Markdown\(visible)[^)]*\)", text
        )
        assert bare == [], name


def test_one_walker_of_folders() -> None:
    walkers = using(r"os\.walk\(|os\.scandir\(|\.rglob\(|glob\.i?glob\(|glob\.escape\(")
    assert walkers == {"mccore/data/corpora/walk.py", *OWN_FOLDERS}


def test_one_reader_of_what_people_write() -> None:
    """Standard input and files of text are read by `mccore.host.text` alone."""
    readers = using(r"sys\.stdin\.(read|readline)\(|for line in sys\.stdin|gzip\.open\(|errors=\"surrogateescape\"")
    # `setup` reads one value that a program pipes, checked when it is written; `relay` reads our own events from its parent.
    assert readers - {"mccore/cli/setup.py", "mccore/telemetry/relay.py"} == {"mccore/host/text.py"}


def test_one_reader_of_parquet_and_json_lines() -> None:
    assert using(r"pyarrow\.parquet|GzipFile|from datasets") == {"mccore/data/corpora/records.py"}
