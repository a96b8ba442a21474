"""The regression test of the algorithm: train on synthetic recall, then ask which Working Context knows the answer.

It separates what plain loss curves can't: "gists carry it" (gists only against the window), "expansion recovers it" (oracle) and
"the focus finds it" (LensNet against random, recency and the model's raw attention to its gists).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mccore.config import MegaContextConfig, ModelConfig, OptimConfig, RunConfig
from mccore.config.stages import TEXT_STAGE
from mccore.data.batches.loader import Batch
from mccore.data.recall import RecallTask, draw_recall
from mccore.megacontext.networks.networks import MegaContextNets, megacontext_groups
from mccore.megacontext.networks.nodes import AttentionMass, block_scores, node_of_block
from mccore.megacontext.networks.positions import Spans
from mccore.megacontext.training.draw import StepDraw
from mccore.megacontext.training.objective import MegaContextObjective
from mccore.megacontext.training.random_cuts import CutShape, entries_of
from mccore.megacontext.working_context import WorkingContexts, assemble, context_inputs
from mccore.model.gpt import GPT
from mccore.model.optim.optimizer import Optimizer, assign_groups, gpt_groups
from mccore.model.schedule import Schedule
from mccore.scaling.model import derive_model

EVAL_ROWS = 256
EVAL_SEED = 1_000_003
WARMDOWN = 0.35  # share of the training in which rates fall
MOMENTUM = 0.8  # Muon's: with so few steps a long memory costs more than it smooths


@dataclass(frozen=True)
class RecallSetting:
    """Task, model and training of one experiment."""

    task: RecallTask = field(default_factory=RecallTask)
    width: int = 64
    depth: int = 2
    head_dim: int = 32
    steps: int = 240
    rows: int = 32
    # Easier sizes of the task to begin with, (steps, blocks, block_size, facts).
    warmup: tuple[tuple[int, int, int, int], ...] = ()
    expanded: int = 2  # blocks that may be expanded, at training and evaluation
    lod2_probability: float = 0.0
    dtype: torch.dtype = torch.bfloat16
    megacontext: dict[str, Any] = field(default_factory=dict)  # overrides of MegaContextConfig
    lens: dict[str, Any] = field(default_factory=dict)  # overrides of LensConfig
    gistnet: dict[str, Any] = field(default_factory=dict)  # overrides of GistNetConfig
    matrix_lr: float = 0.1
    embedding_lr: float = 0.03
    head_lr: float = 0.02
    evaluation: RecallTask | None = None  # another size of history than the trained one


_FACTS = {"keys": 160, "answered": 24}
# Blocks grow while training: what a gist holds and how it is asked form on small ones first.
_SMALL, _MEDIUM = (60, 16, 8, 2), (20, 16, 16, 4)
# The published settings; figures in docs/RESULTS.md. The bars are in tests/megacontext/test_recall.py.
SETTINGS: dict[str, RecallSetting] = {
    "k8": RecallSetting(RecallTask(answered=24), steps=100),
    "k16": RecallSetting(RecallTask(block_size=16, facts=4, **_FACTS), steps=150, warmup=(_SMALL,)),
    "k32": RecallSetting(RecallTask(block_size=32, facts=8, **_FACTS), width=96, steps=155, warmup=(_SMALL, _MEDIUM)),
    "alias": RecallSetting(RecallTask(answered=24, alias=True), steps=150),
    "lod2": RecallSetting(
        RecallTask(blocks=64, facts=1, keys=128, answered=12, asked=2),
        width=96,
        steps=170,
        warmup=((80, 16, 8, 1),),
        lod2_probability=1.0,
    ),
    "longer": RecallSetting(RecallTask(answered=24), steps=130, megacontext={"position_skip": 160}),
}


def recall_model(setting: RecallSetting) -> ModelConfig:
    """The GPT of an experiment."""
    task = setting.task
    return derive_model(
        ModelConfig(
            depth=setting.depth,
            n_embd=setting.width,
            head_dim=setting.head_dim,
            vocab_size=-(-task.vocab // 8) * 8,
            vocab_ids=task.vocab,
            max_seq_len=task.tokens,
            rope_base=10_000.0,
            value_embeddings=False,
            residual_scalars=False,
            backout=False,
            smear=True,
            smear_init=2.0,  # the gate starts near one half: a whole share of the token before
            head_std=0.02,
        )
    )


def recall_megacontext(setting: RecallSetting, task: RecallTask) -> MegaContextConfig:
    """How contexts are drawn from a task: gists only, or with `expanded` far blocks as tokens."""
    nodes = task.blocks // task.block_size if setting.lod2_probability else 0
    # Of all collapses there could be, those of the expanded blocks, and of the nodes over them, aren't made.
    collapses = task.blocks + nodes - setting.expanded * (2 if nodes else 1)
    length = task.tokens - collapses * (task.block_size - 1)
    return MegaContextConfig.model_validate(
        {
            "enabled": True,
            "block_size": task.block_size,
            "max_lod": 2,
            "lod2_probability": setting.lod2_probability,
            "train_wc_length": length,
            "wc_length_steps": 1,
            "recent_tokens": task.tail,
            "horizon": task.horizon,
            "expanded_blocks": setting.expanded,
            "random_share": 0.0,
            "gist_target_weight": 0.0,
            "variant_weight": 1.0,
            "gistnet": {"layers": 1, "head": "linear", "matrix_lr": 0.05, **setting.gistnet},
            "lens": {
                "start": 0.3,
                "queries": 2 * task.answered + 1 + task.asked,
                "loss_weight": 2.0,  # each of the two kinds of contexts has half of it
                "question_weight": 2.0,
                **setting.lens,
            },
            **setting.megacontext,
        }
    )


def build_recall(setting: RecallSetting, seed: int) -> tuple[GPT, MegaContextNets, Optimizer]:
    """Networks and optimizer of an experiment."""
    model = recall_model(setting)
    config = recall_megacontext(setting, setting.task)
    gpt = GPT(model, seed=seed, compute_dtype=setting.dtype)
    nets = MegaContextNets(config, model, seed=seed, dtype=setting.dtype)
    optim = OptimConfig(
        matrix_lr=setting.matrix_lr,
        embedding_lr=setting.embedding_lr,
        head_lr=setting.head_lr,
        gate_lr=0.003,  # at the 0.2 of large models the smear is gone before the circuit forms
        lr_batch_scale=1.0,
        lr_width_scale=1.0,
        weight_decay_scale=1.0,
        weight_decay=0.01,
        grad_clip=1.0,
    )
    run = RunConfig(model=model, optim=optim, megacontext=config)
    groups = (*gpt_groups(run, TEXT_STAGE, "gpt."), *megacontext_groups(config, "mc.", 1.0))
    members = assign_groups(nn.ModuleDict({"gpt": gpt, "mc": nets}), groups)
    return gpt, nets, Optimizer(members, optim, dtype=torch.float32)


def train_recall(
    setting: RecallSetting, seed: int, progress: Callable[[int, dict[str, float]], None] | None = None
) -> tuple[GPT, MegaContextNets]:
    """Train on fresh rows in every step. `progress(step, metrics)` is called every 20 steps."""
    gpt, nets, optimizer = build_recall(setting, seed)

    def objective_on(task: RecallTask) -> MegaContextObjective:
        config = recall_megacontext(setting, task)
        return MegaContextObjective(gpt, nets, StepDraw(config, task.tokens, seed))

    phases = [
        (steps, setting.task.resized(blocks=blocks, block_size=size, facts=facts))
        for steps, blocks, size, facts in setting.warmup
    ]
    phases.append((setting.steps - sum(steps for steps, _ in phases), setting.task))
    tasks = [(task, objective) for steps, task in phases for objective in [objective_on(task)] for _ in range(steps)]
    for step, (task, objective) in enumerate(tasks):
        generator = torch.Generator().manual_seed(seed * 1_000_000 + step)
        drawn = draw_recall(task, setting.rows, generator)
        share = step / setting.steps
        batch = Batch(drawn.inputs, drawn.targets, float(drawn.weights.sum()), 0, step, share, weights=drawn.weights)
        losses = objective(batch)
        losses.loss.backward()  # type: ignore[no-untyped-call]
        down = min(1.0, 0.05 + 0.95 * (1 - share) / WARMDOWN)
        optimizer.step(Schedule(lr=down, momentum=MOMENTUM))
        optimizer.zero_grad()
        if progress is not None and (step % 20 == 19 or step + 1 == setting.steps):
            progress(
                step + 1, {name: float(total / count) for name, (total, count) in losses.metrics.sums.items() if count}
            )
    return gpt.eval(), nets.eval()


class _Contexts:
    """Contexts over the far blocks of the same rows, and what the model answers with them."""

    def __init__(self, gpt: GPT, nets: MegaContextNets, setting: RecallSetting, rows: int) -> None:
        self.gpt, self.nets = gpt, nets
        self.task = setting.evaluation or setting.task
        self.expanded = setting.expanded
        self.drawn = draw_recall(self.task, rows, torch.Generator().manual_seed(EVAL_SEED))
        self.blocks = -(-self.task.tokens // self.task.block_size)
        self.levels = nets.pyramid(gpt.embed(self.drawn.inputs))
        self.top = nets.config.max_lod if setting.lod2_probability else 1
        self.wanted = self.drawn.targets.gather(1, self.drawn.answer_at)
        self.needed = torch.zeros(rows, self.blocks).scatter(1, self.drawn.answer_block, 1.0)

    def coarse(self) -> Tensor:
        """The level over each block when all the far past is gists, as coarse as they come: int64 [R, blocks]."""
        state = torch.zeros(len(self.needed), self.blocks, dtype=torch.int64)
        for lod in range(1, self.top + 1):
            group = self.task.block_size ** (lod - 1)
            state[:, : self.task.blocks // group * group] = lod
        return state

    def of(self, state: Tensor, levels: list[Tensor] | None = None) -> WorkingContexts:
        """The contexts with these levels over the blocks. All rows must have equally many entries."""
        size = self.task.block_size
        block = torch.arange(self.blocks)
        begins = block % size ** (state[0] - 1).clamp(min=0) == 0
        entries = int(torch.where(state[0] == 0, size, begins.long()).sum()) - (self.blocks * size - self.task.tokens)
        shape = CutShape(self.task.tokens, entries, size, self.nets.config.max_lod, self.task.tail)
        return assemble(levels or self.levels, torch.arange(len(state)), *entries_of(shape, state), size)

    def hidden(self, contexts: WorkingContexts, recorder: AttentionMass | None = None) -> Tensor:
        inputs = context_inputs(self.gpt, self.nets, contexts, self.drawn.inputs)
        return self.gpt.hidden(**inputs, attend=recorder)

    def accuracy(self, hidden: Tensor) -> float:
        """Share of right answers, from states whose last ones are the horizon's."""
        at = hidden.size(1) - self.task.horizon + torch.arange(0, self.task.horizon, 2)
        return float((self.gpt.logits(hidden[:, at]).argmax(dim=-1) == self.wanted).float().mean())

    def focus(self, score: Callable[[WorkingContexts], Tensor]) -> tuple[float, float]:
        """Open the nodes with the best scores [R, blocks], level by level, as many in each as may be expanded; the accuracy
        then, and the share of needed blocks that are tokens."""
        state = self.coarse()
        for lod in range(self.top, 0, -1):
            group = self.task.block_size ** (lod - 1)
            begins = torch.arange(self.blocks) % group == 0
            values = score(self.of(state)).masked_fill(~((state == lod) & begins), -torch.inf)
            chosen = values.topk(self.expanded, dim=1).indices
            opened = (chosen.unsqueeze(-1) + torch.arange(group)).flatten(1)
            state = state.scatter(1, opened, lod - 1)
        seen = self.needed * (state == 0)
        return self.accuracy(self.hidden(self.of(state))), float(seen.sum() / self.needed.sum())

    # --- scores of the nodes of a context, [R, blocks] at the first block of each -------------------------------------

    def lens(self, contexts: WorkingContexts) -> Tensor:
        history = contexts.level.size(1) - self.task.horizon
        spans = Spans(*(part[:, :history] for part in contexts.spans))
        editable = contexts.last[:, :history] < self.task.far
        found = self.nets.lensnet(contexts.embeddings[:, :history].to(self.nets.dtype), spans, editable)
        size = self.task.block_size
        return block_scores(found, contexts.level[:, :history], contexts.index[:, :history], size, self.blocks)

    def raw_attention(self, contexts: WorkingContexts) -> Tensor:
        """What the asked keys themselves attend to in the model."""
        history = contexts.level.size(1) - self.task.horizon
        first = torch.full((len(contexts.row),), history - self.task.asked)
        entries = contexts.level.size(1)
        recorder = AttentionMass(first, self.task.asked, 1, entries, torch.full_like(first, entries - self.task.tail))
        self.hidden(contexts, recorder)
        found = recorder.excess().sum(dim=1)
        first_block, _ = node_of_block(contexts.level, contexts.index, self.task.block_size, self.blocks)
        return torch.zeros_like(self.needed).scatter_add(1, first_block, found)

    def oracle(self, contexts: WorkingContexts) -> Tensor:
        _, node = node_of_block(contexts.level, contexts.index, self.task.block_size, self.blocks)
        return torch.zeros_like(self.needed).scatter_add(1, node, self.needed)


