"""The objective of training: no look ahead, the same however rows are split, everything trained, no wait for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mccore.config import RunConfig
from mccore.data.batches.loader import Batch, Loader, StepShape
from mccore.data.batches.rows import Rows
from mccore.data.batches.store import Encoded, TokenSplit, build_store
from mccore.errors import ConfigError
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.training.objective import MegaContextObjective, StepPasses
from mccore.model import GPT, Schedule
from mccore.runs.checkpoints import Meta
from mccore.scaling.plan import train_plan
from mccore.train.checkpoint.read import load_into
from mccore.train.checkpoint.write import write_checkpoint
from mccore.train.loop import LoopSettings, Progress, train
from mccore.train.objective import Losses, NextTokenObjective, Objective
from mccore.train.world import World
from tests.support.networks import (
    VOCAB,
    T,
    batch_of,
    networks,
    objective_of,
    optimizer_of,
    random_tokens,
    run_config,
)

# Every term at once.
FULL: dict[str, Any] = {
    "num_random_variants": 4,
    "distill_weight": 0.5,
    "recon_weight": 0.5,
    "key_token_weight": 1.0,
    "position_skip": 50,
    "min_history": 0.7,
    "lens": {"target": "both", "kl_weight": 0.1, "budget_weight": 0.1, "budget_smooth_weight": 0.1, "rank_weight": 0.1},
}


class Scored:
    """Every prediction that a step scores: (pass, row, last token) -> hidden state; and the cuts it drew."""

    def __init__(self, passes: StepPasses, calls: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        self.cuts = [variants.contexts for variants in passes.variants]
        self.states: dict[tuple[int, int, int], Tensor] = {}
        plain = calls[:1] if passes.step.plain else []
        for hidden, _, weights in plain:
            self._note(0, hidden, weights, torch.arange(hidden.size(1)).expand(len(hidden), -1))
        for number, variants in enumerate(passes.variants, start=1):
            for hidden, targets, weights in calls:
                if targets is variants.targets:
                    self._note(number, hidden, weights * (targets >= 0), variants.contexts.last)

    def _note(self, number: int, hidden: Tensor, weights: Tensor, last: Tensor) -> None:
        for row, entry in (weights > 0).nonzero().tolist():
            self.states[number, row, int(last[row, entry])] = hidden[row, entry].detach().clone()

    @classmethod
    def of(cls, objective: MegaContextObjective, batch: Batch) -> Scored:
        """What is scored in one step: what the GPT is asked to score, in which contexts."""
        calls: list[tuple[Tensor, Tensor, Tensor]] = []
        losses_of = objective.models.gpt.hidden_losses

        def note(hidden: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
            calls.append((hidden, targets, weights))
            return losses_of(hidden, targets, weights)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objective.models.gpt, "hidden_losses", note)
            return cls(objective.run(batch), calls)  # with gradients: a compiled pass without would be another graph


def assert_no_prediction_sees_ahead(objective: MegaContextObjective, *, progress: float) -> None:
    """Changing token p of a row leaves every scored prediction of tokens up to p, and all of other rows, as it was."""
    tokens = random_tokens(2, T + 1)
    before = Scored.of(objective, batch_of(tokens, progress=progress)).states
    passes = 1 + max(at for at, _, _ in before)
    for p in (0, 7, 26, 51, 63):
        changed = tokens.clone()
        changed[0, p] = (changed[0, p] + 1) % VOCAB
        after = Scored.of(objective, batch_of(changed, progress=progress)).states
        seen = set()
        for key, state in before.items():
            at, row, last = key
            if row % 2 or last < p:
                assert torch.equal(after[key], state), key
            elif key in after and not torch.equal(after[key], state):
                seen.add(at)
        assert seen == set(range(passes))  # the change does reach every pass
        assert {k for k in after if k[1] % 2 or k[2] < p} == {k for k in before if k[1] % 2 or k[2] < p}


@pytest.mark.parametrize("model", [{}, {"smear": True, "smear_init": 0.7}])
@pytest.mark.parametrize("changes", [{}, {"random_share": 1.0, "policy_share": 0.0}, {"block_size": 2, "max_lod": 3}])
def test_no_prediction_sees_ahead(model: dict[str, object], changes: dict[str, Any]) -> None:
    config = run_config(model, num_random_variants=4, lens={"start": 1.0}, **changes)
    assert_no_prediction_sees_ahead(objective_of(config, *networks(config)), progress=0.5)


def test_no_prediction_from_a_choice_of_lensnet_sees_ahead() -> None:
    """LensNet has read the history when it chooses: what is predicted before its end isn't scored there."""
    assert_only_what_comes_behind_is_scored(run_config(policy_share=1.0, random_share=0.0))


