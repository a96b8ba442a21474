"""Kind 7: nothing installed stops a command that doesn't use it, nothing importable is called faulty. BF5, BF17, RF15."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mccore import plugins
from mccore.errors import PluginError
from mccore.plugins.containment import Escaped, guarded
from mccore.plugins.registry import locate, one_line

GROUP = "mccore.allocators"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of installed packages at the end of the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def package(site: Path, folder: str, entry_points: str | bytes | None, metadata: str | None = None) -> None:
    directory = site / folder
    directory.mkdir()
    if metadata is not None:
        (directory / "METADATA").write_text(metadata)
    if entry_points is not None:
        data = entry_points.encode() if isinstance(entry_points, str) else entry_points
        (directory / "entry_points.txt").write_bytes(data)


STATED = "Metadata-Version: 2.1\nName: {}\nVersion: 1\nSummary: words\n"
SPOILT = [
    pytest.param("ghost-0.1.dist-info", f"[{GROUP}]\nghost = json\n", None, id="BF17-RF15-no-metadata"),
    pytest.param(".dist-info", None, None, id="BF17-empty-directory"),
    pytest.param(
        "other-1.dist-info", "[console_scripts]\nno equals sign\n", STATED.format("other"), id="BF17-bad-line"
    ),
    pytest.param("other-1.dist-info", b"[x]\n\xff\xfe = y\n", STATED.format("other"), id="RF15-not-utf8"),
    pytest.param(
        "~ccore_mine-0.1.dist-info", f"[{GROUP}]\nmine = json\n", STATED.format("mine"), id="BF17-pip-cut-short"
    ),
    pytest.param("other-1.dist-info", f"[{GROUP}\nx = y\n=\n[[\n", STATED.format("other"), id="no-sections"),
    pytest.param("other-1.dist-info", f"[{GROUP}]\nx = json\n", "\xff" * 50, id="metadata-of-noise"),
    pytest.param("-.dist-info", f"[{GROUP}]\nx = json\n", STATED.format(""), id="no-name"),
]


@pytest.mark.parametrize(("folder", "entry_points", "metadata"), SPOILT)
def test_a_spoilt_package_is_at_most_a_row(
    site: Path, folder: str, entry_points: str | bytes | None, metadata: str | None
) -> None:
    before = {row.name for row in plugins.describe("allocator")}
    package(site, folder, entry_points, metadata)
    rows = plugins.describe("allocator")
    assert before <= {row.name for row in rows}
    assert all(row.health == "ok" for row in rows if row.name in before)
    plugins.load("allocator", "greedy")


@pytest.mark.parametrize(("folder", "entry_points", "metadata"), SPOILT)
def test_no_command_is_stopped(
    tmp_path: Path, folder: str, entry_points: str | bytes | None, metadata: str | None
) -> None:
    package(tmp_path, folder, entry_points, metadata)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MCCORE_BASE_DIR": str(tmp_path / "base")}
    script = "import sys\nfrom mccore.cli import main\nsys.exit(main(['runs']) or main(['plugins']) or main(['run', '--help']))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "greedy" in done.stdout


def test_one_line_twice_is_one_plugin(site: Path) -> None:  # BF17: counted twice
    package(site, "twice-1.dist-info", f"[{GROUP}]\ntwice = json\ntwice = json\n", STATED.format("twice"))
    assert [row.name for row in plugins.describe("allocator")].count("twice") == 1


def test_an_older_copy_further_down_the_path_is_shadowed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("first", "second"):
        (site / folder).mkdir()
        package(site / folder, "Some_Pkg-1.dist-info", f"[{GROUP}]\nsome = json\n", STATED.format("some-pkg"))
        monkeypatch.syspath_prepend(str(site / folder))
    assert [row.name for row in plugins.describe("allocator")].count("some") == 1


@pytest.mark.parametrize("left", [None, f"[{GROUP}]\nold = json\n"], ids=["an-empty-directory", "entry-points-alone"])
def test_what_is_left_of_an_older_version_hides_nothing(site: Path, left: str | None) -> None:
    """Whichever of the two the system lists first."""
    for number in range(8):
        package(site, f"pkg{number}-1.dist-info", left)
        package(site, f"pkg{number}-2.dist-info", f"[{GROUP}]\nnew{number} = json\n", STATED.format(f"pkg{number}"))
    names = {row.name for row in plugins.describe("allocator") if row.health == "ok"}
    assert {f"new{number}" for number in range(8)} <= names
    assert "old" not in names


class EditableFinder:
    """What setuptools puts on `sys.meta_path` for a package that is installed editable from a remapped folder."""

    def __init__(self, mapping: dict[str, Path]) -> None:
        self.mapping = mapping

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        from importlib.util import spec_from_file_location

        return spec_from_file_location(name, self.mapping[name]) if name in self.mapping else None


def test_a_module_that_a_finder_of_its_own_has_is_found(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # BF5
    (site / "acmespace").mkdir()  # a namespace: no __init__.py
    source = site / "elsewhere" / "inner.py"
    source.parent.mkdir()
    source.write_text('"""Words."""')
    monkeypatch.setattr(sys, "meta_path", [EditableFinder({"acmespace.inner": source}), *sys.meta_path])
    assert locate("acmespace.inner") == source
    assert "acmespace" not in sys.modules


def test_what_only_an_import_can_tell_is_unknown_not_faulty(site: Path) -> None:
    (site / "widens").mkdir()
    (site / "more").mkdir()
    (site / "widens" / "__init__.py").write_text(f"__path__.append({str(site / 'more')!r})")
    (site / "more" / "hidden.py").write_text("from mccore.plugins import loading")
    package(site, "widens-1.dist-info", f"[{GROUP}]\nwidens = widens.hidden\n", STATED.format("widens"))
    (row,) = (row for row in plugins.describe("allocator") if row.name == "widens")
    assert row.health == "ok"
    with pytest.raises(PluginError, match="it has no hook"):  # so loading has read it
        plugins.load("allocator", "widens")


# --- containment: RF15 ------------------------------------------------------------------------------------------------


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_without_words_is_one_line() -> None:
    assert one_line(Unspeakable()) == "Unspeakable: (its message can't be shown)"


@pytest.mark.parametrize(
    "error", [Unspeakable, GeneratorExit, KeyboardInterrupt, SystemExit, StopIteration, MemoryError]
)
def test_whatever_is_raised_stays_in(error: type[BaseException]) -> None:
    def run() -> None:
        with guarded():
            raise error

    with pytest.raises(Escaped) as caught:
        run()
    assert isinstance(caught.value.__cause__, error)


def test_what_is_changed_is_put_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import signal

    before = sys.getrecursionlimit(), Path.cwd(), sys.stdout, signal.getsignal(signal.SIGTERM)
    with guarded():
        sys.setrecursionlimit(150)
        os.chdir(tmp_path)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("for no one's JSON")
        sys.stdout = None  # type: ignore[assignment]
    assert (sys.getrecursionlimit(), Path.cwd(), sys.stdout, signal.getsignal(signal.SIGTERM)) == before
    assert capsys.readouterr() == ("", "for no one's JSON\n")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E", id="RF15-str"),
        pytest.param("raise GeneratorExit", id="RF15-generator-exit"),
        pytest.param("raise KeyboardInterrupt", id="RF15-keyboard-interrupt"),
        pytest.param("import sys\nsys.setrecursionlimit(150)", id="RF15-recursion-limit"),
        pytest.param("def __getattr__(name): raise OSError(name)", id="module-getattr"),
        pytest.param("x = " + "-" * 100_000 + "1", id="RF15-parser"),
        pytest.param("import sys\nsys.stdout.write('noise')\nsys.stdout = None", id="stdout"),
    ],
)
def test_check_contains_each_and_blames_no_other(site: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "aaa_bad.py").write_text(source)
    package(site, "aaa_bad-1.dist-info", f"[{GROUP}]\naaa_bad = aaa_bad\n", STATED.format("aaa_bad"))
    try:
        rows = {row.name: row for row in plugins.check()}
    finally:
        sys.modules.pop("aaa_bad", None)
    assert rows["aaa_bad"].problem
    assert [row.name for row in rows.values() if row.problem and row.name != "aaa_bad"] == []
    assert capsys.readouterr().out == ""
