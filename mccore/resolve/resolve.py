"""From a recipe and what a user typed to the one configuration that a run is.

recipe < profile (`--gpu`) < `--set a.b=c` < dedicated flags, merged as explicitly set fields over the defaults of the schema,
then validated, plugin options through their plugins' own models, then `scaling.derive`. Every error names what the user
typed; a setting that would have no effect is an error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from mccore import plugins
from mccore.api import Extension, Recipe
from mccore.config import TRAINING_STAGES, Choice, RunConfig, Section, stage_spec
from mccore.errors import ConfigError
from mccore.host.paths import absolute_source
from mccore.host.text import spell
from mccore.resolve.draft import (
    CHOICES,
    PROFILE,
    TELEMETRY,
    Draft,
    Leaf,
    Load,
    PluginOption,
    Setting,
    leaves_of,
    parse_set,
    parse_value,
    with_option,
)
from mccore.resolve.flags import flag_name
from mccore.resolve.notes import DEVICE_BATCH, SHARES, without_shares
from mccore.resolve.refusals import (
    refuse_idle,
    refuse_option,
    refuse_unread_search,
    refuse_unused,
    refuse_without_effect,
)
from mccore.scaling.derive import derive, with_rows_at_most


def resolve(
    recipe_name: str,
    *,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    typed: Mapping[str, str] | None = None,
    gpu: str | None = None,
    load: Load = plugins.load,
) -> RunConfig:
    """The complete configuration of a run, every default spelled out.

    `sets` are `path=value` texts, `flags` maps dotted paths to values and wins over them; `typed` gives the spelling of a
    flag for error messages; `gpu` is the recipe's profile. Raises ConfigError, or PluginError for a faulty plugin.
    """
    recipe: Recipe = load("recipe", recipe_name)
    settings, given = [parse_set(text) for text in sets], dict(flags or {})
    rows = given.pop(DEVICE_BATCH, None)
    settings += [Setting(path, value, (typed or {}).get(path, flag_name(path))) for path, value in given.items()]
    settings += [Setting(PROFILE, gpu, "--gpu")] if gpu else []
    asked = [leaf for setting in settings for leaf in leaves_of(setting)]
    draft = Draft(_spell_out(recipe, recipe_name))
    for setting in _profile_settings(recipe_name, recipe, asked):
        for leaf in leaves_of(setting):
            draft.put(leaf)
    draft.settle()
    for leaf in asked:
        if leaf.path not in SHARES:
            draft.put(leaf)
    asked = without_shares(asked, draft.values["model"]["max_seq_len"])
    for leaf in asked:
        if leaf.path in SHARES:
            draft.put(leaf)
    if draft.values["megacontext"]["enabled"] is False:
        refuse_unused(asked)  # before a contradiction among settings that nothing reads
    config = _with_absolute_paths(draft.validate(asked))
    refuse_without_effect(config, asked, draft.options)
    derived = derive(_with_plugin_options(config, draft.options, load))
    if rows is not None:
        derived = with_rows_at_most(derived, rows)
    refuse_idle(derived, asked)
    refuse_unread_search(derived, asked, load)
    return derived


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """`config` with every path of data as it reads from any directory: a run is resumed from elsewhere, too."""
    data = config.data.model_copy(update={"corpus": _absolute("data.corpus", config.data.corpus)})
    sections = {
        stage: getattr(config, stage).model_copy(
            update={
                "mixture": {
                    _absolute(f"{stage}.mixture", name): count for name, count in getattr(config, stage).mixture.items()
                }
            }
        )
        for stage in TRAINING_STAGES
        if stage_spec(stage).chat
    }
    bundle, tokenizer = config.eval.core_bundle, config.tokenizer.source
    if bundle:
        sections["eval"] = config.eval.model_copy(update={"core_bundle": _absolute_path("eval.core_bundle", bundle)})
    if tokenizer:
        taken = _absolute_path("tokenizer.source", tokenizer)
        sections["tokenizer"] = config.tokenizer.model_copy(update={"source": taken})
    return config.model_copy(update={"data": data, **sections})


def _absolute_path(path: str, name: str) -> str:
    """A path on this machine as it reads from any directory. Raises ConfigError as `_absolute`."""
    return _absolute(path, os.path.join(os.getcwd(), os.path.expanduser(name)))


def _absolute(path: str, name: str) -> str:
    """`name` with an absolute path. Raises ConfigError for one that `run.json`, which is UTF-8, can't hold."""
    absolute = absolute_source(name)
    try:
        absolute.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{path}: the name {spell(absolute)} isn't UTF-8, and a run's configuration is",
            hint="rename the file or folder",
        ) from None
    return absolute