def test_no_prediction_from_a_choice_of_the_search_sees_ahead() -> None:
    changes = {"policy_share": 0.0, "random_share": 0.0, "search_share": 1.0, "expanded_blocks": 4, "expanded_run": 2}
    assert_only_what_comes_behind_is_scored(run_config(lens={"start": 1.0}, **changes))


def test_the_search_of_a_training_context_knows_nothing_of_its_horizon() -> None:
    changes = {"policy_share": 0.0, "random_share": 0.0, "search_share": 1.0}
    objective = objective_of(*((config := run_config(lens={"start": 1.0}, **changes)), *networks(config)))
    tokens = torch.randint(0, 5, (16, T + 1))  # few ids: many bigrams that are found, and counted, in several places
    changed = tokens.clone()
    changed[:, T - 8 :] = torch.randint(0, 5, (16, 9))
    one, other = (cuts_by_row(Scored.of(objective, batch_of(each)), 16) for each in (tokens, changed))
    assert one == other
    changed[:, T - 16 : T - 8] = torch.randint(0, 5, (16, 8))  # the newest tokens that ask
    assert cuts_by_row(Scored.of(objective, batch_of(changed)), 16) != one


def assert_only_what_comes_behind_is_scored(config: RunConfig) -> None:
    objective = objective_of(config, *networks(config))
    states = Scored.of(objective, batch_of(random_tokens(2, T + 1))).states
    assert min(last for at, _, last in states if at == 2) == T - 8
    tokens = random_tokens(2, T + 1)
    before = Scored.of(objective, batch_of(tokens)).states
    moved = 0
    for p in range(0, T, 3):
        changed = tokens.clone()
        changed[0, p] = (changed[0, p] + 1) % VOCAB
        after = Scored.of(objective, batch_of(changed)).states
        for key, state in before.items():
            if key[1] == 0 and key[2] < p:
                assert torch.equal(after[key], state)
            elif key[0] == 2 and key[1] == 0:
                moved += not torch.equal(after[key], state)
    assert moved > 0


# --- what is drawn -----------------------------------------------------------------------------------------------------


def cuts_by_row(scored: Scored, rows: int, first: int = 0) -> dict[tuple[int, int, int], list[Any]]:
    """(pass, variant, row of the step) -> cut and positions."""
    found = {}
    for at, contexts in enumerate(scored.cuts):
        for number in range(len(contexts.row)):
            variant, row = divmod(number, rows)
            assert contexts.row[number] == row
            found[at, variant, first + row] = [
                contexts.level[number].tolist(),
                contexts.index[number].tolist(),
                contexts.spans.centre[number].tolist(),
            ]
    return found


def test_a_row_draws_the_same_cuts_however_the_step_is_split() -> None:
    config = run_config(**FULL | {"lens": {"start": 1.0}})
    gpt, nets = networks(config)
    objective = objective_of(config, gpt, nets)
    tokens = random_tokens(6, T + 1)
    whole = cuts_by_row(Scored.of(objective, batch_of(tokens, step=5)), 6)
    assert len(whole) == 2 * 2 * 6
    split = {}
    for first, stop in ((0, 1), (1, 4), (4, 6)):
        batch = batch_of(tokens[first:stop], step=5, first_row=first)
        split |= cuts_by_row(Scored.of(objective_of(config, gpt, nets), batch), stop - first, first)
    assert split == whole
    assert cuts_by_row(Scored.of(objective, batch_of(tokens, step=5)), 6) == whole
    other_tokens = cuts_by_row(Scored.of(objective, batch_of(random_tokens(6, T + 1, 9), step=5)), 6)
    assert other_tokens == whole
    other_step = cuts_by_row(Scored.of(objective, batch_of(tokens, step=6)), 6)
    other_seed = cuts_by_row(Scored.of(objective_of(config, gpt, nets, seed=4), batch_of(tokens, step=5)), 6)
    for other in (other_step, other_seed):
        assert sum(other[key] == whole[key] for key in whole) < len(whole) / 4
    assert len({str(cut) for cut in whole.values()}) > len(whole) * 3 / 4


