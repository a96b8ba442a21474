"""What every section of the configuration is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

Count = Annotated[int, Field(ge=0)]

Positive = Annotated[int, Field(gt=0)]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

NonNegative = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A frozen group of settings; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def flags(*names: str) -> dict[str, Any]:
    """Extra command-line names for a field, beside the one its path gives."""
    return {"flags": list(names)}


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


def walk_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a schema as (dotted path, pydantic FieldInfo), depth first, in declaration order. A Choice is a leaf."""
    for name, info in model.model_fields.items():
        path = f"{prefix}{name}"
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section) and kind is not Choice:
            yield from walk_fields(kind, f"{path}.")
        else:
            yield path, info


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
