"""From a recipe and what a user typed to the one configuration that a run is.

recipe < profile (`--gpu`) < `--set a.b=c` < dedicated flags, merged as explicitly set fields over the defaults of the schema,
then validated, plugin options through their plugins' own models, then `scaling.derive`. Every error names what the user
typed; a setting that would have no effect is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NoReturn, get_origin

from pydantic import BaseModel, ValidationError

from mccore import plugins
from mccore.api import AllocatorSpec, Extension, Recipe
from mccore.config import TRAINING_STAGES, Choice, RunConfig, Section, describe_validation, walk_fields
from mccore.effects import without_effect
from mccore.errors import ConfigError, PluginError
from mccore.flags import flag_name
from mccore.scaling import derive

Load = Callable[[Any, str], Any]
SEARCH = "megacontext.search.kind"
FINDER = "spans"  # the allocator to name to someone who wants a search
CHOICES: dict[str, plugins.KindName] = {"megacontext.tree": "tree", "megacontext.allocator": "allocator"}
TELEMETRY = "telemetry"
PROFILE = "hardware.gpu"
FIXED = ("schema_version", "recipe")  # known by other means than by setting them


@dataclass(frozen=True)
class Setting:
    """One value for one dotted path. `origin` is what to call it in an error; `text` says that the value is still unparsed."""

    path: str
    value: Any
    origin: str
    text: bool = False


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
    settings = [parse_set(text) for text in sets]
    settings += [
        Setting(path, value, (typed or {}).get(path, flag_name(path))) for path, value in (flags or {}).items()
    ]
    settings += [Setting(PROFILE, gpu, "--gpu")] if gpu else []
    asked = [leaf for setting in settings for leaf in _leaves(setting)]
    draft = _Draft(_spell_out(recipe, recipe_name))
    for setting in _profile_settings(recipe_name, recipe, asked):
        for leaf in _leaves(setting):
            draft.put(leaf)
    draft.settle()
    for leaf in asked:
        draft.put(leaf)
    if draft.values["megacontext"]["enabled"] is False:
        _refuse_unused(asked)  # before a contradiction among settings that nothing reads
    config = draft.validate(asked)
    _refuse_without_effect(config, asked, draft.options)
    derived = derive(_with_plugin_options(config, draft.options, load))
    _refuse_idle(derived, asked)
    _refuse_unread_search(derived, asked)
    return derived


def parse_set(text: str) -> Setting:
    """`a.b=c` as a setting. Raises ConfigError when there is no `=`."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(
            f"`--set {text}` is no assignment", hint="write --set PATH=VALUE, such as --set model.depth=8"
        )
    return Setting(path.strip(), value, f"--set {path.strip()}", text=True)


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


def _profile_settings(name: str, recipe: Recipe, asked: Sequence[_Leaf]) -> list[Setting]:
    """The overrides of the profile that was asked for, or that the recipe itself names."""
    chosen = [leaf for leaf in asked if leaf.path == PROFILE]
    profile = str(_parsed(chosen[-1].setting, str)) if chosen else recipe.config.hardware.gpu
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


# --- settings onto values ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Leaf:
    """A setting of one field of the schema; `rest` is what its path names below the field (a plugin's option, a key)."""

    path: str
    rest: tuple[str, ...]
    annotation: Any
    setting: Setting


def _leaves(setting: Setting) -> Iterator[_Leaf]:
    """A setting as settings of single fields: an object given for a section sets each of its keys."""
    model: type[BaseModel] = RunConfig
    parts = setting.path.split(".")
    for depth, part in enumerate(parts):
        name = part.replace("-", "_")
        info = model.model_fields.get(name)
        if info is None or (depth == 0 and name in FIXED):
            _refuse_path(setting)
        path, rest = ".".join([*parts[:depth], name]).replace("-", "_"), tuple(parts[depth + 1 :])
        annotation = info.annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Section)) or annotation is Choice:
            yield _Leaf(path, rest, annotation, setting)
            return
        model = annotation
    value = _parsed(setting, dict)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"`{setting.origin}`: {path} is a section, not one value",
            hint=f"it has {', '.join(known for known in _settable() if known.startswith(f'{path}.'))}",
        )
    for key, inner in value.items():
        yield from _leaves(Setting(f"{path}.{key}", inner, setting.origin))


@dataclass(frozen=True)
class _Option:
    """A setting of a plugin's option. `choice` is the path of the choice, for telemetry with the provider's name."""

    choice: str
    path: tuple[str, ...]
    setting: Setting


