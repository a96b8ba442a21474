"""Settings that would have no effect, or contradict each other, are refused in the words of the user."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

from mccore import plugins
from mccore.config import TRAINING_STAGES, RunConfig
from mccore.errors import ConfigError, PluginError
from mccore.resolve.draft import FINDER, SEARCH, TELEMETRY, Leaf, Load, PluginOption
from mccore.resolve.effects import without_effect

# --- no silence ----------------------------------------------------------------------------------------------------------


def refuse_without_effect(config: RunConfig, asked: Sequence[Leaf], options: Sequence[PluginOption]) -> None:
    """Raise ConfigError for what a user set although nothing will read it."""
    if not config.megacontext.enabled:
        refuse_unused(asked)
    for leaf in asked:
        section, origin = leaf.path.partition(".")[0], leaf.setting.origin
        if section in TRAINING_STAGES and section not in config.stages:
            raise ConfigError(
                f"`{origin}` has no effect: this run has no stage {section!r}",
                hint=f"its stages: {', '.join(config.stages)}",
            )
    chosen = [choice.name for choice in config.telemetry]
    for option in options:
        kind, _, provider = option.choice.partition(".")
        if kind == TELEMETRY and provider not in chosen:
            raise ConfigError(
                f"`{option.setting.origin}` has no effect: telemetry provider {provider!r} isn't chosen",
                hint=f"add --telemetry {provider}; chosen: {', '.join(chosen) or 'none'}",
            )


def refuse_unused(asked: Sequence[Leaf]) -> None:
    """Raise ConfigError for a setting of MegaContext in a run without it."""
    for leaf in asked:
        if leaf.path.startswith("megacontext.") and leaf.path != "megacontext.enabled":
            origin = leaf.setting.origin
            raise ConfigError(f"`{origin}` has no effect without --mc", hint=f"add --mc, or leave {origin} out")


def refuse_idle(config: RunConfig, asked: Sequence[Leaf]) -> None:
    """Raise ConfigError for a setting that was asked for and that another setting takes the effect from."""
    for leaf in asked:
        if found := without_effect(config, leaf.path):
            raise ConfigError(f"`{leaf.setting.origin}` has no effect: {found.reason}", hint=found.hint)


def refuse_unread_search(config: RunConfig, asked: Sequence[Leaf], load: Load) -> None:
    """Raise ConfigError for a search whose finds the allocator doesn't show: every session would search its history for
    nothing."""
    mc = config.megacontext
    if not mc.enabled or mc.search.kind == "none":
        return
    either = [leaf.setting.origin for leaf in asked if leaf.path in (SEARCH, "megacontext.allocator")]
    declared = load("allocator", mc.allocator.name).reads
    if declared is not None and "found" not in declared:  # of those that don't declare it, sessions find out
        raise ConfigError(
            f"`{either[-1] if either else config.recipe}`: the allocator {mc.allocator.name!r} doesn't show what "
            f"{SEARCH}={mc.search.kind} finds",
            hint=f"choose one that does, --allocator {FINDER}, or no search, --search none",
        )


def refuse_option(kind: plugins.KindName, name: str, option: str, origin: str, load: Load = plugins.load) -> NoReturn:
    """Raise ConfigError for an option that plugin `name` doesn't have, saying what it has and who else has this one."""
    there = list(load(kind, name).options.model_fields)
    owners = []
    for other in plugins.names(kind):
        try:
            if option in load(kind, other).options.model_fields:
                owners.append(other)
        except PluginError:  # a broken neighbour doesn't change what is wrong here
            continue
    noun = plugins.KINDS[kind].noun
    close = get_close_matches(option, there, n=3)
    hints = [f"did you mean {' or '.join(close)}?"] if close else []
    hints += [f"{', '.join(owners)} {'has' if len(owners) == 1 else 'have'} it"] if owners else []
    hints += [f"options of {name}: {', '.join(there)}" if there else f"{name} has no options"]
    raise ConfigError(f"`{origin}`: {noun} {name!r} has no option {option!r}", hint="; ".join(hints))
