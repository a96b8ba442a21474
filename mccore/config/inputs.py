"""How a setting is edited in a form: from its type, so that a form knows nothing of single settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

Widget = Literal["choice", "number", "text"]

_BOUNDS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))


@dataclass(frozen=True)
class SettingInput:
    """One setting: where it is, what it means, how it is edited. Texts are as `--set PATH=VALUE` takes them."""

    path: str
    description: str
    default: str
    widget: Widget
    choices: tuple[str, ...] = ()
    bounds: str = ""  # of a number, in words


def input_of(path: str, info: FieldInfo) -> SettingInput:
    """How the setting at `path` is edited."""
    kind = _without_none(info.annotation)
    default = "" if info.is_required() else spell_value(info.get_default(call_default_factory=True, validated_data={}))
    choices: tuple[str, ...] = ()
    if kind is bool:
        choices = ("true", "false")
    elif get_origin(kind) is Literal:
        choices = tuple(spell_value(each) for each in get_args(kind))
    widget: Widget = "choice" if choices else "number" if kind in (int, float) else "text"
    bounds = [f"{words} {value:g}" for name, words in _BOUNDS if (value := _bound(info, name)) is not None]
    return SettingInput(path, info.description or "", default, widget, choices, ", ".join(bounds))


def inputs_of(model: type[BaseModel], prefix: str) -> Iterator[SettingInput]:
    """How each field of an options model is edited; paths begin with `prefix`."""
    for name, info in model.model_fields.items():
        yield input_of(f"{prefix}{name}", info)


def spell_value(value: Any) -> str:
    """A value as `--set PATH=VALUE` takes it, empty for None: text as it is, all else as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(TypeAdapter(Any).dump_python(value, mode="json", fallback=str))


def _without_none(annotation: Any) -> Any:
    """`T | None` as T."""
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return kinds[0] if len(kinds) == 1 else annotation
    return annotation


def _bound(info: FieldInfo, name: str) -> float | None:
    """A bound of a number, None where there is none or it isn't one number."""
    values = [getattr(item, name, None) for item in info.metadata]
    return next((float(value) for value in values if isinstance(value, int | float)), None)