@torch.inference_mode()
def evaluate_recall(gpt: GPT, nets: MegaContextNets, setting: RecallSetting, rows: int = EVAL_ROWS) -> dict[str, float]:
    """Accuracy with every kind of context on the same fresh rows, and `<focus>_recall`, the share of needed blocks found."""
    contexts = _Contexts(gpt, nets, setting, rows)
    task = contexts.task
    results = {"full": contexts.accuracy(gpt.hidden(contexts.drawn.inputs))}
    results["window"] = contexts.accuracy(
        gpt.hidden(contexts.drawn.inputs[:, task.far :], positions=torch.arange(task.far, task.tokens))
    )
    results["gists"] = contexts.accuracy(contexts.hidden(contexts.of(contexts.coarse())))
    others = [contexts.levels[0], *(gists.roll(1, dims=0) for gists in contexts.levels[1:])]
    results["swapped"] = contexts.accuracy(contexts.hidden(contexts.of(contexts.coarse(), others)))
    chance = torch.Generator().manual_seed(1)
    focuses: dict[str, Callable[[WorkingContexts], Tensor]] = {
        "random": lambda _: torch.rand(contexts.needed.shape, generator=chance),
        "recency": lambda _: torch.arange(contexts.blocks).float().expand(rows, -1),
        "raw_attention": contexts.raw_attention,
        "lens": contexts.lens,
        "oracle": contexts.oracle,
    }
    for name, score in focuses.items():
        results[name], results[f"{name}_recall"] = contexts.focus(score)
    return results


def run_recall(setting: RecallSetting, seed: int, *, verbose: bool = False) -> dict[str, float]:
    """Train and evaluate one experiment; the results with `seconds` of training beside them."""

    def tell(step: int, metrics: dict[str, float]) -> None:
        if verbose:
            print(f"step {step}: " + "  ".join(f"{name} {value:.3f}" for name, value in metrics.items()), flush=True)

    began = time.perf_counter()
    gpt, nets = train_recall(setting, seed, tell)
    seconds = time.perf_counter() - began
    return {**evaluate_recall(gpt, nets, setting), "seconds": seconds}
