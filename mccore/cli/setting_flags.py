"""The flags of `mccore run` that set configuration values, generated from the schema and from the chosen allocator.

How a command takes them:

    @click.command(cls=ConfiguredCommand)
    @click.argument("recipe")
    @click.option("--dry-run", is_flag=True, help="Print and leave.")
    @click.pass_context
    def run(ctx: click.Context, recipe: str, dry_run: bool) -> None:
        config = resolve_given(ctx, recipe)  # RunConfig, complete; raises ConfigError or PluginError

The command gets `--set` and every flag of `mccore.resolve.flags.flag_table`; none of them is a parameter of the
function. `given(ctx)` is what the user typed of them, for a command that must know whether anything was (`--resume`
takes no settings).
Options of a third party's allocator are there too: the command line is read once ahead for `--allocator`, its alias, `--set`
and the recipe, and that one plugin is loaded when its options are needed.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from mccore import plugins
from mccore.config import Choice, RunConfig
from mccore.errors import PluginError
from mccore.host.json_file import parse_json
from mccore.host.terminal import echo
from mccore.resolve.draft import parse_set
from mccore.resolve.flags import Flag, flag_table, section_order, switch_names
from mccore.resolve.notes import DEVICE_BATCH, plain_switches
from mccore.resolve.refusals import refuse_option
from mccore.resolve.resolve import recipe_config, resolve

if TYPE_CHECKING:
    from mccore.runtime.open import OpenModel
    from mccore.runtime.sessions import Sessions

_META = "mccore.cli.setting_flags"
_ALLOCATOR = "megacontext.allocator"


@dataclass
class Given:
    """What a user typed: `sets` as `path=value` texts, `flags` by dotted path, `typed` the spelling of each of those flags."""

    sets: list[str] = field(default_factory=list)
    flags: dict[str, Any] = field(default_factory=dict)
    typed: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.sets or self.flags)


def given(ctx: click.Context) -> Given:
    """The settings that were typed for the command of `ctx`."""
    state: _State = ctx.meta[_META]
    return state.given


def resolve_given(ctx: click.Context, recipe: str) -> RunConfig:
    """The complete configuration of a recipe with what was typed. Raises ConfigError or PluginError.

    A provider that was chosen has the options that the environment gives, below those that were typed.
    """
    from mccore.telemetry.activation import from_environment, options_of

    asked = given(ctx)
    config = resolve(recipe, sets=asked.sets, flags=asked.flags, typed=asked.typed)
    sets = []
    for choice in config.telemetry:
        if options := options_of(choice.name):
            from_environment(choice.name)  # complains in the name of the variable
            sets += [f"telemetry.{choice.name}.options.{option}={text}" for option, (_, text) in options.items()]
    return resolve(recipe, sets=[*sets, *asked.sets], flags=asked.flags, typed=asked.typed) if sets else config


@dataclass
class _State:
    """What one parse of a command line has found."""

    options: list[FlagOption]
    given: Given = field(default_factory=Given)


class FlagOption(click.Option):
    """A click option made from one `Flag`. It passes its value to `given(ctx)`, and only when it was typed."""

    def __init__(self, flag: Flag, default: Any) -> None:
        self.flag = flag
        self.shown_default = default
        is_bool = flag.annotation is bool
        names = [f"{name}/--no-{name[2:]}" if is_bool else name for name in flag.names]
        super().__init__(
            [flag.path.replace(".", "__"), *names],
            type=None if is_bool else _click_type(flag),
            multiple=get_origin(flag.annotation) is tuple,
            expose_value=False,
            callback=_collect,
            shell_complete=_complete_plugins(flag) if _plugin_kind(flag) else None,
            metavar=_metavar(flag),
        )

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        self.help = _help(self.flag, self.shown_default, self.multiple)  # lists plugins: only when somebody reads it
        return super().get_help_record(ctx)


class NumberRange(click.FloatRange):
    """A range that not-a-number isn't in: every comparison with it is false, so click lets it pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class ConfiguredCommand(click.Command):
    """A command with `--set` and the generated flags beside its own parameters; see the module's docstring."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--set", "sets"],
                multiple=True,
                metavar="PATH=VALUE",
                expose_value=False,
                callback=_collect_sets,
                help="Set any value of the configuration, as --set model.depth=8. Repeatable.",
            )
        )

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        # Both spellings of every flag also where the command isn't reached through the group.
        extra.setdefault("token_normalize_func", lambda token: token.replace("_", "-"))
        return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_META] = _State([FlagOption(flag, flag.default) for flag in flag_table()])
        typed, args = args, plain_switches(args, switch_names(flag_table()))
        ctx.meta[_META] = _State(_generate(self, ctx, args))
        _note_spelling(ctx.meta[_META], typed)
        args = plain_switches(args, switch_names([option.flag for option in ctx.meta[_META].options]))
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        state: _State | None = ctx.meta.get(_META)
        return super().get_params(ctx) + list(state.options if state else [])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options, then the generated ones by section."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        sections.update((name, []) for name in section_order())
        for param in self.get_params(ctx):
            record = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
            if record:
                section = param.flag.section if isinstance(param, FlagOption) else "Options"
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            if records:
                with formatter.section(section):
                    formatter.write_dl(records)


def dashed(token: str) -> str:
    """A flag with dashes for underscores: `--mc_lens_layers` and `--mc-lens-layers` are one."""
    return token.replace("_", "-") if token.startswith("-") else token


# --- generating ----------------------------------------------------------------------------------------------------------


def _generate(command: ConfiguredCommand, ctx: click.Context, args: Sequence[str]) -> list[FlagOption]:
    """The options for one command line. A plugin is loaded only where its options are asked for or shown."""
    schema_flags = [name for flag in flag_table() for name in _names(flag)]
    typed = {dashed(token): token for token in (arg.partition("=")[0] for arg in args)}
    asked = [
        flag for flag in typed if flag.startswith(("--allocator-", "--no-allocator-")) and flag not in schema_flags
    ]
    shown = ctx.resilient_parsing or any(flag in ctx.help_option_names for flag in typed)
    if not asked and not shown:
        return [FlagOption(flag, flag.default) for flag in flag_table()]
    recipe, allocator = _peek(command, ctx, args)
    config, name, model = RunConfig(), allocator, None
    try:
        config = recipe_config(recipe) if recipe else config
        name = allocator or config.megacontext.allocator.name
        model = plugins.load("allocator", name).options
    except PluginError:
        if asked:  # the plugin whose options were typed is the one that can't be loaded
            raise
    table = flag_table(model, name)
    there = [name for flag in table for name in _names(flag)]
    for flag in asked:
        if flag not in there:
            option = flag.removeprefix("--no-").removeprefix("--").removeprefix("allocator-").replace("-", "_")
            refuse_option("allocator", name, option, typed[flag])
    return [FlagOption(flag, _value_in(config, flag, name)) for flag in table]


def _names(flag: Flag) -> list[str]:
    """Every spelling of a flag, with those that switch it off."""
    return [*flag.names, *(f"--no-{name[2:]}" for name in flag.names if flag.annotation is bool)]


def _value_in(config: RunConfig, flag: Flag, allocator: str) -> Any:
    """What holds for a flag that isn't typed: the recipe's value, else the plugin's default."""
    option = flag.path.removeprefix(f"{_ALLOCATOR}.options.")
    if flag.path == DEVICE_BATCH:
        return flag.default
    if option != flag.path:
        chosen = config.megacontext.allocator
        return chosen.options.get(option, flag.default) if chosen.name == allocator else flag.default
    value: Any = config
    for part in flag.path.split("."):
        value = getattr(value, part)
    return value


