"""The loop: one mean over a step however it is cut, cadences, stops, faults, few waits."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mccore.config import ModelConfig, RunConfig
from mccore.data.batches.loader import Batch, Loader, StepShape
from mccore.data.batches.rows import Rows
from mccore.data.batches.store import Encoded, TokenSplit, build_store
from mccore.errors import RunError
from mccore.model import GPT
from mccore.model.optim.optimizer import Optimizer, build_optimizer
from mccore.model.schedule import Schedule
from mccore.scaling.derive import derive
from mccore.train.loop import Cadence, LoopSettings, Progress, gradient_norm, step_seed, train
from mccore.train.objective import Losses, NextTokenObjective, Objective
from mccore.train.step_metrics import StepMetrics
from mccore.train.world import World

T, ROWS, VOCAB = 16, 8, 265


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> TokenSplit:
    """Conversations with masks of very different sizes."""
    rng = np.random.default_rng(0)
    documents = []
    for number in range(200):
        length = int(rng.integers(4, 14))
        mask = (rng.random(length) < rng.random()).astype(np.uint8)
        documents.append(Encoded(str(number), rng.integers(0, VOCAB, length), mask))
    return build_store(tmp_path_factory.mktemp("chat") / "s", {}, VOCAB, {"train": documents}).split("train")


def _model(clip: float = 0.0) -> tuple[GPT, Optimizer]:
    model = ModelConfig(depth=2, n_embd=16, head_dim=8, max_seq_len=T, vocab_size=320)
    config = RunConfig.model_validate(
        {"model": model.model_dump(), "optim": {"grad_clip": clip}, "tokenizer": {"vocab_size": 265}}
    )
    config = derive(config.model_copy(update={"base": config.base.model_copy(update={"batch_tokens": T * ROWS})}))
    gpt = GPT(config.model, seed=1)
    return gpt, build_optimizer(nn.ModuleDict({"gpt": gpt}), config, "base", prefix="gpt.")


class _Calling(NextTokenObjective):
    """Plain training, but for what makes losses of a batch."""

    def __init__(self, gpt: GPT, losses_of: Callable[[Batch], Losses]) -> None:
        super().__init__(gpt)
        self._losses_of = losses_of

    def __call__(self, batch: Batch) -> Losses:
        return self._losses_of(batch)


class _Hooks:
    """Notes every call; asks to stop after `stop_at` steps, and to evaluate after `evaluate_at`."""

    def __init__(self, stop_at: int | None = None, evaluate_at: int | None = None) -> None:
        self.calls: list[tuple[str, int]] = []
        self.metrics: list[Mapping[str, float]] = []
        self.stop_at, self.evaluate_at = stop_at, evaluate_at
        self.done = 0

    def on_step(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        self.metrics.append(dict(metrics))
        self.done = progress.step

    def evaluate(self, progress: Progress) -> None:
        self.calls.append(("evaluate", progress.step))

    def sample(self, progress: Progress) -> None:
        self.calls.append(("sample", progress.step))

    def save(self, progress: Progress) -> None:
        self.calls.append(("save", progress.step))

    def evaluation_requested(self) -> bool:
        return self.evaluate_at is not None and self.done + 1 == self.evaluate_at

    def stop_requested(self) -> bool:
        return self.stop_at is not None and self.done + 1 >= self.stop_at


def _train(chat: TokenSplit, steps: int = 6, *, micro: int = 4, objective: Objective | None = None, **changes):
    """Train a fresh model; returns (progress, whether finished, hooks, model)."""
    gpt, optimizer = _model(changes.pop("clip", 0.0))
    hooks = changes.pop("hooks", None) or _Hooks()
    rows = Rows(chat, T, chat="assistant")
    with Loader(rows, StepShape(ROWS, micro)) as loader:
        progress, finished = train(
            optimizer=optimizer,
            loader=loader,
            objective=objective or NextTokenObjective(gpt),
            hooks=hooks,
            world=World(),
            settings=LoopSettings(
                steps,
                ROWS * T,
                lambda step: Schedule(lr=0.1),
                **{"flops": lambda progress: 1280.0 * progress.step, **changes},
            ),
        )
    return progress, finished, hooks, gpt


def test_the_loss_is_the_mean_over_the_steps_trained_tokens_however_it_is_cut(chat: TokenSplit) -> None:
    curves = {micro: [m["loss"] for m in _train(chat, micro=micro)[2].metrics] for micro in (1, 3, 8)}
    assert curves[1] == pytest.approx(curves[8], abs=1e-5)
    assert curves[3] == pytest.approx(curves[8], abs=1e-5)
    gpt, _ = _model()
    rows = Rows(chat, T, chat="assistant")
    data = next(Loader(rows, StepShape(ROWS, ROWS)).steps())
    with torch.no_grad():
        expected = gpt.loss(data.batches[0].inputs, data.batches[0].targets).item()  # the mean over all targets
    assert curves[1][0] == pytest.approx(expected, abs=1e-5)


def test_token_loss_is_the_loss_of_plain_training(chat: TokenSplit) -> None:
    for metrics in _train(chat)[2].metrics:
        assert metrics["token_loss"] == pytest.approx(metrics["loss"], rel=1e-5)


def test_metrics_of_a_step(chat: TokenSplit) -> None:
    metrics = _train(chat, 3, peak_flops=1e9)[2].metrics
    assert [m["tokens_total"] for m in metrics] == [128, 256, 384]
    assert metrics[-1]["flops_total"] == 3840
    last = metrics[-1]
    assert last["tokens_per_second"] == pytest.approx(128 / last["step_duration"])
    assert last["mfu"] == pytest.approx(last["tokens_per_second"] * 10 / 1e9)
    assert 0 <= last["data_wait"] <= last["step_duration"]
    assert last["memory_used"] > 2**20
    assert last["lr_multiplier"] == 0.1


def test_cadences_are_counted_in_tokens(chat: TokenSplit) -> None:
    cadence = Cadence(evaluate=300, sample=ROWS * T * 3, checkpoint=ROWS * T * 2)
    calls = _train(chat, 7, cadence=cadence)[2].calls
    # Step n ends at 128 n tokens: multiples of 300 are crossed by steps 3, 5 and 8.
    assert [step for name, step in calls if name == "evaluate"] == [3, 5]
    assert [step for name, step in calls if name == "sample"] == [3, 6]
    assert [step for name, step in calls if name == "save"] == [2, 4, 6, 7]


def test_a_stop_saves_after_the_step_and_ends(chat: TokenSplit) -> None:
    progress, finished, hooks, _ = _train(chat, 9, hooks=_Hooks(stop_at=4), cadence=Cadence(evaluate=1))
    assert (progress.step, finished) == (4, False)
    assert hooks.calls[-1] == ("save", 4)
    assert progress.tokens == 4 * ROWS * T


def test_an_evaluation_that_is_asked_for_comes_after_the_step(chat: TokenSplit) -> None:
    hooks = _train(chat, 6, hooks=_Hooks(evaluate_at=3))[2]
    assert [call for call in hooks.calls if call[0] == "evaluate"] == [("evaluate", 3)]
    plain = _train(chat, 6)[2]
    assert [each["loss"] for each in hooks.metrics] == [each["loss"] for each in plain.metrics]


def test_a_stop_at_the_last_step_is_a_finish(chat: TokenSplit) -> None:
    progress, finished, hooks, _ = _train(chat, 4, hooks=_Hooks(stop_at=4))
    assert (progress.step, finished) == (4, True)
    assert hooks.calls == [("save", 4)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_training_without_a_checkpoint(chat: TokenSplit, value: float) -> None:
    gpt, optimizer = _model()

    def diverge(batch: Batch) -> Losses:
        return Losses(gpt.head.weight.sum() * (value if batch.step == 2 else 1.0), StepMetrics([]))

    objective = _Calling(gpt, diverge)
    hooks = _Hooks()
    rows = Rows(chat, T, chat="assistant")
    with (
        Loader(rows, StepShape(ROWS, ROWS)) as loader,
        pytest.raises(RunError, match="step 2: loss is") as error,
    ):
        train(
            optimizer=optimizer, loader=loader, objective=objective, hooks=hooks, world=World(),
            settings=LoopSettings(9, 1, lambda step: Schedule(), Cadence(checkpoint=2)),
        )  # fmt: skip
    assert hooks.calls == [("save", 2)]
    assert "the last checkpoint is of step 2" in error.value.message
    assert "lower rates" in str(error.value.hint)


def test_progress_survives_json_and_goes_on_exactly(chat: TokenSplit) -> None:
    whole, _, hooks, reference = _train(chat, 6)
    gpt, optimizer = _model()
    rows = Rows(chat, T, chat="assistant")

    def go(steps: int, start: Progress) -> tuple[Progress, _Hooks]:
        part = _Hooks()
        with Loader(rows, StepShape(ROWS, 4), position=start.position) as loader:
            progress, _ = train(
                optimizer=optimizer, loader=loader, objective=NextTokenObjective(gpt), hooks=part, world=World(),
                settings=LoopSettings(steps, ROWS * T, lambda step: Schedule(lr=0.1), start=start),
            )  # fmt: skip
        return progress, part

    first, _ = go(3, Progress())
    second, rest = go(6, Progress.from_json(first.step, first.tokens, first.to_json()))
    assert [m["loss"] for m in rest.metrics] == [m["loss"] for m in hooks.metrics[3:]]
    assert (second.step, second.tokens, second.position) == (whole.step, whole.tokens, whole.position)
    assert (second.loss, second.token_loss) == (whole.loss, whole.token_loss)
    for found, expected in zip(gpt.parameters(), reference.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_randomness_is_keyed_by_seed_step_and_rank(chat: TokenSplit) -> None:
    drawn: dict[int, list[float]] = {}
    gpt, _ = _model()
    plain = NextTokenObjective(gpt)

    def draw(batch: Batch) -> Losses:
        drawn.setdefault(batch.step, []).append(torch.rand(()).item())
        return plain(batch)

    objective = _Calling(gpt, draw)
    _train(chat, 3, objective=objective)
    first, drawn_before = dict(drawn), torch.rand(5)
    drawn.clear()
    _train(chat, 3, objective=objective)
    assert drawn == first
    assert len({value for values in first.values() for value in values}) == 6
    assert drawn_before is not None
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(4)}
    assert len(seeds) == 600


def test_batches_say_where_training_stands(chat: TokenSplit) -> None:
    seen: list[tuple[int, float, int]] = []
    gpt, _ = _model()
    plain = NextTokenObjective(gpt)

    def look(batch: Batch) -> Losses:
        seen.append((batch.step, batch.progress, batch.first_row))
        return plain(batch)

    _train(chat, 4, objective=_Calling(gpt, look))
    assert seen == [(step, step / 4, first) for step in range(4) for first in (0, 4)]


def test_a_step_waits_for_the_device_once(chat: TokenSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched but by the one `tolist`, which is no operation of its own and so is counted by hand."""
    lists = 0
    original = torch.Tensor.tolist

    def counted(self: torch.Tensor) -> list:
        nonlocal lists
        lists += 1
        return original(self)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    with torch.autograd.profiler.profile() as profile:
        _train(chat, 5)
    events = profile.function_events
    assert sum(event.name == "aten::embedding" for event in events) >= 5
    waits = [event for event in events if event.name in ("aten::item", "aten::is_nonzero", "aten::nonzero")]
    # The fused AdamW of the CPU reads its step counts; that of a GPU leaves them on the device.
    assert {event.cpu_parent.name for event in waits} <= {"aten::_fused_adamw_"}
    assert lists == 5