@dataclass
class _Draft:
    """A configuration in the making. Options wait in `options` until all settings are in, so that the order of
    `--allocator` and its options doesn't matter."""

    values: dict[str, Any]
    options: list[_Option] = field(default_factory=list)

    def put(self, leaf: _Leaf) -> None:
        """Set one field, or note an option of a plugin. Raises ConfigError for what the field can't take."""
        *sections, name = leaf.path.split(".")
        values = self.values
        for section in sections:
            values = values[section]
        if leaf.path in CHOICES:
            values[name] = self._choice(values[name], leaf)
        elif leaf.path == TELEMETRY and leaf.rest:
            self._note_options(f"{TELEMETRY}.{leaf.rest[0]}", leaf.rest[1:], leaf.setting)
        elif leaf.path == TELEMETRY:
            values[name] = self._providers(values[name], leaf.setting)
        elif get_origin(leaf.annotation) is dict and len(leaf.rest) == 1:
            values[name] = {**values[name], leaf.rest[0]: _parsed(leaf.setting, None)}
        elif leaf.rest:
            _refuse_path(leaf.setting)
        else:
            values[name] = _parsed(leaf.setting, leaf.annotation)

    def settle(self) -> None:
        """Write noted options into the choices as they are named now, and forget them."""
        for option in self.options:
            choice = self._find(option.choice)
            if choice is not None:
                choice["options"] = _with_option(choice["options"], option.path, option.setting.value)
        self.options = []

    def validate(self, asked: Sequence[_Leaf]) -> RunConfig:
        """The values as a configuration, plugin options still unread. Raises ConfigError that names what was asked."""
        try:
            return RunConfig.model_validate(self.values)
        except ValidationError as error:
            guilty = []
            for item in error.errors(include_url=False):
                path = ".".join(str(part) for part in item["loc"])
                origins = [
                    leaf.setting.origin for leaf in asked if path == leaf.path or path.startswith(leaf.path + ".")
                ]
                guilty += [f"`{origins[-1]}`"] if origins else []
                # Settings that contradict each other are reported of their section.
                guilty += [
                    f"`{leaf.setting.origin}`"
                    for leaf in asked
                    if leaf.path.startswith(f"{path}.") and f"{leaf.path.removeprefix(f'{path}.')}=" in item["msg"]
                ]
            hint = f"it was set by {' and '.join(dict.fromkeys(guilty))}" if guilty else None
            raise ConfigError(describe_validation(error), hint=hint) from error

    def _find(self, path: str) -> dict[str, Any] | None:
        section, _, name = path.partition(".")
        if section == TELEMETRY:
            return next((choice for choice in self.values[TELEMETRY] if choice["name"] == name), None)
        found: dict[str, Any] = self.values[section][name]
        return found

    def _choice(self, choice: dict[str, Any], leaf: _Leaf) -> dict[str, Any]:
        setting = leaf.setting
        if leaf.rest == ("name",):
            return _renamed(choice, _parsed(setting, str))
        if leaf.rest:
            self._note_options(leaf.path, leaf.rest, setting)
            return choice
        value = _parsed(setting, dict)
        if not isinstance(value, Mapping):
            return _renamed(choice, _parsed(setting, str))
        _check_choice(value, setting)
        if "options" in value:
            self._note_options(leaf.path, ("options",), Setting(setting.path, value["options"], setting.origin))
        return _renamed(choice, value.get("name", choice["name"]))

    def _providers(self, former: Sequence[dict[str, Any]], setting: Setting) -> list[dict[str, Any]]:
        """The telemetry providers of a list of names or objects. One that was there already keeps its options."""
        value = _parsed(setting, tuple)
        there = {choice["name"]: choice for choice in former}
        chosen: dict[str, dict[str, Any]] = {}
        for item in [value] if isinstance(value, str | Mapping) or not isinstance(value, Sequence) else value:
            if isinstance(item, Mapping):
                _check_choice(item, setting)
            name = item.get("name") if isinstance(item, Mapping) else item
            if not isinstance(name, str) or not name:
                raise ConfigError(f"`{setting.origin}`: {item!r} names no telemetry provider")
            chosen[name] = dict(there.get(name, {"name": name, "options": {}}))
            if isinstance(item, Mapping) and "options" in item:
                options = Setting(setting.path, item["options"], setting.origin)
                self._note_options(f"{TELEMETRY}.{name}", ("options",), options)
        return list(chosen.values())

    def _note_options(self, choice: str, rest: tuple[str, ...], setting: Setting) -> None:
        """Note a setting of plugin options; an object sets each of its keys."""
        if rest[:1] != ("options",):
            raise ConfigError(
                f"`{setting.origin}`: there is no setting {'.'.join([choice, *rest])}",
                hint=f"options are set by {choice}.options.{rest[0] if rest else 'NAME'}=VALUE",
            )
        if len(rest) > 1:
            self.options.append(_Option(choice, rest[1:], setting))
            return
        value = _parsed(setting, dict)
        if not isinstance(value, Mapping):
            raise ConfigError(f"`{setting.origin}`: options are an object", hint='write it as JSON: {"name": value}')
        for key, inner in value.items():
            self.options.append(_Option(choice, (key,), Setting(setting.path, inner, setting.origin)))


def _parsed(setting: Setting, annotation: Any) -> Any:
    """A setting's value: JSON where the text is JSON, else the text itself.

    The schema has a say: where it wants text, `--set hardware.gpu=5090` is text; where it wants several, `a,b` is two.
    """
    if not setting.text:
        return setting.value
    text = str(setting.value)
    try:
        value = json.loads(text, parse_constant=str)  # NaN and Infinity aren't JSON: they stay text and fail validation
    except ValueError:
        value = text
    if annotation is str and not isinstance(value, str):
        return text
    if isinstance(value, str) and (annotation is tuple or get_origin(annotation) is tuple):
        return [part.strip() for part in value.split(",")]
    return value