def _peek(command: ConfiguredCommand, ctx: click.Context, args: Sequence[str]) -> tuple[str, str]:
    """The recipe and the allocator that a command line names, "" where it doesn't, without complaining about the rest."""
    parser = command.make_parser(ctx)
    parser.ignore_unknown_options = True
    try:
        values, rest, _ = parser.parse_args(list(args))
    except click.UsageError:  # the real parse will say so
        return "", ""
    # The value of an option that isn't known yet may stand where the recipe does, so any word may be the recipe.
    words = [values.get(param.name) for param in command.params if isinstance(param, click.Argument)]
    recipes = plugins.names("recipe")
    recipe = next((word for word in [*words, *rest] if word in recipes), "")
    allocator = ""
    for text in values.get("sets") or ():
        path, _, value = text.partition("=")
        if path in (_ALLOCATOR, f"{_ALLOCATOR}.name"):
            allocator = _allocator_name(value) or allocator
    return recipe, values.get(_ALLOCATOR.replace(".", "__")) or allocator


def _allocator_name(text: str) -> str:
    """The name in the value of `--set megacontext.allocator=...`: bare, or JSON."""
    try:
        value = parse_json(text)
    except ValueError:
        return text
    name = value.get("name", "") if isinstance(value, dict) else value
    return name if isinstance(name, str) else ""


