"""`mccore setup`: look at the machine, ask for credentials and places, write `.mc_env`."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from mccore.cli.doctor import check_machine, check_versions, print_checks
from mccore.errors import UsageError, cause
from mccore.host import env as settings
from mccore.host.env import FILE_NAME, SETTINGS, Variable
from mccore.host.files import write_theirs
from mccore.host.json_file import BadJson, read_regular
from mccore.host.paths import expand
from mccore.host.terminal import echo, one_line

_OPTIONS = {
    "base_dir": "MCCORE_BASE_DIR",
    "wandb_key": "WANDB_API_KEY",
    "wandb_project": "WANDB_PROJECT",
    "wandb_mode": "WANDB_MODE",
    "hf_token": "HF_TOKEN",
    "otel_endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT",
    "otel_protocol": "OTEL_EXPORTER_OTLP_PROTOCOL",
    "otel_headers": "OTEL_EXPORTER_OTLP_HEADERS",
}
_BY_VARIABLE = {setting.variable: setting for setting in SETTINGS}


@click.command()
@click.option("--yes", is_flag=True, help="Ask nothing: keep what is set, take what the options give.")
@click.option("--base-dir", metavar="DIR", help="Directory for runs and caches.")
@click.option("--wandb-key", metavar="KEY", help="Weights & Biases key; `-` reads it from standard input.")
@click.option("--wandb-project", metavar="NAME", help="Weights & Biases project.")
@click.option("--wandb-mode", metavar="MODE", help="online, offline or disabled.")
@click.option("--hf-token", metavar="TOKEN", help="Hugging Face token; `-` reads it from standard input.")
@click.option("--otel-endpoint", metavar="URL", help="OpenTelemetry endpoint.")
@click.option("--otel-protocol", metavar="NAME", help="http/protobuf or grpc.")
@click.option("--otel-headers", metavar="LIST", help="OpenTelemetry headers; `-` reads them from standard input.")
def setup(yes: bool, **options: str | None) -> None:
    """Look at this machine and write .mc_env, the settings file of the working directory.

    An empty value given to an option removes the setting.
    """
    before = settings.read_settings()
    values = dict(before)
    for option, value in options.items():
        if value is not None:
            variable = _OPTIONS[option]
            _set(values, _BY_VARIABLE[variable], _piped(variable) if value == "-" else value)
    print_checks([*check_versions(), *check_machine()])
    echo()
    if not yes:
        echo("Enter keeps what is set, `clear` removes it.")
        for setting in SETTINGS:
            if _option_value(options, setting) is None:
                _ask(values, setting)
    _write(before, values)


def _piped(variable: str) -> str:
    """A value from standard input. Raises UsageError for none: a command that failed before the pipe removes no credentials."""
    value = sys.stdin.readline()
    if not value.strip():
        raise UsageError(
            f"standard input has no {variable}: nothing was changed",
            hint="an empty value as the option itself removes it",
        )
    return value


def _option_value(options: dict[str, str | None], setting: Variable) -> str | None:
    return next(options[option] for option, variable in _OPTIONS.items() if variable == setting.variable)


def _ask(values: dict[str, str], setting: Variable) -> None:
    """Ask for one setting until the answer can be used. What is secret is neither shown nor echoed."""
    now = values.get(setting.variable, "")
    shown = "set" if now and setting.secret else now or "not set"
    choices = f", one of {', '.join(setting.choices)}" if setting.choices else ""
    while True:
        answer = click.prompt(
            f"{setting.description}{choices} [{one_line(shown)}]",
            default="",
            show_default=False,
            hide_input=setting.secret,
        ).strip()
        if not answer:
            return
        try:
            _set(values, setting, "" if answer == "clear" else answer)
        except UsageError as error:
            echo(error.render(), err=True)
        else:
            return


def _set(values: dict[str, str], setting: Variable, value: str) -> None:
    """Set or, by an empty value, remove a setting. Raises UsageError for a value that can't be right."""
    value = value.strip()
    if not value:
        values.pop(setting.variable, None)
        return
    if setting.choices and value not in setting.choices:
        raise UsageError(f"{setting.description}: {value!r} isn't one of {', '.join(setting.choices)}")
    if setting.variable == "MCCORE_BASE_DIR":
        value = _base_dir(value)
    if setting.variable == "OTEL_EXPORTER_OTLP_ENDPOINT":
        _check_endpoint(value)
    if not value.isprintable() or (setting.secret and " " in value):
        raise UsageError(f"{setting.description}: the value has characters that can't be part of it")
    values[setting.variable] = value


def _base_dir(value: str) -> str:
    """An absolute directory that can be written to; it is made."""
    path = expand(value).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".mccore-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{path} can't be used for runs: {error.strerror}", hint="choose another directory") from error
    return str(path)


def _check_endpoint(value: str) -> None:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"{value!r} is no endpoint", hint="write it as http://HOST:PORT")


def _write(before: dict[str, str], values: dict[str, str]) -> None:
    """Write the file and say what changed, by name only."""
    path = settings.write_settings(values)
    names = ", ".join(values) or "nothing"
    removed = [name for name in before if name not in values]
    echo(f"wrote {path} with {names}" + (f"; removed {', '.join(removed)}" if removed else ""))
    if ignore := _git_ignore(path.parent):
        echo(f"added {FILE_NAME} to {ignore}")
    if _is_tracked(path.parent):
        hint = f"git rm --cached {FILE_NAME}"
        echo(f"warning: {FILE_NAME} is tracked by git, credentials included; untrack it with `{hint}`", err=True)


def _git_ignore(directory: Path) -> Path | None:
    """Add the settings file to .gitignore where it is inside a git checkout and not ignored; the file that was changed."""
    root = next((path for path in (directory, *directory.parents) if (path / ".git").exists()), None)
    if root is None:
        return None
    ignore = root / ".gitignore"
    try:
        before = read_regular(ignore)
    except FileNotFoundError:
        before = b""
    except (OSError, BadJson) as error:
        echo(f"warning: {FILE_NAME} isn't in {ignore}, which can't be read: {cause(error)}", err=True)
        return None
    ignored = _git(directory, "check-ignore", "--quiet", "--no-index", FILE_NAME)
    if ignored == 0 or (ignored is None and FILE_NAME.encode() in map(bytes.strip, before.splitlines())):
        return None
    gap = b"" if before.endswith(b"\n") or not before else b"\n"
    write_theirs(
        ignore, before + gap + FILE_NAME.encode() + b"\n", overwrite=True
    )  # the rest as it is, in any encoding
    return ignore


def _is_tracked(directory: Path) -> bool:
    return _git(directory, "ls-files", "--error-unmatch", FILE_NAME) == 0


def _git(directory: Path, *arguments: str) -> int | None:
    """The exit code of a git command; None where there is no git."""
    git = shutil.which("git")
    if git is None:
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        call = [git, "-C", str(directory), *arguments]
        return subprocess.run(call, capture_output=True, timeout=20, check=False).returncode
    return None