def _with_option(options: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """`options` with the value at a path within them, objects on the way made."""
    head, *rest = path
    if not rest:
        return {**options, head: value}
    inner = options.get(head)
    return {**options, head: _with_option(inner if isinstance(inner, Mapping) else {}, tuple(rest), value)}


def _check_choice(value: Mapping[str, Any], setting: Setting) -> None:
    if unknown := sorted(set(value) - {"name", "options"}):
        raise ConfigError(
            f"`{setting.origin}`: a plugin is chosen by name and options, not {', '.join(map(repr, unknown))}",
            hint='write {"name": "...", "options": {...}}',
        )


def _renamed(choice: Mapping[str, Any], name: Any) -> dict[str, Any]:
    """A choice under a name; options belong to the plugin they were written for and go with it."""
    return {"name": name, "options": choice["options"] if choice["name"] == name else {}}


def _settable() -> list[str]:
    return [path for path, _ in walk_fields(RunConfig) if path not in FIXED]


def _refuse_path(setting: Setting) -> NoReturn:
    if setting.path == "recipe":
        raise ConfigError(f"`{setting.origin}`: a recipe is chosen by its name", hint="mccore run RECIPE")
    known = _settable()
    last = setting.path.rpartition(".")[2].replace("-", "_")
    # By the last name first: whole paths of one section resemble each other too much.
    close = [path for path in known if path.rpartition(".")[2] == last]
    close = close or [path for path in known if get_close_matches(last, [path.rpartition(".")[2]], cutoff=0.75)]
    close = get_close_matches(setting.path, close, n=3, cutoff=0) or get_close_matches(setting.path, known, n=3)
    raise ConfigError(
        f"`{setting.origin}`: there is no setting {setting.path!r}",
        hint=f"did you mean {' or '.join(close[:3])}?" if close else "`mccore run RECIPE --dry-run --json` shows all",
    )


# --- no silence ----------------------------------------------------------------------------------------------------------


def _refuse_without_effect(config: RunConfig, asked: Sequence[_Leaf], options: Sequence[_Option]) -> None:
    """Raise ConfigError for what a user set although nothing will read it."""
    if not config.megacontext.enabled:
        _refuse_unused(asked)
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


def _refuse_unused(asked: Sequence[_Leaf]) -> None:
    """Raise ConfigError for a setting of MegaContext in a run without it."""
    for leaf in asked:
        if leaf.path.startswith("megacontext.") and leaf.path != "megacontext.enabled":
            origin = leaf.setting.origin
            raise ConfigError(f"`{origin}` has no effect without --mc", hint=f"add --mc, or leave {origin} out")


def _refuse_idle(config: RunConfig, asked: Sequence[_Leaf]) -> None:
    """Raise ConfigError for a setting that was asked for and that another setting takes the effect from."""
    for leaf in asked:
        if found := without_effect(config, leaf.path):
            raise ConfigError(f"`{leaf.setting.origin}` has no effect: {found.reason}", hint=found.hint)


def _refuse_unread_search(config: RunConfig, asked: Sequence[_Leaf]) -> None:
    """Raise ConfigError for a search whose finds the allocator doesn't show: every session would search its history for
    nothing."""
    mc = config.megacontext
    if not mc.enabled or mc.search.kind == "none":
        return
    either = [leaf.setting.origin for leaf in asked if leaf.path in (SEARCH, "megacontext.allocator")]
    allocator = plugins.build("allocator", mc.allocator, AllocatorSpec(mc.block_size, mc.max_lod, config.seed))
    if not getattr(allocator, "reads_found", False):
        raise ConfigError(
            f"`{either[-1] if either else config.recipe}`: the allocator {mc.allocator.name!r} doesn't show what "
            f"{SEARCH}={mc.search.kind} finds",
            hint=f"choose one that does, --allocator {FINDER}, or no search, --search none",
        )


# --- plugin options ------------------------------------------------------------------------------------------------------


def _with_plugin_options(config: RunConfig, options: Sequence[_Option], load: Load) -> RunConfig:
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


def _complete(kind: plugins.KindName, choice: Choice, path: str, options: Sequence[_Option], load: Load) -> Choice:
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
        value = _parsed(option.setting, info.annotation if len(option.path) == 1 else None)
        values = _with_option(values, (head, *option.path[1:]), value)
        typed[head] = option.setting.origin
    try:
        complete = plugins.read_options(kind, choice.model_copy(update={"options": values}), extension)
    except ConfigError as error:
        guilty = [f"`{origin}`" for name, origin in typed.items() if name in error.message]
        raise ConfigError(
            error.message, hint=f"it was set by {' and '.join(guilty)}" if guilty else error.hint
        ) from error
    return Choice(name=choice.name, options=complete.model_dump(mode="json"))


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