def test_garbage_collection_is_as_before_afterwards(chat: TokenSplit) -> None:
    assert gc.isenabled()
    _train(chat, 2)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_gradient_norm_is_that_of_all_gradients() -> None:
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad = torch.tensor([3.0, 0.0, 0.0])
    parameters[1].grad = torch.full((2, 2), 2.0)
    assert gradient_norm(parameters).item() == pytest.approx(5.0)


def test_uniform_random_tokens_teach_nothing(tmp_path: Path) -> None:
    """A loss below ln V on noise would mean that targets leak into inputs."""
    rng = np.random.default_rng(0)
    documents = [Encoded(str(n), rng.integers(0, VOCAB, 400)) for n in range(80)]
    split = build_store(tmp_path / "s", {}, VOCAB, {"train": documents}).split("train")
    gpt, optimizer = _model()
    hooks = _Hooks()
    with Loader(Rows(split, T), StepShape(ROWS * 4, ROWS * 4)) as loader:
        train(
            optimizer=optimizer, loader=loader, objective=NextTokenObjective(gpt), hooks=hooks, world=World(),
            settings=LoopSettings(40, 1, lambda step: Schedule()),
        )  # fmt: skip
    assert min(m["loss"] for m in hooks.metrics) > math.log(VOCAB) - 0.05