def _note_spelling(state: _State, args: Sequence[str]) -> None:
    """Keep how each flag was spelled, so that an error names what the user typed."""
    paths = {name: option.flag.path for option in state.options for name in (*option.opts, *option.secondary_opts)}
    for arg in args:
        token = arg.partition("=")[0]
        if dashed(token) in paths:
            state.given.typed[paths[dashed(token)]] = token


def _collect(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    assert isinstance(param, FlagOption)
    if param.name and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
        given(ctx).flags[param.flag.path] = list(value) if isinstance(value, tuple) else value


def _collect_sets(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> None:
    for text in value:
        parse_set(text)  # refuse a malformed one here, before anything is loaded
        given(ctx).sets.append(text)


# --- types and words -----------------------------------------------------------------------------------------------------


class _Literal(click.Choice[Any]):
    """One of a few values of any scalar type, as `Literal[2, 4]`."""

    def __init__(self, values: Sequence[Any]) -> None:
        super().__init__([str(value) for value in values])
        self._values = {str(value): value for value in values}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._values[super().convert(str(value), param, ctx)]

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        # As they are spelled, where click would compare them with dashes for underscores.
        return [CompletionItem(value) for value in self._values if value.startswith(incomplete)]


class _Json(click.ParamType[Any]):
    """A value of a structured option: JSON, else the text itself; the plugin's model decides."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse_json(value)
        except ValueError:
            return value


def _click_type(flag: Flag) -> click.ParamType[Any]:
    annotation = _without_none(flag.annotation)
    if flag.share:
        return click.STRING
    if annotation is int or annotation is float:
        return _number_type(annotation, flag.metadata)
    if get_origin(annotation) is Literal:
        return _Literal(get_args(annotation))
    if annotation is str or _plugin_kind(flag):
        return click.STRING
    return _Json()


def _without_none(annotation: Any) -> Any:
    """`T | None` as T."""
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [each for each in get_args(annotation) if each is not type(None)]
        return inner[0] if len(inner) == 1 else annotation
    return annotation


def _number_type(annotation: type, metadata: Sequence[Any]) -> click.ParamType[Any]:
    bounds: dict[str, Any] = {}
    for item in metadata:
        for name, bound in (("ge", "min"), ("gt", "min"), ("le", "max"), ("lt", "max")):
            if (value := getattr(item, name, None)) is not None:
                bounds |= {bound: value, f"{bound}_open": name in ("gt", "lt")}
    if not bounds:
        return click.INT if annotation is int else click.FLOAT
    return click.IntRange(**bounds) if annotation is int else click.FloatRange(**bounds)


def _metavar(flag: Flag) -> str | None:
    """Bounds are shown beside the default, so a number is just N (whole) or X."""
    if _plugin_kind(flag):
        return "NAME"
    return {int: "N", float: "X"}.get(_without_none(flag.annotation))


_PLUGIN_FLAGS: Mapping[str, plugins.KindName] = {
    "megacontext.tree": "tree",
    _ALLOCATOR: "allocator",
    "telemetry": "telemetry",
}


def _plugin_kind(flag: Flag) -> plugins.KindName | None:
    return _PLUGIN_FLAGS.get(flag.path)


def _complete_plugins(flag: Flag) -> Any:
    kind = _plugin_kind(flag)
    assert kind is not None

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        rows = [row for row in plugins.describe(kind) if row.health == "ok" and row.name.startswith(incomplete)]
        return [CompletionItem(row.name, help=row.summary) for row in rows]

    return complete


def _help(flag: Flag, default: Any, several: bool) -> str:
    """The schema's description, what there is to choose from, and the value that holds without the flag."""
    kind = _plugin_kind(flag)
    choices = f": {', '.join(plugins.names(kind))}" if kind else ""
    shown = ", ".join(_show(item) for item in default) if isinstance(default, tuple | list) else _show(default)
    text = flag.description[:1].upper() + flag.description[1:]
    return f"{text}{choices}{'; repeatable' if several else ''}" + (f"  [default: {shown}]" if shown else "")


def _show(value: Any) -> str:
    if isinstance(value, Choice):
        return value.name
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else str(value)


def open_sessions(opened: OpenModel, **flags: Any) -> Sessions:
    """Sessions of a model by a user's flags; tells where an allocator waits for a search. Errors as in `runtime.sessions`."""
    from mccore.runtime.sessions import session_options

    sessions = opened.sessions(session_options(opened.config.megacontext, **flags))
    for missing in (sessions.missing_search, sessions.missing_lookup):
        if missing is not None:
            echo(f"({missing})", err=True)
    return sessions