def test_ends_and_skips_are_spread_and_alike_in_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: list[Tensor] = []
    hidden = GPT.hidden

    def record(self: GPT, *args: Any, **inputs: Any) -> Tensor:
        plain.extend([inputs["positions"]] if "positions" in inputs else [])
        return hidden(self, *args, **inputs)

    monkeypatch.setattr(GPT, "hidden", record)
    config = run_config(min_history=0.5, position_skip=100)
    objective = objective_of(config, *networks(config))
    ends, gaps = set(), []
    for step in range(12):
        for contexts in Scored.of(objective, batch_of(random_tokens(8, T + 1), step=step)).cuts:
            raw = contexts.level == 0
            assert torch.equal(plain[-1].gather(1, contexts.last)[raw].double(), contexts.spans.centre[raw])
            ends |= set((contexts.last[:, -1] + 1).tolist())
            start = contexts.spans.centre - (contexts.spans.span - 1) / 2
            stop = contexts.spans.centre + (contexts.spans.span + 1) / 2
            jump = start[:, 1:] - stop[:, :-1]
            assert ((jump > 0).sum(dim=1) <= 1).all()
            assert (jump[:, : -config.megacontext.recent_tokens] == 0).all()  # none in the far past
            gaps += jump.sum(dim=1).tolist()
    assert min(ends) >= T / 2
    assert max(ends) == T
    assert {end % 3 for end in ends} == {T % 3}
    assert len(ends) >= 8
    assert 0 <= min(gaps) < 15
    assert 85 < max(gaps) <= 100


# --- ranks and micro-batches -------------------------------------------------------------------------------------------


def gradients(gpt: GPT, nets: MegaContextNets) -> dict[str, Tensor]:
    named = {**dict(gpt.named_parameters()), **dict(nets.named_parameters())}
    return {name: p.grad for name, p in named.items() if p.grad is not None}


Parts = list[tuple[int, int]]


def losses_of(config: RunConfig, tokens: Tensor, parts: Parts, sums: list[list[Tensor]] | None = None) -> Any:
    """Loss, gradients and metrics summed over parts of a step, each seen by a rank of its own; and what it gave to reduce.

    `sums`: per rank what all gave, in order of the calls.
    """
    total, grads, metrics, given = 0.0, {}, {}, []
    count = float((tokens[:, 1:] >= 0).sum())
    for first, stop in parts:
        calls: list[Tensor] = []

        def all_reduce(x: Tensor, calls: list[Tensor] = calls) -> None:
            calls.append(x.clone())
            if sums is not None:
                x.copy_(torch.stack([rank[len(calls) - 1] for rank in sums]).sum(dim=0))

        gpt, nets = networks(config)
        objective = objective_of(config, gpt, nets, all_reduce=all_reduce)
        part = tokens[first:stop]
        batch = Batch(part[:, :-1].clamp(min=0), part[:, 1:], count, first_row=first, step=2, progress=0.5)
        losses = objective(batch)
        losses.loss.backward()
        total += losses.loss.item()
        for name, gradient in gradients(gpt, nets).items():
            grads[name] = grads.get(name, 0) + gradient
        for name, (a, b) in losses.metrics.sums.items():
            before = metrics.get(name, (0.0, 0.0))
            metrics[name] = before[0] + a.item(), before[1] + b.item()
        given.append(calls)
    return total, grads, metrics, given


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"distill_weight": 1.0, "recon_weight": 1.0},
        {"key_token_weight": 2.0, "gist_target_weight": 1.0},
        {"baseline_share": 0.5, "distill_weight": 1.0},
        {"lens": {"kl_weight": 1.0, "budget_weight": 1.0, "budget_smooth_weight": 1.0}},
        {"num_random_variants": 4, "lens": {"target": "preference", "rank_weight": 1.0}},
        {**FULL, "max_lod": 3},
    ],
)
def test_two_ranks_are_one(changes: dict[str, Any]) -> None:
    config = run_config(**changes)
    tokens = random_tokens(6, T + 1)
    tokens[1, 20:] = -1  # rows with different numbers of targets
    tokens[4, 1:60] = -1
    parts = [(0, 2), (2, 6)]
    whole, want, metrics, _ = losses_of(config, tokens, [(0, 6)])
    *_, given = losses_of(config, tokens, parts)
    total, got, others, _ = losses_of(config, tokens, parts, given)
    assert total == pytest.approx(whole, rel=1e-5)
    assert got.keys() == want.keys()
    scale = max(gradient.norm().item() for gradient in want.values())
    for name in want:
        assert (got[name] - want[name]).norm() < 1e-3 * want[name].norm() + 1e-5 * scale, name
    assert metrics.keys() == others.keys()
    for name in metrics.keys() - {
        "preference_corr",
        "adv_delta/p95",
    }:  # a correlation or a percentile is no sum of parts
        assert others[name] == pytest.approx(metrics[name], rel=1e-3, abs=1e-3), name


