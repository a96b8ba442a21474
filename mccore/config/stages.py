"""The table of stages: what a run may do, in order, and what everything else needs to know of each.

Adding a stage is a row here and a function in `mccore/stages/`, named by the row's `work`. A stage that trains also has a
section of the configuration under its name.
"""

from __future__ import annotations

from dataclasses import dataclass

StageName = str


@dataclass(frozen=True)
class StageSpec:
    """One stage of a run."""

    name: StageName
    """What a user types, and what its log, its checkpoints and its results are called."""
    work: str
    """The function that does it, as `module.function` of `mccore.stages`, or of a room in it."""
    title: str = ""
    """What a plot calls it, where it has curves."""
    trains: bool = False
    """It makes checkpoints, goes on from them, and has a section of its name in the configuration."""
    ranks: bool = False
    """It runs on all ranks, others on one."""
    needs_model: bool = False
    """It computes with a model: its process imports torch."""
    chat: bool = False
    """It is about conversations, not documents."""
    evaluates: StageName | None = None
    """The training stage whose model it measures."""
    rollouts: bool = False
    """It trains on replies that its own model gives to questions: no text is encoded for it."""
    optional: bool = False
    """A run has it only when its recipe names it."""


def _trains(name: StageName, title: str, *, chat: bool) -> StageSpec:
    return StageSpec(
        name, "train.train_stage", f"{name}: {title}", trains=True, ranks=True, needs_model=True, chat=chat
    )


def _asks(name: StageName, stage: StageName, *, optional: bool = False) -> StageSpec:
    work = "evaluate.evaluate_chat"
    return StageSpec(name, work, ranks=True, needs_model=True, chat=True, evaluates=stage, optional=optional)


STAGE_TABLE: tuple[StageSpec, ...] = (
    StageSpec("data", "prepare.find_corpus"),
    StageSpec("tokenizer", "prepare.train_tokenizer"),
    StageSpec("tokenizer_eval", "prepare.measure_tokenizer"),
    StageSpec("encode", "prepare.encode"),
    _trains("base", "pretraining", chat=False),
    StageSpec("base_eval", "evaluate.evaluate_text", ranks=True, needs_model=True, evaluates="base"),
    _trains("mid", "midtraining", chat=True),
    _asks("chat_eval_mid", "mid"),
    _trains("sft", "fine-tuning", chat=True),
    _asks("chat_eval_sft", "sft"),
    StageSpec(
        "rl",
        "rl.stage.reinforce",
        "rl: reinforcement learning",
        trains=True,
        ranks=True,
        needs_model=True,
        chat=True,
        rollouts=True,
        optional=True,
    ),
    _asks("chat_eval_rl", "rl", optional=True),
    StageSpec("report", "report.report"),
)

STAGES: tuple[StageName, ...] = tuple(spec.name for spec in STAGE_TABLE)

DEFAULT_STAGES: tuple[StageName, ...] = tuple(spec.name for spec in STAGE_TABLE if not spec.optional)

TRAINING_STAGES: tuple[StageName, ...] = tuple(spec.name for spec in STAGE_TABLE if spec.trains)

CHAT_STAGES: tuple[StageName, ...] = tuple(spec.name for spec in STAGE_TABLE if spec.trains and spec.chat)
"""The training stages that take a mixture of conversations."""

ENCODED_STAGES: tuple[StageName, ...] = tuple(spec.name for spec in STAGE_TABLE if spec.trains and not spec.rollouts)
"""The training stages that read tokens which were encoded beforehand."""

TEXT_STAGE: StageName = next(spec.name for spec in STAGE_TABLE if spec.trains and not spec.chat)
"""The training stage that reads the corpus."""

REPORT_STAGE: StageName = next(spec.name for spec in STAGE_TABLE if spec.work == "report.report")
"""The stage that tells of the others."""

_BY_NAME = {spec.name: spec for spec in STAGE_TABLE}


def stage_spec(name: StageName) -> StageSpec:
    """The row of a stage. Raises KeyError for one that isn't there."""
    return _BY_NAME[name]


def evaluations(*, chat: bool) -> tuple[StageSpec, ...]:
    """The stages that measure models: those of chat models, or of models of text."""
    return tuple(spec for spec in STAGE_TABLE if spec.evaluates and spec.chat == chat)


def stage_of_work(work: str) -> StageName:
    """The first stage that does this work, for what there is one of in a run. Raises StopIteration where none does."""
    return next(spec.name for spec in STAGE_TABLE if spec.work == work)
