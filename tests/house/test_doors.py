"""One door each: for text that comes in, for text that goes to a terminal, and one walker of the folders that people name.

The exceptions stand here with their reason, and a list may only shrink.
"""

from __future__ import annotations

import ast
import re

from tests.house.sources import PACKAGE, ROOT, modules

# Own output of worker processes, which goes to a log file; the launcher shows it through the door.
INTO_A_LOG = {
    "mccore/eval/context/recall.py",
    "mccore/launch/stop_signal.py",
    "mccore/launch/worker.py",
}
FOR_PROGRAMS = {"mccore/events/page.py", "mccore/resolve/page.py"}  # other programs' output: pages of the docs
BARS = {"mccore/cli/progress.py", "mccore/cli/report.py"}  # rich draws; every text in it passes `visible` first
OWN_FOLDERS = {
    "mccore/contexts/manifest.py": "the size of a context of ours",
    "mccore/data/corpora/files.py": "a glob pattern, which names files itself",
    "mccore/data/corpora/stdlib/sources.py": "the standard library, by rules of its own",
    "mccore/data/hub/library.py": "the folder of what was fetched",
    "mccore/host/paths.py": "escapes a pattern",
    "mccore/tasks/catalogue.py": "mccore's own code",
}


# What plugins may do themselves: file -> why.
PLUGINS_THAT_WRITE = {
    "plugins/telemetry/mccore_telemetry/opensearch/dead_letters.py": "appends lines, and truncates what a full disk cut",
    "plugins/telemetry/mccore_telemetry/opensearch/objects.py": "a program for operators, into a directory they name",
    "plugins/telemetry/mccore_telemetry/operations/__main__.py": "a program for operators, into a directory they name",
    "plugins/trees/mccore_trees/files.py": "rows at their offsets, in a tree of ours",
}


def plugin_sources() -> dict[str, str]:
    """The code of the plugins in this repository by its path."""
    paths = [
        path for path in (ROOT / "plugins").rglob("*.py") if "tests" not in path.parts and ".venv" not in path.parts
    ]
    assert len(paths) > 30
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def plugins_using(pattern: str) -> set[str]:
    """The files of plugins in whose code a pattern occurs."""
    return {name for name, text in plugin_sources().items() if re.search(pattern, text, re.MULTILINE)}


def using(pattern: str) -> set[str]:
    """The modules in whose code a pattern occurs."""
    return {str(module) for module in modules().values() if re.search(pattern, module.text, re.MULTILINE)}


def test_one_printer_to_terminals() -> None:
    printing = r"click\.(echo|secho|style)\(|^\s*print\(|std(out|err)\.write\(|click_echo"
    printers = using(printing) - INTO_A_LOG - FOR_PROGRAMS
    assert printers == set(), "print with mccore.host.terminal.echo"
    assert plugins_using(printing + r"|Console\(") == set(), "a plugin says what it has to say by logging, or raises"


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
    assert plugins_using(r"os\.walk\(|os\.scandir\(|\.rglob\(") == set()


def test_one_reader_of_what_people_write() -> None:
    """Standard input and files of text are read by `mccore.host.text` alone."""
    readers = using(r"sys\.stdin\.(read|readline)\(|for line in sys\.stdin|gzip\.open\(|errors=\"surrogateescape\"")
    # `setup` reads one value that a program pipes, checked when it is written; `relay` reads our own events from its parent.
    assert readers - {"mccore/cli/setup.py", "mccore/telemetry/relay.py"} == {"mccore/host/text.py"}


def test_one_kind_of_path_on_the_command_line() -> None:
    """It refuses the empty one."""
    assert using(r"click\.Path\b") == {"mccore/cli/named_path.py"}


def test_one_reader_of_parquet_and_json_lines() -> None:
    assert using(r"pyarrow\.parquet|GzipFile|from datasets") == {"mccore/data/corpora/records.py"}


# JSON that isn't a file of ours: what a person typed, what another process says over a pipe, records and files of others.
JSON_OF_OTHERS = {
    "mccore/host/json_file.py": "the one reader of our files",
    "mccore/resolve/draft.py": "values typed on the command line",
    "mccore/telemetry/relay.py": "lines of the launcher over a pipe",
    "mccore/data/corpora/records.py": "people's records: the one reader of them",
    "mccore/data/corpora/stdlib/builtins.py": "the answer of a Python of ours over a pipe",
    "mccore/data/tokenizer/huggingface.py": "tokenizer files of other makers",
}


def test_json_files_of_ours_have_one_reader() -> None:
    reading = {
        str(module)
        for module in modules().values()
        for node in module.nodes
        if isinstance(node, ast.Attribute) and node.attr in ("load", "loads") and ast.unparse(node.value) == "json"
    }
    assert reading == set(JSON_OF_OTHERS)