def test_metrics_are_what_their_names_say() -> None:
    config = run_config()
    gpt, nets = networks(config)
    objective, tokens = objective_of(config, gpt, nets), random_tokens(4, T + 1)
    losses = objective(batch_of(tokens))
    means = {name: (a / b).item() for name, (a, b) in losses.metrics.sums.items()}
    nll = gpt.loss(tokens[:, :-1], tokens[:, 1:], reduction="none")
    assert means["token_loss"] == pytest.approx(nll.mean().item(), rel=1e-5)
    assert losses.metrics.sums["lod_loss/0"][1].item() + losses.metrics.sums["gist_loss"][1].item() == sum(
        contexts.level.numel() for contexts in Scored.of(objective, batch_of(tokens)).cuts
    )
    parts = [losses.metrics.sums[f"lod_loss/{lod}"] for lod in (1, 2)]
    assert losses.metrics.sums["gist_loss"][0].item() == pytest.approx(sum(part[0].item() for part in parts), rel=1e-6)
    assert losses.metrics.sums["delta_nll"][1].item() == 2 * 4 * config.megacontext.horizon


# --- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [{}, {"smear": True, "smear_init": 0.3}])
def test_gpt_gistnet_and_lensnet_all_move(model: dict[str, object]) -> None:
    config = run_config(model, max_lod=3, block_size=2, **FULL)
    gpt, nets = networks(config, stirred=False)
    optimizer, objective = optimizer_of(gpt, nets, config), objective_of(config, gpt, nets)
    module = nn.ModuleDict({"gpt": gpt, "mc": nets})
    start = {name: p.detach().clone() for name, p in module.named_parameters()}

    def still() -> set[str]:
        return {name for name, p in module.named_parameters() if torch.equal(p, start[name])}

    for step in range(4):
        objective(batch_of(random_tokens(4, T + 1, step), step=step)).loss.backward()
        optimizer.step(Schedule(lr=1.0))
        optimizer.zero_grad()
        if step == 0:
            moved = start.keys() - still()
            for part in ("gpt.", "mc.gistnet.", "mc.lensnet.", "mc.decoder."):
                assert any(name.startswith(part) for name in moved), part
    assert not {name for name in still() if "former" not in name}


def test_before_its_start_lensnet_has_zero_gradients() -> None:
    """On several ranks a parameter without gradient has one of zeros; one rank must do the same with it."""
    config = run_config(lens={"start": 0.5})
    gpt, nets = networks(config)
    objective = objective_of(config, gpt, nets)
    for progress, trained in ((0.49, False), (0.5, True)):
        nets.zero_grad()
        objective(batch_of(random_tokens(4, T + 1), progress=progress)).loss.backward()
        for name, parameter in nets.lensnet.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any().item() == trained or name.startswith("layers"), name


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> TokenSplit:
    """Documents of random tokens."""
    rng = np.random.default_rng(0)
    documents = [
        Encoded(str(number), rng.integers(0, VOCAB, int(rng.integers(20, 300))), None) for number in range(200)
    ]
    return build_store(tmp_path_factory.mktemp("store") / "s", {}, VOCAB, {"train": documents}).split("train")


