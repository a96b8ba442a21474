"""What is chosen in the form is what the equivalent command gives."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mccore import plugins
from mccore.cli import main
from mccore.config import RunConfig, walk_fields
from mccore.config.inputs import SettingInput, inputs_of
from mccore.errors import MccoreError
from mccore.resolve.resolve import recipe_config, resolve
from mccore.tui.actions import spelled
from mccore.tui.form import OWN, Form, group_of, option_inputs, option_prefix, recipe_values, settings

ALLOCATOR = "stochastic_greedy"


def options() -> list[SettingInput]:
    """The options of plugins that a run can have, as `mccore plugins show` tells them."""
    told = []
    for kind, name in (("allocator", ALLOCATOR), ("tree", "disk")):
        model = plugins.load(kind, name).options  # type: ignore[call-overload]
        told += option_inputs(kind, name, [vars(each) for each in inputs_of(model, "")])
    return told


ALL = [*settings(), *options()]


def test_every_setting_of_the_schema_is_there_once() -> None:
    paths = [each.path for each in settings()]
    assert len(paths) == len(set(paths))
    assert {*paths, *OWN} == {path for path, _ in walk_fields(RunConfig)}
    assert [each.path for each in ALL if not each.description] == []
    assert {each.path for each in options()} >= {
        option_prefix("allocator", ALLOCATOR) + "sample_top_k",
        option_prefix("tree", "disk") + "fsync",
    }


def value_of(setting: SettingInput) -> st.SearchStrategy[tuple[str, Any]]:
    """What a widget gives for a setting, as its text and as the value that it stands for."""
    if setting.choices:
        return st.sampled_from(setting.choices).map(lambda text: (text, _meant(text)))
    if setting.widget == "number":
        numbers = st.integers(-2, 5000) | st.floats(-1, 2, allow_nan=False)
        return numbers.map(lambda number: (json.dumps(number), number))
    return st.just((setting.default, _meant(setting.default)))


def _meant(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def by_command(form: Form) -> RunConfig | None:
    """The configuration that the command gives which a person would paste into a shell, None where it refuses."""
    words = shlex.split(spelled(form.arguments()))
    assert words[0] == "mccore"
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        code = main([*words[1:], "--dry-run", "--json"])
    return RunConfig.model_validate(json.loads(said.getvalue())["config"]) if code == 0 else None


def by_values(form: Form, values: Mapping[str, Any]) -> RunConfig | None:
    """The configuration of these values, none of which was ever a text."""
    flags = {"megacontext.enabled": True, "megacontext.allocator": form.allocator} if form.megacontext else {}
    prefix = "megacontext.allocator.options.", "megacontext.tree.options."
    kept = {path: value for path, value in values.items() if form.megacontext or not path.startswith(prefix)}
    try:
        return resolve(form.recipe, flags={**kept, **flags})
    except MccoreError:
        return None


@given(st.data())
@examples(suppress_health_check=[HealthCheck.too_slow], max_examples=60, deadline=None)
def test_the_command_gives_the_configuration_of_the_form(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(ALL), max_size=3, unique_by=lambda each: each.path))
    form = Form(recipe="tiny", megacontext=data.draw(st.booleans()), allocator=ALLOCATOR)
    drawn = {each.path: data.draw(value_of(each), label=each.path) for each in chosen}
    form.sets = {path: text for path, (text, _) in drawn.items()}
    assert by_command(form) == by_values(form, {path: value for path, (_, value) in drawn.items()})


@pytest.mark.parametrize("each", ALL, ids=lambda each: each.path)
def test_each_setting_does_what_its_value_says(each: SettingInput) -> None:
    """Other values than its own, through the words of the command, and as values."""
    own = recipe_values(recipe_config("tiny").model_dump(mode="json")).get(each.path, each.default)
    texts = [text for text in each.choices if text != own]
    if each.widget == "number":
        texts = [json.dumps(change(_meant(own or "1"))) for change in (lambda x: x * 2, lambda x: x / 2, lambda x: -1)]
    elif not texts:
        texts = [own]
    form = Form(recipe="tiny", megacontext=each.path.startswith("megacontext."), allocator=ALLOCATOR)
    if each.path.startswith("megacontext.tree.options."):
        form.tree = "disk"
    for text in texts:
        form.sets = {each.path: text}
        words = form.arguments()
        sets = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
        assert sets == [f"{each.path}={text}"]
        flags: dict[str, Any] = {}
        if form.megacontext:
            flags = {"megacontext.enabled": True, "megacontext.allocator": ALLOCATOR}
            flags |= {"megacontext.tree": form.tree} if form.tree else {}
        assert _resolved(sets, flags) == _resolved([], {**flags, each.path: _meant(text)})


def _resolved(sets: list[str], flags: dict[str, Any]) -> RunConfig | None:
    try:
        return resolve("tiny", sets=sets, flags=flags)
    except MccoreError:
        return None


def test_a_refusal_is_that_of_the_command_and_names_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    refused = [
        (Form(sets={"model.depth": "-3", "seed": "1"}), {"model.depth"}),
        (Form(sets={"model.depth": "many"}), {"model.depth"}),
        (Form(megacontext=True, sets={"megacontext.allocator.options.recent_tokens": "-1"}),
         {"megacontext.allocator.options.recent_tokens"}),
        (Form(sets={"megacontext.lens.layers": "2"}), {"megacontext.lens.layers"}),
        (Form(ranks="0"), {"ranks"}),
        (Form(profile="h200"), {"profile"}),
        (Form(name="../up"), {"name"}),
        (Form(stages="base,nowhere"), {"stages"}),
    ]  # fmt: skip
    for form, about in refused:
        assert main([*form.arguments(), "--dry-run"]) != 0
        words = capsys.readouterr().err
        assert about <= form.blamed(words), words
        assert form.blamed(words) & set(form.sets) <= about, words


def test_a_preset_comes_back() -> None:
    form = Form(
        "long", "named", True, "spans", "disk", ("noop", "otel"), "2", "h100", "data,base", {"model.depth": "6"}
    )
    kept = Form.from_json(json.loads(json.dumps(form.to_json())))
    assert kept.arguments() == [word for word in form.arguments() if word not in ("--name", "named")]
    with pytest.raises(ValueError, match="preset"):
        Form.from_json({"recipe": 3})


def test_what_belongs_to_megacontext_is_left_out_without_it() -> None:
    form = Form("tiny", allocator="spans", tree="disk", sets={"megacontext.tree.options.fsync": "always", "seed": "3"})
    assert form.arguments() == ["run", "tiny", "--set", "seed=3"]


def test_options_go_with_their_plugin() -> None:
    sets = {"telemetry.otel.options.endpoint": "http://x", "megacontext.tree.options.fsync": "always", "seed": "3"}
    form = Form("tiny", sets=dict(sets))
    form.forget_options("telemetry", "noop")
    assert form.sets == sets
    form.forget_options("telemetry", "otel")
    form.forget_options("tree")
    assert form.sets == {"seed": "3"}


def test_groups() -> None:
    assert group_of("seed") == "run"
    assert group_of("megacontext.lens.layers") == "megacontext.lens"
