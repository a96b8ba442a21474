"""Recipe < profile < --set < flags, plugin options, and no setting without an effect."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from mccore import plugins
from mccore.api import Extension, Options, Recipe
from mccore.config import (
    STAGES,
    BaseConfig,
    ChatTrainConfig,
    Choice,
    Described,
    LensConfig,
    MegaContextConfig,
    ModelConfig,
    RunConfig,
    walk_fields,
    walk_settings,
)
from mccore.config.diff import flatten
from mccore.errors import ConfigError, PluginError
from mccore.resolve.draft import parse_set
from mccore.resolve.effects import without_effect
from mccore.resolve.flags import flag_name, flag_table, section_order
from mccore.resolve.resolve import recipe_config, resolve


class Inner(Options):
    rate: float = 0.5
    steps: int = 2


class MildOptions(Options):
    recent_tokens: int = Field(128, ge=0, description="newest tokens")
    label: str = "mild"
    mode: Literal["slow", "fast"] = "slow"
    inner: Inner = Inner()


class SharpOptions(Options):
    recent_tokens: int = 64
    sample_top_k: int = Field(4, ge=1, description="candidates")


class WireOptions(Options):
    endpoint: str = "http://localhost"
    rank0_only: bool = True


def never_built(options: Options, context: object) -> None:
    raise AssertionError("resolving builds nothing")


EXTENSIONS = {
    "tree": {"ram": Options, "disk": Options},
    "allocator": {"greedy": MildOptions, "sharp": SharpOptions},
    "telemetry": {"noop": Options, "wire": WireOptions},
}
RECIPE = Recipe(
    config=RunConfig(
        stages=("data", "tokenizer", "base", "sft", "report"),
        model=ModelConfig(depth=4, head_dim=32, max_seq_len=64),
        base=BaseConfig(tokens=100_000, batch_tokens=1024),
        sft=ChatTrainConfig(mixture={"a": 10}),
        megacontext=MegaContextConfig(
            block_size=8,
            horizon=16,
            expanded_blocks=1,
            lens=LensConfig(temperature=2.0),
            allocator=Choice(name="greedy", options={"recent_tokens": 32}),
        ),
    ),
    profiles={
        "h100": {"hardware.nproc": 8, "base.batch_tokens": 4096, "megacontext.allocator.options.recent_tokens": 256},
        "5090": {"model": {"depth": 6}},
        "bad": {"model.detph": 6},
    },
)


def load(kind: str, name: str) -> Any:
    if kind == "recipe":
        return RECIPE
    if name not in EXTENSIONS[kind]:
        raise PluginError(f"there is no {kind} named {name!r}")
    return Extension(build=never_built, options=EXTENSIONS[kind][name])


def resolved(*sets: str, mc: bool | None = None, gpu: str | None = None, **flags: Any) -> RunConfig:
    """The toy recipe resolved; keyword `a__b=c` is a flag of path `a.b`."""
    paths = {path.replace("__", "."): value for path, value in flags.items()}
    if mc is not None:
        paths["megacontext.enabled"] = mc
    return resolve("toy", sets=sets, flags=paths, gpu=gpu, load=load)


def refusal(*sets: str, **flags: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolved(*sets, **flags)
    return caught.value.render()


# --- layers --------------------------------------------------------------------------------------------------------------


def test_a_recipe_alone_is_complete() -> None:
    config = resolved()
    assert config.recipe == "toy"
    assert config.model.n_embd == 256
    assert config.base.micro_batch_rows > 0
    assert config.telemetry == ()
    assert RunConfig.from_json(config.to_json()) == config


def test_a_section_of_a_recipe_keeps_the_defaults_of_the_schema() -> None:
    config = resolved()
    assert config.sft.mixture == {"a": 10}
    assert config.sft.lr_scale == RunConfig().sft.lr_scale != ChatTrainConfig().lr_scale
    assert recipe_config("toy", load).mid == RunConfig().mid


def test_each_layer_wins_over_the_one_before() -> None:
    assert resolved().base.batch_tokens == 1024
    assert resolved(gpu="h100").base.batch_tokens == 4096
    assert resolved("base.batch_tokens=8192", gpu="h100").base.batch_tokens == 8192
    assert resolved("hardware.nproc=2", "hardware.nproc=4").hardware.nproc == 4
    assert resolved("hardware.nproc=2", hardware__nproc=16).hardware.nproc == 16


@pytest.mark.parametrize(
    "asked",
    [
        {"gpu": "h100"},
        {"hardware__gpu": "h100"},
        {"sets": ["hardware.gpu=h100"]},
        {"sets": ['hardware={"gpu": "h100"}']},
    ],
)
def test_a_profile_is_chosen_by_any_spelling(asked: dict[str, Any]) -> None:
    config = resolved(*asked.pop("sets", []), **asked)
    assert config.hardware.gpu == "h100"
    assert config.hardware.nproc == 8


def test_a_profile_may_set_a_whole_section_and_look_like_a_number() -> None:
    config = resolved("hardware.gpu=5090")
    assert (config.model.depth, config.model.head_dim, config.hardware.gpu) == (6, 32, "5090")


def test_unknown_profiles_are_refused_with_those_there_are() -> None:
    message = refusal(gpu="h10")
    assert "no profile 'h10'" in message
    assert "did you mean h100?" in message
    assert "h100, 5090, bad" in message
    assert "`profile bad of recipe toy`: there is no setting 'model.detph'" in refusal(gpu="bad")


def test_a_recipe_can_name_its_own_profile() -> None:
    config = RECIPE.config.model_copy(update={"hardware": RunConfig().hardware.model_copy(update={"gpu": "h100"})})

    def load_other(kind: str, name: str) -> Any:
        return Recipe(config, profiles=RECIPE.profiles) if kind == "recipe" else load(kind, name)

    assert resolve("toy", load=load_other).hardware.nproc == 8
    assert resolve("toy", sets=["hardware.gpu="], load=load_other).hardware.nproc == 1


# --- --set ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("seed=7", "seed", 7),
        ("base.tokens=2_000_000", "base.tokens", 2_000_000),
        ("base.tokens=1e6", "base.tokens", 1_000_000),
        ("optim.matrix_lr=0.5", "optim.matrix_lr", 0.5),
        ("optim.matrix-lr=0.5", "optim.matrix_lr", 0.5),
        ("model.smear=true", "model.smear", True),
        ("data.corpus=jsonl:/a=b/c.jsonl", "data.corpus", "jsonl:/a=b/c.jsonl"),
        ("data.corpus=7", "data.corpus", "7"),
        ('data.corpus="quoted"', "data.corpus", "quoted"),
        ("stages=data,base, report", "stages", ("data", "base", "report")),
        ('stages=["data", "base"]', "stages", ("data", "base")),
        ("model.x0_init=[0.1, 0.2]", "model.x0_init", (0.1, 0.2)),
        ("sft.mixture.b=3", "sft.mixture", {"a": 10, "b": 3}),
        ('sft.mixture={"c": 3}', "sft.mixture", {"c": 3}),
    ],
)
def test_set_reads_json_else_text(text: str, path: str, value: Any) -> None:
    found: Any = resolved(text)
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value


def test_set_on_a_section_sets_each_of_its_keys() -> None:
    config = resolved('model={"depth": 3, "head_dim": 16}', "model.n_embd=32")
    assert (config.model.depth, config.model.head_dim, config.model.max_seq_len) == (3, 16, 64)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model.detph=3", ["`--set model.detph`", "did you mean model.depth"]),
        ("block_size=3", ["did you mean megacontext.block_size"]),
        ("depth=3", ["did you mean model.depth"]),
        ("model.depth.more=3", ["there is no setting 'model.depth.more'"]),
        ("model=3", ["model is a section", "model.depth"]),
        ("model", ["is no assignment"]),
        ("recipe=other", ["a recipe is chosen by its name"]),
        ("schema_version=2", ["there is no setting 'schema_version'"]),
        ("model.depth=deep", ["model.depth", "'deep'", "it was set by `--set model.depth`"]),
        ("model.depth=0", ["model.depth", "it was set by `--set model.depth`"]),
        ('model={"depth": -1}', ["it was set by `--set model`"]),
        ("model.norm_eps=NaN", ["model.norm_eps"]),
        ("stages=base,data", ["stages", "in this order"]),
        ("sft.mixture.a=-1", ["sft.mixture.a", "it was set by `--set sft.mixture.a`"]),
        ("zzz.yyy=1", ["there is no setting 'zzz.yyy'", "--dry-run --json"]),
    ],
)
def test_bad_settings_are_refused_by_name(text: str, parts: list[str]) -> None:
    message = refusal(text)
    for part in parts:
        assert part in message


LEAVES = [path for path, _ in walk_fields(RunConfig) if path not in ("schema_version", "recipe", "hardware.gpu")]


@given(
    st.sampled_from(LEAVES) | st.text(max_size=20),
    st.text(max_size=20)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ).map(json.dumps),
)
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_setting_or_a_clear_error(path: str, value: str) -> None:
    try:
        config = resolve("toy", sets=[f"{path}={value}", "megacontext.enabled=true"], load=load)
    except (ConfigError, PluginError):
        return
    assert RunConfig.from_json(config.to_json()) == config


@given(st.sampled_from(LEAVES))
@settings(max_examples=80, deadline=None)
def test_setting_a_value_to_what_it_is_changes_nothing(path: str) -> None:
    given = ["stages=" + json.dumps([*STAGES]), "rl.max_new_tokens=16"]  # the toy model reads 64 tokens
    before = resolved(*given, mc=True)
    value: Any = before.model_dump(mode="json")
    for part in path.split("."):
        value = value[part]
    sets = [*given, "megacontext.enabled=true", f"{path}={json.dumps(value)}"]
    if without_effect(before, path):
        with pytest.raises(ConfigError, match="has no effect"):
            resolve("toy", sets=sets, load=load)
    else:
        assert resolve("toy", sets=sets, load=load) == before


# --- plugins and their options -------------------------------------------------------------------------------------------


def test_options_are_spelled_out_for_the_plugins_in_use() -> None:
    config = resolved(mc=True)
    assert config.megacontext.allocator.options == {
        "recent_tokens": 32,
        "label": "mild",
        "mode": "slow",
        "inner": {"rate": 0.5, "steps": 2},
    }
    assert resolved().megacontext.allocator.options == {"recent_tokens": 32}  # not in use: not loaded


@pytest.mark.parametrize(
    "text",
    [
        "megacontext.allocator=sharp",
        "megacontext.allocator.name=sharp",
        'megacontext.allocator="sharp"',
        'megacontext.allocator={"name": "sharp"}',
        'megacontext={"allocator": "sharp"}',
    ],
)
def test_changing_the_name_drops_the_options_of_the_former(text: str) -> None:
    allocator = resolved(text, mc=True).megacontext.allocator
    assert allocator == Choice(name="sharp", options={"recent_tokens": 64, "sample_top_k": 4})
    assert resolved(text, mc=True, gpu="h100").megacontext.allocator == allocator


def test_naming_the_same_plugin_keeps_its_options() -> None:
    assert resolved("megacontext.allocator=greedy", mc=True).megacontext.allocator.options["recent_tokens"] == 32
    assert resolved(mc=True, gpu="h100").megacontext.allocator.options["recent_tokens"] == 256


@pytest.mark.parametrize("order", [1, -1])
def test_options_and_name_in_any_order(order: int) -> None:
    sets = ["megacontext.allocator=sharp", "megacontext.allocator.options.sample_top_k=8"][::order]
    assert resolved(*sets, mc=True).megacontext.allocator.options["sample_top_k"] == 8


@pytest.mark.parametrize(
    ("text", "option", "value"),
    [
        ("megacontext.allocator.options.label=7", "label", "7"),
        ("megacontext.allocator.options.recent-tokens=9", "recent_tokens", 9),
        ('megacontext.allocator.options={"label": "x"}', "label", "x"),
        ('megacontext.allocator={"options": {"label": "x"}}', "label", "x"),
        ("megacontext.allocator.options.inner.steps=9", "inner", {"rate": 0.5, "steps": 9}),
    ],
)
def test_options_by_path(text: str, option: str, value: Any) -> None:
    options = resolved(text, mc=True).megacontext.allocator.options
    assert options[option] == value
    assert options["recent_tokens"] in (32, value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("megacontext.allocator.options.lable=x", ["no option 'lable'", "did you mean label?", "recent_tokens, label"]),
        ("megacontext.allocator.label=x", ["options are set by megacontext.allocator.options.label=VALUE"]),
        ("megacontext.allocator.options=3", ["options are an object"]),
        ('megacontext.allocator={"nam": "x"}', ["chosen by name and options, not 'nam'"]),
        (
            "megacontext.allocator.options.mode=medium",
            ["mode", "'medium'", "it was set by `--set megacontext.allocator."],
        ),
        ("megacontext.allocator.options.inner.steps=x", ["inner.steps", "'x'"]),
        ("megacontext.allocator=", ["megacontext.allocator.name", "it was set by `--set megacontext.allocator`"]),
    ],
)
def test_bad_options_are_refused_by_name(text: str, parts: list[str]) -> None:
    message = refusal(text, mc=True)
    for part in parts:
        assert part in message


def test_an_unknown_plugin_is_the_plugin_cores_to_report() -> None:
    with pytest.raises(PluginError, match="no allocator named 'nope'"):
        resolved(mc=True, megacontext__allocator="nope")


def test_telemetry_by_name_and_by_path() -> None:
    config = resolved(telemetry=["noop", "wire"])
    assert config.telemetry[1] == Choice(name="wire", options={"endpoint": "http://localhost", "rank0_only": True})
    config = resolved("telemetry=noop,wire", "telemetry.wire.options.endpoint=http://x")
    assert [choice.name for choice in config.telemetry] == ["noop", "wire"]
    assert config.telemetry[1].options["endpoint"] == "http://x"
    config = resolved('telemetry=[{"name": "wire", "options": {"rank0_only": false}}]')
    assert config.telemetry[0].options == {"endpoint": "http://localhost", "rank0_only": False}
    assert resolved("telemetry=[]").telemetry == ()


def test_options_of_a_provider_that_is_not_chosen_have_no_effect() -> None:
    message = refusal("telemetry.wire.options.endpoint=http://x")
    assert "`--set telemetry.wire.options.endpoint` has no effect" in message
    assert "add --telemetry wire" in message
    assert "names no telemetry provider" in refusal("telemetry=[3]")
    assert "options are set by telemetry.wire.options.endpoint=VALUE" in refusal("telemetry.wire.endpoint=x")


def test_an_option_of_another_allocator_says_whose_it_is() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(
            "tiny",
            flags={
                "megacontext.enabled": True,
                "megacontext.allocator": "greedy",
                "megacontext.allocator.options.sample_top_k": 4,
            },
            typed={"megacontext.allocator.options.sample_top_k": "--allocator_sample_top_k"},
        )
    message = caught.value.render()
    assert "`--allocator_sample_top_k`: allocator 'greedy' has no option 'sample_top_k'" in message
    assert "stochastic_greedy has it" in message


# --- no silence ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "flags", "words"),
    [
        ([], {"megacontext__allocator": "sharp"}, "`--allocator` has no effect without --mc"),
        ([], {"megacontext__block_size": 16}, "`--block-size` has no effect without --mc"),
        ([], {"megacontext__lens__layers": 4}, "`--mc-lens-layers` has no effect without --mc"),
        (["megacontext.lens.layers=4"], {}, "`--set megacontext.lens.layers` has no effect without --mc"),
        (["megacontext.allocator.options.label=x"], {}, "has no effect without --mc"),
        (['megacontext={"horizon": 3}'], {}, "`--set megacontext` has no effect without --mc"),
        ([], {"megacontext__allocator": "sharp", "mc": False}, "`--allocator` has no effect without --mc"),
        (["mid.epochs=2"], {}, "`--set mid.epochs` has no effect: this run has no stage 'mid'"),
        (["stages=data,base", "sft.epochs=2"], {}, "this run has no stage 'sft'"),
    ],
)
def test_settings_without_effect_are_refused(sets: list[str], flags: dict[str, Any], words: str) -> None:
    assert words in refusal(*sets, **flags)


def test_the_same_settings_with_megacontext_are_taken() -> None:
    config = resolved("megacontext.lens.layers=4", mc=True, megacontext__block_size=16)
    assert (config.megacontext.lens.layers, config.megacontext.block_size) == (4, 16)
    assert config.megacontext.lens.temperature == 2.0
    assert resolved("megacontext.enabled=true", "megacontext.horizon=3").megacontext.horizon == 3


def test_a_recipe_may_prepare_megacontext_without_enabling_it() -> None:
    assert resolved().megacontext.lens.temperature == 2.0


@pytest.mark.parametrize(
    ("recipe", "flags", "origin"),
    [
        ("long", {"megacontext.allocator": "greedy"}, "--allocator"),
        ("tiny", {"megacontext.enabled": True, "megacontext.search.kind": "ngram"}, "--search"),
    ],
)
def test_a_search_whose_finds_nobody_shows_is_refused(recipe: str, flags: dict[str, Any], origin: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(recipe, flags=flags)
    message = caught.value.render()
    assert f"`{origin}`: the allocator 'greedy' doesn't show what megacontext.search.kind=ngram finds" in message
    assert "--allocator spans, or no search, --search none" in message
    spans = resolve(recipe, flags={**flags, "megacontext.allocator": "spans"})
    assert spans.megacontext.search.kind == "ngram"
    assert resolve(recipe, flags={**flags, "megacontext.search.kind": "none"}).megacontext.allocator.name == "greedy"


# --- flags ---------------------------------------------------------------------------------------------------------------

FLAGS = """
--seed --gpu --nproc --nnodes --rdzv-endpoint --device-batch-size --strict --mc --mc-enabled --block-size
--mc-block-size --mc-max-lod --tree --mc-tree
--allocator --allocator-type --mc-allocator --mc-gistnet-kind --mc-gistnet-layers --mc-gistnet-pooling
--mc-gistnet-head --mc-gistnet-skip --mc-gistnet-matrix-lr --mc-gistnet-lr --mc-lens-layers --mc-lens-head
--mc-lens-lr --mc-lens-start --mc-lens-target --mc-lens-queries --mc-lens-loss-weight --mc-lens-question-weight
--mc-lens-gist-gradient --mc-lens-key-floor --mc-lens-temperature --mc-lens-adv-norm-beta --mc-lens-rank-weight
--mc-lens-rank-margin --mc-lens-hard-negative-ratio --mc-lens-max-pairs --mc-lens-kl-weight --mc-lens-budget-weight
--mc-lens-budget-smooth-weight --mc-lens-budget-smooth-beta --search --mc-search-kind --mc-search-span-tokens
--mc-search-query-tokens --mc-search-half-life --mc-search-lookup --mc-positional --mc-token-positions
--mc-span-bias --mc-gist-mass
--mc-position-skip --mc-num-random-variants --mc-start-wc-fraction --mc-train-wc-length --mc-wc-length-steps --mc-min-history
--mc-recent-tokens --mc-expanded-blocks --mc-expanded-run --mc-random-share --mc-policy-share --mc-search-share
--mc-lod2-probability --mc-baseline-share --mc-baseline-tokens --mc-variant-weight --mc-variants-train-gpt --mc-gist-target-weight
--mc-key-token-weight --mc-distill-weight --mc-recon-weight --mc-recon-blocks --mc-horizon --mc-refocus-interval
--mc-wc-length --mc-gist-dtype --mc-kv-policy --mc-surprise --mc-auto-batch --mc-aux-dtype --telemetry
""".split()  # noqa: SIM905 -- a list this long reads better without quotes

PROMISED = """
--mc_tree --tree --mc_num_random_variants --mc_train_wc_length --mc_auto_batch --mc_lens_loss_weight --mc_lens_temperature
--mc_lens_adv_norm_beta --mc_lens_kl_weight --mc_lens_budget_smooth_weight --mc_lens_budget_smooth_beta
--mc_lens_hard_negative_ratio --mc_aux_dtype --allocator_type --allocator --allocator_sample_top_k
--allocator_sample_temperature --allocator_soft_max_length --allocator_recent_tokens --allocator_expand_threshold
--allocator_collapse_threshold --allocator_max_replacements --allocator_iterations --block_size --gpu
""".split()  # noqa: SIM905 -- a list this long reads better without quotes


def test_a_new_flag_needs_this_tests_consent() -> None:
    assert [name for flag in flag_table() for name in flag.names] == FLAGS


def test_every_promised_flag_exists() -> None:
    table = flag_table(plugins.load("allocator", "stochastic_greedy").options, "stochastic_greedy")
    there = {name for flag in table for name in flag.names}
    assert {name.replace("_", "-") for name in PROMISED} <= there


def test_every_setting_of_megacontext_has_a_flag_and_a_section() -> None:
    table = {flag.path: flag for flag in flag_table()}
    paths = [path for path, _ in walk_fields(RunConfig) if path.startswith("megacontext.")]
    assert not set(paths) - set(table)
    assert {flag.section for flag in table.values()} == set(section_order())
    groups = ("MegaContext", "GistNet", "LensNet", "Search", "Training contexts", "Losses", "Inference")
    assert section_order() == ("Run", *groups)


def test_a_derived_number_is_none_until_it_is_derived() -> None:
    described = {one.path: one for one in walk_settings(RunConfig)}
    derived = {path for path, one in described.items() if one.is_derived}
    assert {path for path, one in described.items() if "derived" in (one.info.description or "")} == derived
    config = flatten(resolved("stages=" + json.dumps([*RunConfig().stages]), mc=True))
    assert {path for path in derived if config[path] is None} == {"mid.tokens", "sft.tokens"}
    assert resolved("base.batch_tokens=null") == resolved("base.batch_tokens=null", "base.micro_batch_rows=null")


@pytest.mark.parametrize("path", ["base.tokens", "model.n_embd", "megacontext.wc_length", "optim.lr_batch_scale"])
def test_nothing_is_derived_from_a_zero(path: str) -> None:
    message = refusal(f"{path}=0", mc=True)
    assert f"{path}: input should be greater than 0 (got 0)" in message
    assert "leave it out, or write null, and it is derived" in message


@pytest.mark.parametrize("described", list(walk_settings(RunConfig)), ids=lambda one: one.path)
def test_every_number_has_an_upper_bound(described: Described) -> None:
    """A slip of the finger is refused in one line, before memory or hours are spent on it."""
    if described.kind not in (int, float):
        return
    for value in ("1e300", "-1e300", *(["1e18"] if described.kind is int else [])):
        message = refusal(f"{described.path}={value}", mc=True)
        assert described.path in message
        assert len(message.splitlines()) <= 2


@pytest.mark.parametrize(
    "setting", ["model.depth=1e9", "tokenizer.vocab_size=1e14", "megacontext.wc_length=1e12", "model.max_seq_len=1e12"]
)
def test_sizes_that_no_machine_has_are_refused(setting: str) -> None:
    path = setting.partition("=")[0]
    message = refusal(setting, mc=True)
    assert f"{path}: input should be less than or equal to" in message
    assert f"it was set by `--set {path}`" in message


def test_every_flag_has_a_description_and_a_name_of_its_own() -> None:
    table = flag_table(SharpOptions, "sharp")
    names = [name for flag in table for name in flag.names]
    assert len(names) == len(set(names))
    assert [flag.path for flag in table if not flag.description] == ["megacontext.allocator.options.recent_tokens"]
    assert flag_name("megacontext.allocator.options.sample_top_k") == "--allocator-sample-top-k"
    assert flag_name("megacontext.enabled") == "--mc"


def test_an_option_whose_flag_is_taken_keeps_its_path() -> None:
    class Greedy(Options):
        type: str = "x"
        other: int = 1

    table = flag_table(Greedy, "mine")
    assert [flag.names for flag in table if flag.path.startswith("megacontext.allocator.options")] == [
        ("--allocator-other",)
    ]


def test_parse_set_keeps_everything_after_the_first_equals() -> None:
    setting = parse_set("a.b=c=d")
    assert (setting.path, setting.value, setting.origin) == ("a.b", "c=d", "--set a.b")