class _Hooks:
    """Saves where asked to, stops after `stop` steps, notes losses."""

    def __init__(self, save: Callable[[Progress], None], stop: int) -> None:
        self._save, self._stop, self._done = save, stop, 0
        self.metrics: list[dict[str, float]] = []

    def on_step(self, progress: Progress, metrics: Any) -> None:
        self.metrics.append(dict(metrics))
        self._done = progress.step

    def evaluate(self, progress: Progress) -> None: ...

    def sample(self, progress: Progress) -> None: ...

    def save(self, progress: Progress) -> None:
        self._save(progress)

    def evaluation_requested(self) -> bool:
        return False

    def stop_requested(self) -> bool:
        return self._done + 1 >= self._stop


class _Noting:
    """An objective that notes its batches."""

    def __init__(self, inner: Objective) -> None:
        self._inner = inner
        self.batches: list[Batch] = []
        self.metric_names, self.timings = inner.metric_names, inner.timings
        self.describe, self.probes = inner.describe, inner.probes

    def __call__(self, batch: Batch) -> Losses:
        self.batches.append(batch)
        return self._inner(batch)


def trained(
    config: RunConfig, split: TokenSplit, directory: Path, *, stop: int = 6, resume: bool = False, micro: int = 4
) -> tuple[nn.ModuleDict, dict[str, Tensor], Progress, list[dict[str, float]]]:
    """Train to 6 steps of 8 rows, or stop before; a checkpoint is written to `directory` at the end."""
    gpt, nets = networks(config, stirred=False)
    module = nn.ModuleDict({"gpt": gpt, "mc": nets})
    optimizer = optimizer_of(gpt, nets, config)
    start = Progress()
    if resume:
        with torch.no_grad():
            for tensor in (*module.state_dict().values(), *optimizer.state_dict().values()):
                tensor.fill_(7.0)
        (path,) = directory.iterdir()
        meta = load_into(path, module.state_dict(), optimizer.state_dict())
        start = Progress.from_json(meta.step, meta.tokens, meta.state)

    def save(progress: Progress) -> None:
        state = {f"model/{name}": tensor for name, tensor in module.state_dict().items()}
        state |= {f"optim/{name}": tensor for name, tensor in optimizer.state_dict().items()}
        meta = Meta("base", progress.step, progress.tokens, {}, "", progress.to_json())
        write_checkpoint(directory, state, meta)

    hooks = _Hooks(save, stop)
    rows = Rows(split, T, seed=1)
    with Loader(rows, StepShape(8, micro), position=start.position) as loader:
        progress, _ = train(
            optimizer=optimizer,
            loader=loader,
            objective=objective_of(config, gpt, nets),
            hooks=hooks,
            world=World(),
            settings=LoopSettings(6, 8 * T, lambda step: Schedule(lr=1 - step / 10), start=start),
        )
    return module, {k: v.clone() for k, v in optimizer.state_dict().items()}, progress, hooks.metrics


def test_a_resumed_run_is_the_uninterrupted_one(split: TokenSplit, tmp_path: Path) -> None:
    """With running scales, the previous policy and changing lengths, over a checkpoint."""
    config = run_config(**FULL | {"lens": {**FULL["lens"], "start": 0.4}}, wc_length_steps=3)
    whole, optim, progress, metrics = trained(config, split, tmp_path / "whole")
    half, *_ = trained(config, split, tmp_path / "half", stop=3)
    (path,) = (tmp_path / "half").iterdir()
    copy = {name: torch.full_like(tensor, 7.0) for name, tensor in half.state_dict().items()}
    load_into(path, copy)
    assert all(torch.equal(copy[name], tensor) for name, tensor in half.state_dict().items())
    assert {"mc.advantage.value", "mc.balance.total", "mc.former.level"} <= copy.keys()
    resumed, optim_again, again, later = trained(config, split, tmp_path / "half", resume=True)
    assert (again.step, again.tokens) == (progress.step, progress.tokens) == (6, 6 * 8 * T)
    want = whole.state_dict()
    assert not [name for name, tensor in resumed.state_dict().items() if not torch.equal(tensor, want[name])]
    assert not [name for name in optim if not torch.equal(optim[name], optim_again[name])]
    assert [m["loss"] for m in later] == [m["loss"] for m in metrics[3:]]
    assert want["mc.advantage.weight"] > 0