def test_plugins_read_json_by_the_same_reader() -> None:
    """`mccore.api` hands it on: whatever lies beside a run may have been written by a stranger."""
    assert plugins_using(r"json\.loads?\(|sys\.stdin|gzip\.open\(|pyarrow") == set()


def test_a_cause_is_said_without_the_path_again() -> None:
    """`str` of an OSError names the file: a message that names it already takes `errors.cause` or `strerror`."""
    saying = {
        f"{module}:{node.lineno}"
        for module in modules().values()
        for node in module.nodes
        if isinstance(node, ast.ExceptHandler) and node.type is not None and "OSError" in ast.unparse(node.type)
        if re.search(r"\{path\}[^}]*\{error\}", ast.get_source_segment(module.text, node) or "")
    }
    assert saying == set()


# Opened for writing without a policy of `host/files.py`, each for its reason.
WRITERS = {
    "mccore/host/files.py": "the policies themselves",
    "mccore/cli/__init__.py": "standard streams that were closed",
    "mccore/cli/plugins.py": "a new directory, refused where there is one",
    "mccore/contexts/cost.py": "a switch of the kernel",
    "mccore/data/batches/store.py": "large files into a directory that is renamed when whole",
    "mccore/data/hub/download.py": "appends what comes, and renames the file when it is whole and checked",
    "mccore/events/log.py": "appends a line per system call",
    "mccore/serve/worker/__main__.py": "standard output, kept for the answers",
    "mccore/tui/actions.py": "the output of a process that is started",
    "mccore/train/checkpoint/tensor_files.py": "into a directory that is renamed when whole",
    "mccore/train/checkpoint/write.py": "into a directory that is renamed when whole",
}


def test_files_are_written_by_policies() -> None:
    writing = {str(module) for module in modules().values() for node in module.nodes if _opens_to_write(node)}
    assert writing == set(WRITERS), "a list that may only shrink"


def test_plugins_write_by_the_same_policies() -> None:
    """`mccore.api` hands `write_atomic` on."""
    writing = {
        name
        for name, text in plugin_sources().items()
        if "O_CREAT" in text or any(map(_opens_to_write, ast.walk(ast.parse(text))))
    }
    assert writing == set(PLUGINS_THAT_WRITE)


# Opened for reading without `host/regular.py`: what no stranger has written, or what isn't a file.
OPENERS = {
    "mccore/host/regular.py": "the one opener",
    "mccore/cli/__init__.py": "standard streams that were closed",
    "mccore/contexts/cost.py": "/proc",
    "mccore/data/corpora/stdlib/sources.py": "the standard library",
    "mccore/host/files.py": "/proc",
    "mccore/host/machine.py": "/proc",
    "mccore/plugins/containment.py": "the working directory",
    "mccore/plugins/distributions.py": "what is installed, by the interpreter's own library",
    "mccore/plugins/registry.py": "a module that an import would read",
    "mccore/serve/worker/__main__.py": "the null device",
    "mccore/serve/http/app.py": "mccore's own page",
    "mccore/cli/bench.py": "mccore's own source",
    "mccore/cli/plugins.py": "mccore's own templates",
    "mccore/tasks/catalogue.py": "mccore's own code",
    "mccore/train/probe.py": "/proc",
    "mccore/tui/actions.py": "the output of a process that was started here",
    # opened for writing, each as it says in WRITERS, or locked
    "mccore/cli/serve.py": "a lock of ours",
    "mccore/events/log.py": "appends events",
    "mccore/runs/lock.py": "a lock of ours",
    "mccore/serve/ledger/journal.py": "appends records",
}


def test_files_that_may_be_strangers_are_opened_in_one_place() -> None:
    """A FIFO in the place of a file is refused, never waited for."""
    opening = {str(module) for module in modules().values() for node in module.nodes if _opens_to_read(node)}
    assert opening == set(OPENERS), "open with mccore.host.regular.regular_descriptor"


def _opens_to_read(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or _opens_to_write(node):
        return False
    called = ast.unparse(node.func)
    if called in ("open", "io.open", "gzip.open"):
        return "regular_descriptor" not in ast.unparse(node)
    return called == "os.open" or (
        isinstance(node.func, ast.Attribute) and node.func.attr in ("read_text", "read_bytes")
    )


def _opens_to_write(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in ("write_text", "write_bytes"):
        return True
    inner = [each for argument in node.args[:2] for each in ast.walk(argument)]
    modes = [each.value for each in inner if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return name in ("open", "fdopen") and any(set(mode) <= set("wabxt+") and set(mode) & set("wax") for mode in modes)


def test_no_exception_outlives_its_reason() -> None:
    """A file that is split, renamed or mended leaves no hole behind it."""
    printing = using(r"click\.(echo|secho|style)\(|^\s*print\(|std(out|err)\.write\(|click_echo")
    assert (INTO_A_LOG | FOR_PROGRAMS) - printing == set()
    opening = using(r"\b(fd)?open\(|write_text\(|write_bytes\(")
    assert set(WRITERS) - opening == set()
