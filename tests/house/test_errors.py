"""The one family of errors: what is rendered, and which exit code each has."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mccore import errors
from mccore.errors import Blame, ConfigError, Interrupted, MccoreError, PluginError, RunError, UsageError


@pytest.mark.parametrize(
    ("blame", "text"),
    [
        (Blame("pkg"), "pkg"),
        (Blame("pkg", "1.0"), "pkg 1.0"),
        (Blame("pkg", module="pkg.mod"), "pkg (pkg.mod)"),
        (Blame("pkg", "1.0", "pkg.mod"), "pkg 1.0 (pkg.mod)"),
    ],
)
def test_blame_reads_as_one_would_report_it(blame: Blame, text: str) -> None:
    assert str(blame) == text


def test_render_shows_what_is_known_and_nothing_else() -> None:
    assert MccoreError("it broke").render() == "error: it broke"
    whole = PluginError("it broke", blame=Blame("pkg", "1.0", "pkg.mod"), hint="mend it")
    assert whole.render() == "error: it broke\nfrom: pkg 1.0 (pkg.mod)\nhint: mend it"
    assert str(whole) == "it broke"


def test_exit_codes() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MccoreError)]
    bad_input = {"UsageError", "ConfigError", "DataError", "CheckpointError", "UnknownPlugin"}
    assert {kind.__name__ for kind in kinds if kind.exit_code == 2} == bad_input
    assert {kind.__name__ for kind in kinds if kind.exit_code == 130} == {"Interrupted"}
    assert {kind.exit_code for kind in kinds} == {1, 2, 130}
    assert issubclass(ConfigError, UsageError)
    assert Interrupted("x").exit_code == 130


def test_every_error_says_what_it_is_for() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, MccoreError):
            assert kind.__doc__


def test_the_command_renders_an_error_once_and_without_a_traceback() -> None:
    code = "import sys; from mccore.cli import main; sys.exit(main(['run', 'no-such-recipe']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == UsageError.exit_code
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no recipe named 'no-such-recipe'\nhint: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (RunError("x"), 1),
        (ConfigError("x"), 2),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_exit_code_of_what_a_command_raises(raised: BaseException, code: int) -> None:
    # In a process of its own: a broken pipe makes the command replace its standard output.
    program = (
        "import sys, click, mccore.cli as c\n"
        "from mccore.errors import *\n"
        "@c.cli.command('boom')\n"
        f"def boom(): raise {type(raised).__name__}({', '.join(map(repr, raised.args))})\n"
        "c.LazyGroup.get_command = lambda self, ctx, name: boom\n"
        "sys.exit(c.main(['boom']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
