"""`.mc_env` in the working directory: credentials and places that belong to a machine and a user, not to a run.

Lines of `KEY=VALUE`, quoted so that a shell can read them too. Only the variables in `KNOWN` are
taken, and a command says which, so that a foreign file can't change how programs start. Variables already set win over the file.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mccore.errors import UsageError
from mccore.host.files import write_atomic
from mccore.host.paths import working_directory
from mccore.host.regular import NotRegularError, regular_descriptor
from mccore.host.text import decode

FILE_NAME = ".mc_env"


@dataclass(frozen=True)
class Variable:
    """One variable that `mccore setup` asks for. `choices` limits its values; a `secret` is never shown."""

    variable: str
    description: str
    secret: bool = False
    choices: tuple[str, ...] = ()


SETTINGS = (
    Variable("MCCORE_BASE_DIR", "directory for runs and caches"),
    Variable("WANDB_API_KEY", "Weights & Biases key", secret=True),
    Variable("WANDB_PROJECT", "Weights & Biases project"),
    Variable("WANDB_MODE", "Weights & Biases mode", choices=("online", "offline", "disabled")),
    Variable("HF_TOKEN", "Hugging Face token", secret=True),
    Variable("OTEL_EXPORTER_OTLP_ENDPOINT", "OpenTelemetry endpoint, such as http://127.0.0.1:4318"),
    Variable("OTEL_EXPORTER_OTLP_PROTOCOL", "OpenTelemetry protocol", choices=("http/protobuf", "grpc")),
    Variable("OTEL_EXPORTER_OTLP_HEADERS", "OpenTelemetry headers (name=value,...)", secret=True),
)
# All that a settings file may have: the settings above, and what providers and caches are told beside them.
_SIGNALS = ("", "TRACES_", "METRICS_", "LOGS_")
_EXPORTER = (
    "ENDPOINT", "HEADERS", "PROTOCOL", "TIMEOUT", "CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY", "INSECURE",
    "COMPRESSION",
)  # fmt: skip
PROVIDER_OPTION = re.compile(r"MCCORE_[A-Z0-9]+_[A-Z0-9_]+|MCCORE_TELEMETRY")  # as MCCORE_PROMETHEUS_PORT
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
KNOWN = frozenset(
    [setting.variable for setting in SETTINGS]
    + [f"OTEL_EXPORTER_OTLP_{signal}{name}" for signal in _SIGNALS for name in _EXPORTER]
    + ["OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER"]
    + ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SDK_DISABLED", "MC_OTEL_ENDPOINT", "MC_OTEL_INSECURE"]
    + ["PROMETHEUS_PASSWORD", "WANDB_RUN", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_ERROR_REPORTING"]
    + ["HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE"]
    + ["MCCORE_DISABLE_PLUGINS"]
)
_OURS = [variable for variable in KNOWN if variable.startswith("MCCORE_")]  # what an option of a provider looks like
_MOST_BYTES = 1 << 16


def read_settings(directory: Path | None = None) -> dict[str, str]:
    """The variables in a directory's `.mc_env`, empty when there is none.

    Raises UsageError for a link, a file of another user, and a line that can't be read, DataError for what isn't UTF-8; values
    are never part of it.
    """
    directory = directory or working_directory()
    if directory is None:  # it was deleted
        return {}
    path = directory / FILE_NAME
    try:
        fd = regular_descriptor(path, links=False)
    except FileNotFoundError:
        return {}
    except NotRegularError as error:
        raise UsageError(f"{path} isn't a file", hint="delete it, or work in another directory") from error
    except OSError as error:
        if path.is_symlink():
            raise UsageError(f"{path} is a link: it isn't followed", hint="put the file itself there") from error
        raise UsageError(f"can't read {path}: {error.strerror}", hint="correct its permissions or delete it") from error
    with os.fdopen(fd, "rb") as file:
        if os.fstat(fd).st_uid not in (os.getuid(), 0):
            raise UsageError(f"{path} belongs to another user", hint="delete it, or work in a directory of your own")
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path} is larger than {_MOST_BYTES >> 10} KiB", hint="delete it and run `mccore setup`")
    return parse_settings(decode(data, str(path)), str(path))


def parse_settings(text: str, source: str = FILE_NAME) -> dict[str, str]:
    """Variables of a `.mc_env` text. Raises UsageError with the line, without its value."""
    values = {}
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        variable, equals, quoted = content.removeprefix("export ").partition("=")
        where = f"{source}, line {number}"
        if not equals or not variable.strip().isidentifier():
            raise UsageError(
                f"{where}: no KEY=VALUE", hint="correct the line, or delete the file and run `mccore setup`"
            )
        variable = variable.strip()
        if not _NAME.fullmatch(variable):  # perhaps a key that ends in `=`: it isn't shown
            raise UsageError(f"{where}: no name of a setting", hint="names are in capital letters, as in HF_TOKEN=...")
        if variable not in KNOWN and not PROVIDER_OPTION.fullmatch(variable):
            raise UsageError(
                f"{where}: {variable} isn't a setting that {FILE_NAME} may have", hint="set it in your shell instead"
            )
        if variable not in KNOWN and (meant := get_close_matches(variable, _OURS, n=1, cutoff=0.9)):
            raise UsageError(f"{where}: {variable} isn't a setting", hint=f"did you mean {meant[0]}?")
        try:
            parts = shlex.split(quoted)
        except ValueError as error:
            raise UsageError(f"{where}: {variable}: {str(error).lower()}") from error
        if len(parts) > 1:
            raise UsageError(
                f"{where}: the value of {variable} needs quotes", hint="a comment goes on a line of its own"
            )
        if "\0" in quoted:
            raise UsageError(f"{where}: the value of {variable} has a NUL in it", hint="correct the line")
        values[variable] = parts[0] if parts else ""
    return values


def format_settings(values: Mapping[str, str]) -> str:
    """The text of a `.mc_env`. Raises UsageError for a value that isn't one line."""
    lines = ["# Settings of mccore, written by `mccore setup`. Keep this file to yourself: it may hold credentials."]
    for variable, value in values.items():
        if not value.isprintable():
            raise UsageError(f"the value of {variable} isn't one line of printable text")
        lines.append(f"{variable}={shlex.quote(value)}")
    return "\n".join(lines) + "\n"


def write_settings(values: Mapping[str, str], directory: Path | None = None) -> Path:
    """Replace a directory's `.mc_env`, readable by its owner alone from the moment it exists. Refuses to write over a link."""
    directory = directory or working_directory()
    if directory is None:
        raise UsageError("the working directory was deleted: nothing was written", hint="change to another one")
    path = directory / FILE_NAME
    if path.is_symlink():
        raise UsageError(
            f"{path} is a link: nothing was written", hint="delete the link, then run `mccore setup` again"
        )
    write_atomic(path, format_settings(values), private=True)
    return path


def apply_settings(environ: MutableMapping[str, str] | None = None, directory: Path | None = None) -> list[str]:
    """Put the settings of the working directory into the environment where they aren't set already.

    Returns the variables that were taken, so that a command can say so: the file of a cloned project may send data elsewhere.
    """
    environ = os.environ if environ is None else environ
    taken = []
    for variable, value in read_settings(directory).items():
        if variable not in environ:
            environ[variable] = value
            taken.append(variable)
    return taken