def test_tokens_and_data_are_those_of_plain_training(split: TokenSplit) -> None:
    plain, mega = (run_config(enabled=enabled) for enabled in (False, True))
    assert train_plan(plain, "base").steps == train_plan(mega, "base").steps
    assert train_plan(plain, "base").rows == train_plan(mega, "base").rows
    seen: dict[str, list[list[int]]] = {}
    for kind, micro in (("plain", 8), ("mega", 2)):
        gpt, nets = networks(mega, stirred=False)
        objective = _Noting(NextTokenObjective(gpt) if kind == "plain" else objective_of(mega, gpt, nets))
        with Loader(Rows(split, T, seed=1), StepShape(8, micro)) as loader:
            progress, _ = train(
                optimizer=optimizer_of(gpt, nets, mega),
                loader=loader,
                objective=objective,
                hooks=_Hooks(lambda _: None, 99),
                world=World(),
                settings=LoopSettings(3, 8 * T, lambda step: Schedule()),
            )
        assert progress.tokens == 3 * 8 * T
        assert {batch.step_targets for batch in objective.batches} == {8 * T}
        seen[kind] = [row for batch in objective.batches for row in batch.inputs.tolist()]
    assert seen["plain"] == seen["mega"]


# --- waits and work ----------------------------------------------------------------------------------------------------

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "_unique2", "unique_dim", "equal", "bincount")
READS = ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__", "cpu")


