"""Which telemetry providers are on, and why: what the run was told, else what the environment says at this start.

| variable | switches on |
| --- | --- |
| `MC_OTEL_ENDPOINT`, `OTEL_EXPORTER_OTLP_ENDPOINT` and those of single signals | `otel`, for runs with `--mc` |
| `WANDB_API_KEY`, `WANDB_RUN` | `wandb`; not where `WANDB_RUN` is `dummy` or `WANDB_MODE` is `disabled` |
| `MCCORE_NAME_OPTION`, as `MCCORE_PROMETHEUS_PORT` | the provider NAME, with this option |
| `MCCORE_TELEMETRY` | those it names, separated by commas; `noop` for none |

A provider that was chosen (`--telemetry`) is in `run.json`, and then the environment switches nothing on. What the environment
switches on is not: it holds for one start. Values are options, never credentials: an option holds the name of a variable.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mccore import plugins
from mccore.config import Choice, RunConfig
from mccore.errors import ConfigError
from mccore.host.json_file import parse_json

NOBODY = "noop"
LIST_VARIABLE = "MCCORE_TELEMETRY"
_PREFIX = "MCCORE_"
_OTEL_VARIABLES = (
    "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "MC_OTEL_ENDPOINT",
)  # fmt: skip
_WANDB_VARIABLES = ("WANDB_RUN", "WANDB_API_KEY")


@dataclass(frozen=True)
class Active:
    """A provider that is on, and why."""

    choice: Choice
    why: str


@dataclass(frozen=True)
class Activation:
    """The providers of one start. `remarks` name what the environment would switch on and why it doesn't."""

    active: tuple[Active, ...]
    remarks: tuple[str, ...] = ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The providers with their options."""
        return tuple(one.choice for one in self.active)

    def lines(self) -> Iterator[str]:
        """What is on and why, a line each."""
        for one in self.active:
            yield f"{one.choice.name}: {one.why}"
        yield from self.remarks or (() if self.active else ("none",))


def activate(config: RunConfig, environ: Mapping[str, str] | None = None) -> Activation:
    """The providers that are on for this start. Raises ConfigError for a setting of the environment that can't be used."""
    environ = os.environ if environ is None else environ
    if config.telemetry:
        return chosen(config.telemetry)
    reasons, remarks = _reasons(config, environ)
    found = []
    for name, why in reasons.items():
        if name not in plugins.names("telemetry"):
            raise ConfigError(
                f"{why}, but there is no telemetry provider {name!r}",
                hint=f"there are {', '.join(plugins.names('telemetry'))}; --telemetry {NOBODY} switches all off",
            )
        found.append(Active(from_environment(name, environ), why))
    return Activation(tuple(found), tuple(remarks))


def chosen(choices: Iterable[Choice]) -> Activation:
    """Those that were chosen, whatever the environment says."""
    kept = [Active(choice, "chosen for this run") for choice in choices if choice.name != NOBODY]
    return Activation(tuple(kept), () if kept else (f"none: {NOBODY} is chosen",))


def options_of(name: str, environ: Mapping[str, str] | None = None) -> dict[str, tuple[str, str]]:
    """Options of a provider that the environment gives: option -> variable, text. Raises ConfigError for an unknown option."""
    environ = os.environ if environ is None else environ
    prefix = f"{_PREFIX}{name.upper().replace('-', '_')}_"
    given = {variable: text for variable, text in environ.items() if variable.startswith(prefix) and text.strip()}
    if not given:
        return {}
    fields = plugins.load("telemetry", name).options.model_fields
    # Variables that options name hold credentials; they are the provider's to read.
    named = {field.get_default() for field in fields.values()}
    found = {}
    for variable, text in sorted(given.items()):
        option = variable.removeprefix(prefix).lower()
        if option in fields:
            found[option] = (variable, text)
        elif variable not in named:
            raise ConfigError(
                f"{variable} is set, but telemetry provider {name!r} has no option {option!r}",
                hint=f"unset it; options of {name}: {', '.join(fields)}",
            )
    return found


def _reasons(config: RunConfig, environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Provider -> why it is on, and remarks about those that aren't."""
    listed = [name.strip() for name in environ.get(LIST_VARIABLE, "").split(",") if name.strip()]
    if NOBODY in listed:
        return {}, [f"none: {LIST_VARIABLE} says {NOBODY}"]
    reasons = dict.fromkeys(listed, f"{LIST_VARIABLE} names it")
    remarks = []
    if "otel" not in reasons and (set_ := _is_set(environ, _OTEL_VARIABLES)):
        if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            remarks.append("otel is off: OTEL_SDK_DISABLED is true")
        elif config.megacontext.enabled:
            reasons["otel"] = f"{set_} is set"
        else:
            remarks.append(f"otel is off: {set_} counts for runs with --mc; --telemetry otel switches it on")
    if "wandb" not in reasons and (set_ := _is_set(environ, _WANDB_VARIABLES)):
        if environ.get("WANDB_RUN", "").strip() == "dummy":
            remarks.append("wandb is off: WANDB_RUN is dummy")
        elif environ.get("WANDB_MODE", "").strip() == "disabled":
            remarks.append("wandb is off: WANDB_MODE is disabled")
        else:
            reasons["wandb"] = f"{set_} is set"
    for name in plugins.names("telemetry"):
        if name not in reasons and name != NOBODY and (options := options_of(name, environ)):
            reasons[name] = f"{next(iter(options.values()))[0]} is set"
    return reasons, remarks


def _is_set(environ: Mapping[str, str], variables: Sequence[str]) -> str:
    return next((variable for variable in variables if environ.get(variable, "").strip()), "")


def from_environment(name: str, environ: Mapping[str, str] | None = None) -> Choice:
    """A provider with its options as the environment gives them, checked and spelled out. Raises ConfigError."""
    given = options_of(name, environ)
    extension = plugins.load("telemetry", name)
    values: dict[str, Any] = {option: _parse_option(text) for option, (_, text) in given.items()}
    try:
        options = plugins.read_options("telemetry", Choice(name=name, options=values), extension)
    except ConfigError as error:
        guilty = [variable for option, (variable, _) in given.items() if option in error.message]
        raise ConfigError(
            error.message, hint=f"it was set by {' and '.join(guilty)}" if guilty else error.hint
        ) from error
    return Choice(name=name, options=options.model_dump(mode="json"))


def _parse_option(text: str) -> Any:
    """A variable's text as an option: lists and objects are JSON, the option's own type reads the rest."""
    if text.lstrip().startswith(("[", "{")):
        try:
            return parse_json(text)
        except ValueError:
            return text
    return text.strip()
