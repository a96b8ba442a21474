"""What is chosen in the form is what the equivalent command gives."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mccore.cli import main
from mccore.config import RunConfig, walk_fields
from mccore.errors import MccoreError
from mccore.resolve.resolve import resolve
from mccore.tui.form import OWN, Form, FormField, settings


def test_every_setting_of_the_schema_is_there_once() -> None:
    paths = [each.path for each in settings()]
    assert len(paths) == len(set(paths))
    assert {*paths, *OWN} == {path for path, _ in walk_fields(RunConfig)}
    assert [each.path for each in settings() if not each.description] == []


def value_of(setting: FormField) -> st.SearchStrategy[str]:
    if setting.choices:
        return st.sampled_from(setting.choices)
    if setting.widget == "number":
        return st.integers(-2, 5000).map(str) | st.floats(-1, 2, allow_nan=False).map(str)
    return st.just(setting.default)


@given(st.data())
@examples(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
def test_the_command_gives_the_configuration_of_the_form(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(settings()), max_size=3, unique_by=lambda each: each.path))
    form = Form(recipe="tiny", megacontext=data.draw(st.booleans()))
    form.sets = {each.path: data.draw(value_of(each), label=each.path) for each in chosen}
    arguments = form.arguments()
    assert arguments[:2] == ["run", "tiny"]
    sets = [arguments[place + 1] for place, word in enumerate(arguments) if word == "--set"]
    flags = {"megacontext.enabled": True} if "--mc" in arguments else {}
    try:
        config = resolve("tiny", sets=sets, flags=flags)
    except MccoreError:
        return  # refused, by the command as by the form, which asks the command
    assert config.megacontext.enabled == form.megacontext or "megacontext.enabled" in form.sets
    for each in chosen:
        value = config
        for name in each.path.split("."):
            value = getattr(value, name)
        if each.widget == "number" and float(form.sets[each.path]):  # 0 is derived
            assert float(value) == float(form.sets[each.path])  # type: ignore[arg-type]
        elif each.choices:
            assert str(value).lower() == form.sets[each.path].lower()


def test_a_refusal_is_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    form = Form(recipe="tiny", sets={"model.depth": "-3"})
    assert main([*form.arguments(), "--dry-run"]) == 2
    assert "model.depth" in capsys.readouterr().err


def test_a_preset_comes_back() -> None:
    form = Form("long", "named", True, "spans", "disk", ("noop", "otel"), "2", {"model.depth": "6"})
    kept = Form.from_json(json.loads(json.dumps(form.to_json())))
    assert kept.arguments() == [word for word in form.arguments() if word not in ("--name", "named")]
    with pytest.raises(ValueError, match="preset"):
        Form.from_json({"recipe": 3})


def test_what_belongs_to_megacontext_is_left_out_without_it() -> None:
    assert Form("tiny", allocator="spans", tree="disk").arguments() == ["run", "tiny"]