class Operations(TorchDispatchMode):
    """Counts operations; refuses those whose result's shape or value the host has to wait for on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.constants = 0  # tensors made of Python numbers: on a GPU a copy that the host waits for

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        assert name not in WAITS, f"{name} waits for the device"
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            assert not masks, "indexing by a mask waits for the device"
        assert not (name == "repeat_interleave" and isinstance(args[0], Tensor) and len(args) == 1)
        self.count += 1
        self.constants += name == "lift_fresh"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_reading() -> Iterator[None]:
    """Reading a tensor from Python is an error."""

    def refuse(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("reading a tensor waits for the device")

    with pytest.MonkeyPatch.context() as patch:
        for name in READS:
            patch.setattr(torch.Tensor, name, refuse)
        yield


def operations_of_a_step(config: RunConfig, rows: int) -> Operations:
    gpt, nets = networks(config)
    optimizer, objective = optimizer_of(gpt, nets, config), objective_of(config, gpt, nets)
    for step in range(2):  # the first one may prepare something
        batch = batch_of(random_tokens(rows, T + 1), step=step)
        with Operations() as operations, no_reading():
            objective(batch).loss.backward()
            optimizer.step(Schedule())
        optimizer.zero_grad()
    return operations


@pytest.mark.parametrize(
    "changes", [{}, FULL, {"baseline_share": 0.5}, {"baseline_tokens": 24, "lens": {"loss_weight": 0.0}}]
)
def test_a_step_never_waits_and_works_on_all_rows_at_once(changes: dict[str, Any]) -> None:
    few, many = (operations_of_a_step(run_config(**changes), rows) for rows in (2, 8))
    assert few.count == many.count  # no work per row
    assert few.constants == many.constants == ("baseline_share" in changes)  # which rows it reads


@pytest.mark.parametrize(
    "read", [lambda x: x.item(), lambda x: x.tolist(), bool, lambda x: x.nonzero(), lambda x: x[x > 0]]
)
def test_a_wait_would_be_seen(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises(AssertionError, match="waits for the device"), Operations(), no_reading():
        read(torch.ones(1))


# --- a plain pass over a part of each sequence --------------------------------------------------------------------------

PLAIN: dict[str, Any] = {"num_random_variants": 0, "lens": {"loss_weight": 0.0}}


def test_a_plain_pass_over_parts_is_the_plain_loss_of_those_parts() -> None:
    config = run_config(baseline_tokens=24, **PLAIN)
    gpt, nets = networks(config)
    objective, batch = objective_of(config, gpt, nets), batch_of(random_tokens(6, T + 1), step=3)
    places = objective.run(batch).step.plain.place
    assert len({int(place[0]) for place in places}) > 1
    assert int(places.min()) >= 0
    assert int(places.max()) < T
    expected = gpt.loss(batch.inputs.gather(1, places), batch.targets.gather(1, places))
    got = objective(batch)
    assert got.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert got.metrics.sums["token_loss"][1].item() == 6 * 24


def test_a_plain_pass_over_parts_as_long_as_the_sequence_is_the_whole_pass() -> None:
    losses = []
    for length in (0, T):
        config = run_config(baseline_tokens=length, lens={"loss_weight": 0.0})
        losses.append(objective_of(config, *networks(config))(batch_of(random_tokens(4, T + 1))).loss.item())
    assert losses[0] == losses[1]


def test_only_what_the_plain_pass_read_is_compared_with_it() -> None:
    config = run_config(baseline_tokens=24, lens={"loss_weight": 0.0})
    gpt, nets = networks(config)
    batch = batch_of(random_tokens(6, T + 1))
    objective = objective_of(config, gpt, nets)
    scored = Scored.of(objective, batch)
    places = objective.run(batch).step.plain.place.tolist()
    shown = sum(
        int(last) in places[int(contexts.row[row])]
        for contexts in scored.cuts
        for row in range(len(contexts.row))
        for last in contexts.last[row][contexts.level[row] == 0]
    )
    assert objective(batch).metrics.sums["adv_delta"][1].item() == shown > 0


# --- variants that leave the GPT alone ----------------------------------------------------------------------------------


def test_a_gpt_that_variants_dont_train_is_the_plain_one_exactly() -> None:
    changes = {"recon_weight": 0.5, "num_random_variants": 4, "lens": {"target": "both"}}
    config = run_config({"smear": True, "smear_init": 0.5}, variants_train_gpt=False, **changes)
    batch, found = batch_of(random_tokens(4, T + 1)), []
    for objective_for in (objective_of, lambda config, gpt, nets: NextTokenObjective(gpt)):
        gpt, nets = networks(config)
        objective_for(config, gpt, nets)(batch).loss.backward()
        found.append({name: p.grad for name, p in gpt.named_parameters()})
        assert all(p.requires_grad for p in gpt.parameters())
        if objective_for is objective_of:
            of_nets = {name: p.grad for name, p in nets.named_parameters() if not name.startswith("former")}
            assert all(grad is not None and grad.any() for name, grad in of_nets.items()), of_nets.keys()
    for name, grad in found[0].items():
        assert torch.equal(grad, found[1][name]), name


# --- refusals ----------------------------------------------------------------------------------------------------------


def test_sizes_without_a_working_context_are_refused() -> None:
    for changes, message in (
        ({"horizon": 40, "recent_tokens": 12}, "recent_tokens=12 is less than horizon=40"),
        ({"horizon": 62, "recent_tokens": 62}, "leave no block"),
        ({"block_size": 128}, "block_size=128 exceeds"),
        ({"lens": {"target": "preference"}}, "num_random_variants=2 has 1"),
        ({"random_share": 0.6, "policy_share": 0.6}, "together they are at most 1"),
        ({"baseline_tokens": 24}, "learns from a pass over all of a sequence"),
        ({"baseline_tokens": 24, "lens": {"loss_weight": 0.0}, "distill_weight": 1.0}, "for the teacher"),
        ({"variants_train_gpt": False, "baseline_share": 0.5}, "trains no GPT"),
        ({"baseline_tokens": T + 1, "lens": {"loss_weight": 0.0}}, "exceeds model.max_seq_len"),
    ):
        with pytest.raises((ConfigError, ValueError), match=message):
            run_config(**changes)
