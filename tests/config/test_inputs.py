"""How settings are edited follows from their types."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from mccore.config.inputs import SettingInput, input_of, inputs_of, spell_value


class Options(BaseModel):
    on: bool = Field(True, description="whether")
    kind: Literal["a", "b", ""] = "a"
    level: Literal[1, 2] = 2
    many: int = Field(3, ge=0, lt=10)
    share: Annotated[float | None, Field(gt=0.5)] = None
    names: tuple[str, ...] = ("x", "y,z")
    text: str = 'a "word"'
    needed: str


FOUND = {each.path: each for each in inputs_of(Options, "a.")}


@pytest.mark.parametrize(
    ("name", "widget", "default", "choices", "bounds"),
    [
        ("on", "choice", "true", ("true", "false"), ""),
        ("kind", "choice", "a", ("a", "b", ""), ""),
        ("level", "choice", "2", ("1", "2"), ""),
        ("many", "number", "3", (), "at least 0, below 10"),
        ("share", "number", "", (), "above 0.5"),
        ("names", "text", '["x", "y,z"]', (), ""),
        ("text", "text", 'a "word"', (), ""),
        ("needed", "text", "", (), ""),
    ],
)
def test_a_type_has_its_widget(name: str, widget: str, default: str, choices: tuple[str, ...], bounds: str) -> None:
    each = FOUND[f"a.{name}"]
    assert (each.widget, each.default, each.choices, each.bounds) == (widget, default, choices, bounds)


def test_a_description_is_kept() -> None:
    assert input_of("p", Options.model_fields["on"]) == SettingInput(
        "p", "whether", "true", "choice", ("true", "false")
    )


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (True, "true"), (0.5, "0.5"), ({"a": 1}, '{"a": 1}'), ("x", "x")]
)
def test_values_are_spelled_as_they_are_set(value: object, text: str) -> None:
    assert spell_value(value) == text