def recipe_config(name: str, load: Load = plugins.load) -> RunConfig:
    """What a recipe says, before profile, overrides and derivation."""
    return RunConfig.model_validate(_spell_out(load("recipe", name), name))


def _spell_out(recipe: Recipe, name: str) -> dict[str, Any]:
    """The schema's defaults with a recipe's explicitly set fields on top, as nested values.

    Laid over the schema's own defaults and not over those of each section's class: `mid` and `sft` share a class, and a
    recipe that only names a mixture keeps the rest of its stage's defaults.
    """
    values = RunConfig().model_dump()
    _overlay(values, recipe.config)
    return {**values, "recipe": name}


def _overlay(values: dict[str, Any], explicit: BaseModel) -> None:
    dumped = explicit.model_dump()
    for name in explicit.model_fields_set:
        inner = getattr(explicit, name)
        if isinstance(inner, Section) and not isinstance(inner, Choice):
            _overlay(values[name], inner)
        else:
            values[name] = dumped[name]


def _profile_settings(name: str, recipe: Recipe, asked: Sequence[Leaf]) -> list[Setting]:
    """The overrides of the profile that was asked for, or that the recipe itself names."""
    chosen = [leaf for leaf in asked if leaf.path == PROFILE]
    profile = str(parse_value(chosen[-1].setting, str)) if chosen else recipe.config.hardware.gpu
    if not profile:
        return []
    if profile not in recipe.profiles:
        close = get_close_matches(profile, recipe.profiles, n=1)
        raise ConfigError(
            f"recipe {name} has no profile {profile!r}",
            hint=(f"did you mean {close[0]}? " if close else "")
            + (f"its profiles: {', '.join(recipe.profiles)}" if recipe.profiles else "it has none; leave --gpu out"),
        )
    origin = f"profile {profile} of recipe {name}"
    settings = [Setting(path, value, origin) for path, value in recipe.profiles[profile].items()]
    return [*settings, Setting(PROFILE, profile, origin)]


def with_provider_options(
    choices: Sequence[Choice], sets: Sequence[str], load: Load = plugins.load
) -> tuple[Choice, ...]:
    """Telemetry providers with options as `PROVIDER.OPTION=VALUE` over their own, checked and spelled out. Raises ConfigError."""
    draft = Draft({TELEMETRY: [choice.model_dump() for choice in choices]})
    for text in sets:
        provider, dot, rest = text.partition(".")
        if not dot or provider not in [choice.name for choice in choices]:
            raise ConfigError(
                f"`--set {text}` is no option of {' or '.join(choice.name for choice in choices)}",
                hint="write --set PROVIDER.OPTION=VALUE",
            )
        for leaf in leaves_of(parse_set(f"{TELEMETRY}.{provider}.options.{rest}")):
            draft.put(leaf)
    return tuple(_complete("telemetry", each, f"{TELEMETRY}.{each.name}", draft.options, load) for each in choices)


# --- plugin options ------------------------------------------------------------------------------------------------------


def _with_plugin_options(config: RunConfig, options: Sequence[PluginOption], load: Load) -> RunConfig:
    """`config` with the options of every plugin it uses validated and spelled out. Plugins it doesn't use aren't loaded."""
    telemetry = tuple(
        _complete("telemetry", choice, f"{TELEMETRY}.{choice.name}", options, load) for choice in config.telemetry
    )
    megacontext = config.megacontext
    if megacontext.enabled:
        chosen = {
            path.partition(".")[2]: _complete(kind, getattr(megacontext, path.partition(".")[2]), path, options, load)
            for path, kind in CHOICES.items()
        }
        megacontext = megacontext.model_copy(update=chosen)
    return config.model_copy(update={"telemetry": telemetry, "megacontext": megacontext})


def _complete(kind: plugins.KindName, choice: Choice, path: str, options: Sequence[PluginOption], load: Load) -> Choice:
    extension: Extension[Any] = load(kind, choice.name)
    values: dict[str, Any] = dict(choice.options)
    typed: dict[str, str] = {}
    for option in options:
        if option.choice != path:
            continue
        head = option.path[0].replace("-", "_")
        info = extension.options.model_fields.get(head)
        if info is None:
            refuse_option(kind, choice.name, head, option.setting.origin, load)
        value = parse_value(option.setting, info.annotation if len(option.path) == 1 else None)
        values = with_option(values, (head, *option.path[1:]), value)
        typed[head] = option.setting.origin
    try:
        complete = plugins.read_options(kind, choice.model_copy(update={"options": values}), extension)
    except ConfigError as error:
        guilty = [f"`{origin}`" for name, origin in typed.items() if name in error.message]
        raise ConfigError(
            error.message, hint=f"it was set by {' and '.join(guilty)}" if guilty else error.hint
        ) from error
    return Choice(name=choice.name, options=complete.model_dump(mode="json"))
