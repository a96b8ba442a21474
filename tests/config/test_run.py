"""The schema: strict, frozen, described, and the same after a file."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from mccore.config import (
    STAGES,
    TRAINING_STAGES,
    Choice,
    RunConfig,
    Section,
    describe_validation,
    walk_fields,
    walk_settings,
)
from mccore.errors import ConfigError

PATHS = dict(walk_fields(RunConfig))
UNDESCRIBED = {"schema_version", "recipe"}


def sections(model: type[BaseModel] = RunConfig) -> set[type[BaseModel]]:
    found = {model}
    for info in model.model_fields.values():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            found |= sections(info.annotation)
    return found


def test_walk_fields_reaches_every_leaf_once() -> None:
    dumped = RunConfig().model_dump()

    def leaves(values: dict[str, Any], prefix: str = "") -> set[str]:
        found = set()
        for name, value in values.items():
            path = prefix + name
            inner = isinstance(value, dict) and path not in PATHS
            found |= leaves(value, f"{path}.") if inner else {path}
        return found

    assert leaves(dumped) == set(PATHS)
    assert len(list(walk_fields(RunConfig))) == len(PATHS)
    assert {"megacontext.lens.temperature", "megacontext.allocator", "telemetry", "sft.mixture"} <= set(PATHS)


def test_every_setting_is_described_and_every_section_explained() -> None:
    assert [path for path, info in PATHS.items() if not info.description and path not in UNDESCRIBED] == []
    for section in sections():
        assert section.__doc__
        assert section.model_config["frozen"]
        assert section.model_config["extra"] == "forbid"


def test_flag_names_are_unique() -> None:
    names = [name for info in PATHS.values() for name in (info.json_schema_extra or {}).get("flags", [])]
    assert len(names) == len(set(names))


def test_the_default_configuration_survives_a_file() -> None:
    config = RunConfig()
    assert RunConfig.from_json(config.to_json()) == config
    assert config.to_json() == RunConfig.from_json(config.to_json()).to_json()
    assert config.to_json().endswith("}\n")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    name=st.text(min_size=1),
    options=st.dictionaries(st.text(max_size=8), JSON, max_size=4),
    mixture=st.dictionaries(st.text(max_size=8), st.integers(0, 10**9), max_size=4),
    rate=st.floats(0, 1e6, allow_nan=False),
    corpus=st.text(max_size=20),
)
@settings(deadline=None)
def test_any_configuration_survives_a_file(
    name: str, options: dict[str, Any], mixture: dict[str, int], rate: float, corpus: str
) -> None:
    config = RunConfig.model_validate(
        {
            "megacontext": {"allocator": {"name": name, "options": options}},
            "sft": {"mixture": mixture},
            "optim": {"matrix_lr": rate},
            "data": {"corpus": corpus},
        }
    )
    assert RunConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"modle": {}}, "modle: unknown setting"),
        ({"model": {"detph": 3}}, "model.detph: unknown setting"),
        ({"model": {"depth": 0}}, "model.depth: input should be greater than 0 (got 0)"),
        ({"model": {"head_dim": 3}}, "model.head_dim: input should be a multiple of 2 (got 3)"),
        ({"model": {"window_pattern": "SX"}}, "model.window_pattern"),
        ({"optim": {"matrix_lr": float("nan")}}, "optim.matrix_lr"),
        ({"optim": {"matrix_lr": float("inf")}}, "optim.matrix_lr"),
        ({"stages": ["base", "data"]}, "each once and in this order"),
        ({"stages": ["base", "base"]}, "each once and in this order"),
        ({"stages": []}, "each once and in this order"),
        ({"stages": ["bass"]}, "stages.0"),
        ({"megacontext": {"gistnet": {"layers": 3}}}, "megacontext.gistnet.layers"),
        ({"megacontext": {"allocator": {"name": ""}}}, "megacontext.allocator.name"),
        ({"telemetry": [{"name": "noop", "option": {}}]}, "telemetry.0.option: unknown setting"),
        ({"schema_version": 3}, "schema_version"),
        ({"sft": {"mixture": {"a": -1}}}, "sft.mixture.a"),
    ],
)
def test_wrong_values_are_refused_by_path(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate(values)
    described = describe_validation(caught.value)
    assert words in described
    assert "\n" not in described


def test_several_faults_are_described_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_json('{"model": {"depth": 0}, "seed": -1}', source="here.json")
    assert caught.value.message.startswith("here.json: ")
    assert "model.depth" in caught.value.message
    assert "seed" in caught.value.message


def test_a_file_of_version_1_says_zero_where_a_number_is_to_be_derived() -> None:
    old = {
        "schema_version": 1,
        "model": {"n_embd": 0, "depth": 4},
        "sft": {"tokens": 0, "micro_batch_rows": 0, "eval_every_tokens": 0},
        "optim": {"lr_batch_scale": 0.0, "grad_clip": 0.0},
        "megacontext": {"wc_length": 0, "recent_tokens": 64, "horizon": 32, "surprise": 0.0},
    }
    config = RunConfig.model_validate(old)
    assert config.schema_version == 2
    assert (config.model.n_embd, config.model.depth) == (None, 4)
    assert (config.sft.tokens, config.sft.micro_batch_rows, config.sft.eval_every_tokens) == (None, None, 0)
    assert (config.optim.lr_batch_scale, config.optim.grad_clip) == (None, 0.0)
    assert (config.megacontext.wc_length, config.megacontext.recent_tokens) == (None, 64)
    assert old["model"] == {"n_embd": 0, "depth": 4}
    with pytest.raises(ValidationError):
        RunConfig.model_validate({**old, "schema_version": 2})
    with pytest.raises(ValidationError):  # a section that isn't one is reported, not tripped over
        RunConfig.model_validate({**old, "model": 3})


def test_every_setting_has_a_group_and_needs_that_exist() -> None:
    described = {one.path: one for one in walk_settings(RunConfig)}
    assert [path for path, one in described.items() if one.group == "Run" and "." in path] == []
    for one in described.values():
        for need in one.needs:
            assert need["path"] in described
            assert need["path"] != one.path
            assert {"above", "below", "one_of"} & need.keys()


def test_a_choice_is_a_name_or_an_object() -> None:
    assert Choice.model_validate("greedy") == Choice(name="greedy", options={})
    assert Choice.model_validate({"name": "greedy", "options": {"a": [1, None]}}).options == {"a": [1, None]}


def test_configurations_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        RunConfig().seed = 3  # type: ignore[misc]


def test_training_stages_are_stages_with_a_section_each() -> None:
    assert set(TRAINING_STAGES) <= set(STAGES)
    assert all(stage in RunConfig.model_fields for stage in TRAINING_STAGES)
