"""What every plugin that returns an `Extension` has in common: options that a form can show and a file can hold."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mccore.api import Extension, Options


class ExtensionSuite:
    """Base of the suites of tree backends, allocators and telemetry providers."""

    def extension(self) -> Extension[Any]:
        """What your hook returns. Override this."""
        raise NotImplementedError(f"{type(self).__name__} has to override extension() and return what the hook returns")

    def options(self) -> Options:
        """The options to test with. Override it to test others than the defaults."""
        return self.extension().options()

    def test_extension_has_a_summary(self) -> None:
        summary = self.extension().summary
        assert summary.strip(), "the summary is what `mccore plugins` shows"
        assert "\n" not in summary, "the summary is one line"

    def test_options_have_defaults_and_descriptions(self) -> None:
        model = self.extension().options
        assert issubclass(model, Options)
        assert model() == model(), "options have to compare by value"
        for name, field in model.model_fields.items():
            assert not field.is_required(), f"option {name} has no default"
            assert (field.description or "").strip(), f"option {name} has no description"

    def test_options_are_frozen(self) -> None:
        options = self.extension().options()
        for name in type(options).model_fields:
            with pytest.raises(ValidationError):
                setattr(options, name, getattr(options, name))

    def test_options_refuse_unknown_names(self) -> None:
        with pytest.raises(ValidationError):
            self.extension().options.model_validate({"no_such_option": 1})

    def test_options_survive_a_file(self) -> None:
        options = self.options()
        assert type(options).model_validate_json(options.model_dump_json()) == options
