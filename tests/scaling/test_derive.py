"""The depth dial: nanochat's published numbers, and every way to ask for something impossible."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mccore.config import (
    BaseConfig,
    ChatTrainConfig,
    HardwareConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TokenizerConfig,
)
from mccore.errors import ConfigError
from mccore.scaling.derive import derive
from mccore.scaling.model import count_parameters, derive_model, flops_per_token, kv_bytes_per_token, layer_windows
from mccore.scaling.plan import memory_estimate, planned_flops, train_plan

RL: dict[str, object] = {"stages": ["sft", "rl"]}


def config(depth: int = 12, **sections: object) -> RunConfig:
    model = {"depth": depth, "window_pattern": "SSSL"} | dict(sections.pop("model", {}))  # type: ignore[call-overload]
    return RunConfig.model_validate({"model": model} | sections)


# depth, width, total, value embeddings, matrices, head, scaling (millions), GFLOP per token, cache bytes per token
TABLE = [
    (4, 256, 37, 16.8, 3.1, 8.4, 11.5, 0.080, 8_192),
    (6, 384, 74, 37.7, 10.6, 12.6, 23.2, 0.168, 18_432),
    (8, 512, 126, 67.1, 25.2, 16.8, 41.9, 0.296, 32_768),
    (12, 768, 286, 151, 84.9, 25.2, 110.1, 0.760, 73_728),
    (16, 1024, 537, 268, 201, 33.6, 234.9, 1.585, 131_072),
    (20, 1280, 897, 419, 393, 41.9, 435.2, 2.886, 204_800),
    (22, 1408, 1123, 508, 523, 46.1, 569.5, 3.763, 247_808),
    (24, 1536, 1384, 604, 679, 50.3, 729.8, 4.775, 294_912),
    (26, 1664, 1682, 709, 864, 54.5, 918.4, 5.991, 346_112),
    (32, 2048, 2819, 1074, 1611, 67.1, 1677.7, 10.77, 524_288),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"d{row[0]}")
def test_parameters_and_flops_of_nanochat(row: tuple[float, ...]) -> None:
    depth, width, total, values, matrices, head, scaling, gflop, cache = row
    model = derive(config(int(depth))).model
    count = count_parameters(model)
    assert model.n_embd == width
    # A figure printed to some digits is good to half of its last one.
    assert count.total / 1e6 == pytest.approx(total, abs=0.55)
    assert count.value_embeddings / 1e6 == pytest.approx(values, abs=0.5 if values > 150 else 0.06)
    assert count.matrices / 1e6 == pytest.approx(matrices, abs=0.55 if matrices > 100 else 0.06)
    assert count.head / 1e6 == pytest.approx(head, abs=0.06)
    assert count.scaling / 1e6 == pytest.approx(scaling, abs=0.06)
    assert flops_per_token(model) / 1e9 == pytest.approx(gflop, rel=0.002, abs=0.0006)
    assert kv_bytes_per_token(model, 4) == cache


@pytest.mark.parametrize(
    ("depth", "batch", "steps", "decay"),
    [
        (8, 2**18, 1920, 0.520),
        (12, 2**19, 2520, 0.280),
        (16, 2**19, 5376, 0.131),
        (20, 2**20, 4980, 0.100),
        (24, 2**20, 8352, 0.060),
        (26, 2**20, 10_510, 0.048),
        (32, 2**21, 9600, 0.037),
    ],
)
def test_batch_steps_and_decay_of_nanochat(depth: int, batch: int, steps: int, decay: float) -> None:
    derived = derive(config(depth))
    assert derived.base.batch_tokens == batch
    assert train_plan(derived, "base").steps == steps
    assert derived.optim.weight_decay * derived.optim.weight_decay_scale == pytest.approx(decay, abs=0.0006)
    assert derived.optim.lr_batch_scale == pytest.approx(math.sqrt(batch / 2**19))
    assert derived.optim.lr_width_scale == pytest.approx(math.sqrt(768 / (64 * depth)))


def test_speedrun_of_nanochat() -> None:
    plan = train_plan(derive(config(24, base=BaseConfig(token_ratio=8))), "base")
    assert plan.steps == 5568
    assert plan.tokens / 1e9 == pytest.approx(5.84, abs=0.005)
    assert plan.flops / 1e19 == pytest.approx(2.79, abs=0.005)


@given(
    st.integers(1, 30),
    st.sampled_from([16, 64, 128]),
    st.sampled_from([300, 4096, 32_768]),
    st.sampled_from([256, 500, 2048]),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from([None, 1_000_000]),
)
@settings(max_examples=150)
def test_deriving_again_changes_nothing(
    depth: int, head_dim: int, vocab: int, length: int, nproc: int, tokens: int
) -> None:
    once = derive(
        RunConfig(
            tokenizer=TokenizerConfig(vocab_size=vocab),
            hardware=HardwareConfig(nproc=nproc),
            model=ModelConfig(depth=depth, head_dim=head_dim, max_seq_len=length),
            base=BaseConfig(tokens=tokens),
        )
    )
    assert derive(once) == once
    assert once.model.vocab_ids == vocab <= once.model.vocab_size < vocab + 64
    assert once.model.vocab_size % 64 == 0
    for stage in ("base", "mid", "sft"):
        plan = train_plan(once, stage, tokens=10**9)
        assert plan.batch_tokens == nproc * plan.accumulation * plan.micro_batch_rows * length
        assert plan.steps >= 1
        assert plan.tokens == plan.steps * plan.batch_tokens
    left = [name for name, value in once.model.model_dump().items() if value == 0 and name not in ("smear_init",)]
    assert not [name for name in left if not isinstance(once.model.model_dump()[name], (bool, float))]
    assert once.base.tokens
    assert once.mid.tokens == once.sft.tokens is None


def test_explicit_values_stay() -> None:
    given = config(
        4,
        model={"n_embd": 96, "head_dim": 32, "n_kv_head": 1, "vocab_size": 40_000, "window_short": 100},
        optim=OptimConfig(lr_batch_scale=0.7, lr_width_scale=1.1, weight_decay_scale=0.2),
        base=BaseConfig(tokens=5_000_000, batch_tokens=16_384, micro_batch_rows=4),
        sft=ChatTrainConfig(batch_tokens=8192),
    )
    derived = derive(given)
    assert (derived.model.n_embd, derived.model.n_head, derived.model.n_kv_head) == (96, 3, 1)
    assert (derived.model.vocab_size, derived.model.vocab_ids, derived.model.window_short) == (40_000, 32_768, 100)
    assert derived.optim == given.optim
    assert derived.base == given.base
    assert derived.mid.batch_tokens == 16_384
    assert derived.sft.batch_tokens == 8192


def test_decay_follows_the_real_horizon() -> None:
    long, short = (derive(config(12, base=BaseConfig(tokens=n, batch_tokens=2**19))) for n in (4 * 10**9, 10**9))
    assert short.optim.weight_decay_scale == pytest.approx(4 * long.optim.weight_decay_scale)


def test_windows() -> None:
    assert layer_windows(derive(config(6)).model) == (512, 512, 512, 0, 512, 0)
    assert derive_model(ModelConfig(depth=4, vocab_size=64, max_seq_len=100)).window_short == 100


@pytest.mark.parametrize(
    ("sections", "message", "hint"),
    [
        ({"model": {"n_embd": 100}}, "model.n_embd=100 is no multiple of model.head_dim=128", "model.n_embd=128"),
        ({"model": {"depth": 1024, "aspect_ratio": 2**14}}, "is a width of 16,777,216", "set model.n_embd"),
        ({"model": {"n_embd": 256, "n_head": 3}}, "model.n_head=3 heads", "leave model.n_head out"),
        ({"model": {"n_kv_head": 5}}, "model.n_head=3 is no multiple of model.n_kv_head=5", "divisor"),
        ({"model": {"vocab_size": 1000}}, "model.vocab_size=1000 has no room for 32768", "leave model.vocab_size"),
        ({"model": {"n_embd": 8, "head_dim": 8}}, "model.value_gate_channels=12 exceeds the width 8", "8 or less"),
        ({"base": {"batch_tokens": 3000}}, "base.batch_tokens=3000 is no multiple", "base.batch_tokens=2048"),
        ({"sft": {"batch_tokens": 3000}}, "sft.batch_tokens=3000 is no multiple", "sft.batch_tokens=2048"),
        (
            {"base": {"batch_tokens": 2048 * 6, "micro_batch_rows": 4}},
            "base.micro_batch_rows=4 doesn't divide the 6 sequences",
            "base.micro_batch_rows=3",
        ),
        (
            {"base": {"batch_tokens": 2048 * 6}, "hardware": {"nproc": 4}},
            "x 4 ranks",
            "base.batch_tokens=16384",
        ),
        ({**RL, "stages": ["data", "rl"]}, "rl needs a model that answers", "add one of base, mid, sft"),
        ({**RL, "rl": {"questions": 6}, "hardware": {"nproc": 4}}, "rl.questions=6 don't divide among 4", "=8"),
        ({**RL, "rl": {"top_k": 1}}, "rl.top_k=1 draws the same reply", "rl.top_k=50"),
        ({**RL, "rl": {"max_new_tokens": 2048}}, "leave no room for a question", "rl.max_new_tokens=1024"),
    ],
)
def test_impossible_shapes_name_the_value_to_change(sections: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        derive(config(6, **sections))
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_depth_zero() -> None:
    with pytest.raises(ConfigError, match=r"model\.depth must be at least 1"):
        derive_model(ModelConfig.model_construct(depth=0))


def test_plan_without_data_is_open() -> None:
    derived = derive(config(4))
    assert train_plan(derived, "sft").steps == 0
    assert train_plan(derived, "sft", tokens=10 * derived.sft.batch_tokens + 5).steps == 10
    known = {"base": train_plan(derived, "base").flops}
    assert planned_flops(derived, ("data", "base", "sft", "report")) == known
    assert planned_flops(config(4), ("base",)) == {}
    with pytest.raises(ConfigError, match="not a training stage"):
        train_plan(derived, "report")
    with pytest.raises(ConfigError, match="not derived"):
        train_plan(config(4), "base")


def test_the_plan_of_rewards_counts_questions_and_replies() -> None:
    rl = {"mixture": {"gsm8k": 7473}, "epochs": 2}
    derived = derive(config(6, stages=["sft", "rl"], rl=rl))
    plan = train_plan(derived, "rl")
    assert plan.steps == 7473 * 2 // 16 == 934
    assert (plan.rows, plan.micro_batch_rows, plan.accumulation) == (256, 8, 32)
    assert plan.batch_tokens == 256 * 256
    per_token = flops_per_token(derived.model)
    assert plan.flops == pytest.approx(plan.tokens * per_token * 4 / 3)
    assert train_plan(derive(config(6, stages=["sft", "rl"])), "rl").steps == 0


def test_memory_grows_with_what_it_counts() -> None:
    one, two = (
        memory_estimate(derive(config(8, base=BaseConfig(batch_tokens=2**18, micro_batch_rows=rows))))
        for rows in (4, 8)
    )
    assert two.activations == 2 * one.activations
    assert two.total - two.activations == one.total - one.activations
    assert one.weights == one.gradients == 4 * count_parameters(derive(config(8)).model).total
    assert one.weights < one.optimizer < 2 * one.weights


def test_imports_nothing_heavy() -> None:
    code = "import sys, mccore.scaling.derive; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_stage_that_is_not_run_contradicts_nothing() -> None:
    changes = {"stages": ["base"], "model": {"depth": 4, "max_seq_len": 6144}, "base": {"batch_tokens": 24576}}
    given = {**changes, "mid": {"batch_tokens": 2048, "micro_batch_rows": 3}}
    assert derive(RunConfig.model_validate(given)).mid.batch_tokens == 6144
    with pytest.raises(ConfigError, match="no multiple"):
        derive(RunConfig.model_validate({**given, "stages": ["base", "mid"]}))
