"""What every section of the configuration is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    NotRequired,
    TypedDict,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic.fields import FieldInfo

# Upper bounds are far above what anyone runs. They stop a slip of the finger before memory or hours are spent on it.
MAX_COUNT = 10**15
MAX_LENGTH = 2**26  # tokens or entries that are read at once
MAX_WIDTH = 2**20  # channels

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]

Positive = Annotated[int, Field(gt=0, le=MAX_COUNT)]

Length = Annotated[int, Field(gt=0, le=MAX_LENGTH)]
"""Tokens or entries that are read at once."""

Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]
"""Channels of a vector."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

NonNegative = Annotated[float, Field(ge=0.0, le=1e9)]

Factor = Annotated[float, Field(gt=0.0, le=1e9)]

# Numbers that `mccore.scaling.derive` fills where they are None. Code that reads them has a derived configuration, in which
# they are numbers: that is what a type checker is told.
if TYPE_CHECKING:
    DerivedCount = int
    DerivedLength = int
    DerivedWidth = int
    DerivedFactor = float
else:
    DerivedCount = Annotated[int | None, Field(gt=0, le=MAX_COUNT)]
    DerivedLength = Annotated[int | None, Field(gt=0, le=MAX_LENGTH)]
    DerivedWidth = Annotated[int | None, Field(gt=0, le=MAX_WIDTH)]
    DerivedFactor = Annotated[float | None, Field(gt=0.0, le=1e9)]


class Need(TypedDict):
    """What another setting must be for a setting to have an effect: above or below a number, or one of several values."""

    path: str
    above: NotRequired[float]
    below: NotRequired[float]
    one_of: NotRequired[tuple[Any, ...]]
    reason: str
    hint: str


class Section(BaseModel):
    """A frozen group of settings; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    group: ClassVar[str] = "Run"
    """Where its settings stand in help and docs, but for those that name a group of their own."""


def flags(*names: str) -> dict[str, Any]:
    """Extra command-line names for a field, beside the one its path gives."""
    return {"flags": list(names)}


def derived(description: str, **about: Any) -> Any:
    """A field that is None until it is derived. `description` says from what; `about` as for `setting`."""
    return Field(None, description=description, json_schema_extra=about or None)


def setting(default: Any, description: str, **about: Any) -> Any:
    """A field with more to say of it: `flags` (extra names), `group` (its place in help), `needs` (a tuple of `Need`)."""
    return Field(default, description=description, json_schema_extra=about or None)


class Choice(Section):
    """A plugin by the name a user types, and the options its own model declares."""

    name: Annotated[str, Field(min_length=1)]
    options: dict[str, JsonValue] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


SectionT = TypeVar("SectionT", bound=BaseModel)

_MOST_SHOWN = 80  # letters of a value in an error

_MOST_FAULTS = 8  # fields in an error


@dataclass(frozen=True)
class Described:
    """One setting of the schema, and where it stands."""

    path: str
    info: FieldInfo
    group: str

    @property
    def kind(self) -> Any:
        """Its type, without the None of what isn't derived yet."""
        kinds = [kind for kind in get_args(self.info.annotation) if kind is not NoneType]
        return (
            kinds[0]
            if get_origin(self.info.annotation) in (Union, UnionType) and len(kinds) == 1
            else self.info.annotation
        )

    @property
    def flags(self) -> list[str]:
        """Extra command-line names."""
        return list(self._about.get("flags", ()))

    @property
    def needs(self) -> list[Need]:
        """What other settings must be for this one to have an effect."""
        return list(self._about.get("needs", ()))

    @property
    def takes_share(self) -> bool:
        """Whether a person may also give it as a share of the sequence."""
        return bool(self._about.get("share"))

    @property
    def is_derived(self) -> bool:
        """Whether it is None until it is derived."""
        return NoneType in get_args(self.info.annotation)

    @property
    def _about(self) -> dict[str, Any]:
        extra = self.info.json_schema_extra
        return dict(extra) if isinstance(extra, dict) else {}


def walk_settings(model: type[BaseModel], prefix: str = "", group: str = "Run") -> Iterator[Described]:
    """Every leaf of a schema, depth first, in declaration order. A Choice is a leaf."""
    for name, info in model.model_fields.items():
        path, kind = f"{prefix}{name}", info.annotation
        if isinstance(kind, type) and issubclass(kind, Section) and kind is not Choice:
            yield from walk_settings(kind, f"{path}.", kind.group)
        else:
            about = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
            yield Described(path, info, str(about.get("group", group)))


def walk_fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Every leaf of a schema as (dotted path, pydantic FieldInfo), as `walk_settings` finds them."""
    for described in walk_settings(model):
        yield described.path, described.info


def describe_validation(error: ValidationError) -> str:
    """A validation error as one line per field: dotted path, what is wrong, what was given (not for the type `secret`)."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"]) or "value"
        given = (
            ""
            if item["type"] in ("missing", "extra_forbidden", "secret", "json_invalid")
            or isinstance(item["input"], dict)
            else f" (got {_short(item['input'])})"
        )
        message = "unknown setting" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        lines.append(f"{path}: {message[:1].lower()}{message[1:]}{given}")
    more = f"; and {len(lines) - _MOST_FAULTS} more" if len(lines) > _MOST_FAULTS else ""
    return "; ".join(lines[:_MOST_FAULTS]) + more


def _short(value: Any) -> str:
    """A value as it was given, of which a screen takes no more than a line."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        return type(value).__name__
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def validate_stored(model: type[SectionT], content: Any) -> SectionT:
    """`content` of a file of ours as a model. Raises ValueError in one line for what the model doesn't take."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ValueError(describe_validation(error).removeprefix("value: ")) from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
