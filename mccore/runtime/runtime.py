"""The one place where names become objects: what a stage needs, built from the configuration of a run.

Stages that prepare data run without torch, whose import takes longer than some of them; what needs it is imported where it
is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mccore.config import (
    TRAINING_STAGES,
    ChatTrainConfig,
    ModelConfig,
    RLConfig,
    RunConfig,
    StageName,
    TrainConfig,
    stage_spec,
)
from mccore.config.stages import evaluations
from mccore.data.batches.rows import Rows
from mccore.data.batches.store import TokenStore, store_path
from mccore.data.corpora.catalogue import open_corpus
from mccore.data.corpora.document import Corpus
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import CheckpointError, Interrupted
from mccore.events import Event
from mccore.host import paths
from mccore.runs.checkpoints import latest, step_of
from mccore.runs.rundir import RunDir
from mccore.runtime.emitting import Place, Unheard
from mccore.runtime.inputs import check_input
from mccore.runtime.open import OpenModel, open_model
from mccore.runtime.stores import check_mixture, corpus_splits, mixture_of, mixture_splits, token_store
from mccore.scaling.plan import stage_config
from mccore.tasks.catalogue import benchmark_names, code_version, open_task
from mccore.tasks.jsonl import ReadConversations
from mccore.telemetry.emitter import Emitter
from mccore.train.world import World

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from mccore.eval.bits_per_byte import BitsPerByte
    from mccore.megacontext.networks.networks import MegaContextNets
    from mccore.model.gpt import GPT
    from mccore.model.optim.optimizer import Optimizer
    from mccore.train.objective import Objective


PROGRESS_SECONDS = 1.0


class StopRequested(Interrupted):
    """The stage is asked to end and has nothing to save; it is done again when the run goes on."""


class Stopped(Exception):
    """A training stage was asked to end and has saved; `results` is what it reached."""

    def __init__(self, results: dict[str, Any]) -> None:
        super().__init__(f"stopped at step {results['step']}")
        self.results = results


@dataclass
class Training:
    """What a training stage trains, and how. `model` holds the GPT as `gpt`, beside whatever else is trained with it."""

    model: nn.ModuleDict
    gpt: GPT
    optimizer: Optimizer
    objective: Objective
    nets: MegaContextNets | None = None


@dataclass
class Runtime:
    """A run as one stage on one rank sees it."""

    config: RunConfig
    run: RunDir
    stage: StageName
    world: World
    emitter: Emitter | Unheard
    stop_requested: Callable[[], bool]
    show: Callable[[Event], None] = lambda event: None  # to a person, in the stage's log
    cache: Path = field(default_factory=paths.cache_dir)
    _progress_at: float = 0.0

    # --- what a stage tells ------------------------------------------------------------------------------------------

    def emit(
        self,
        type: str,
        metrics: Mapping[str, float] | None = None,
        *,
        at: Place | None = None,
        durable: bool = False,
        **data: Any,
    ) -> None:
        """Make an event of this stage, `at` a step where there is one, and write it; `durable` waits until it is on disk."""
        step, tokens = (at.step, at.tokens) if at is not None else (None, None)
        event = Event.now(type, metrics, data, rank=self.world.rank, stage=self.stage, step=step, tokens=tokens)
        self.emitter.emit(event, durable=durable)
        self.show(event)

    def progress(self, done: int, total: int | None, unit: str) -> None:
        """Tell how far a stage without training steps is, about once a second. Raises StopRequested when asked to end."""
        if self.stop_requested():
            raise StopRequested(f"{self.stage} was stopped at {done} {unit}")
        now = time.monotonic()
        if now - self._progress_at >= PROGRESS_SECONDS or done == total:
            self._progress_at = now
            self.emit("stage.progress", done=done, total=total, unit=unit)

    # --- data --------------------------------------------------------------------------------------------------------

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus of the run. Raises InputChanged where its content isn't what the run began with."""
        corpus = open_corpus(self.config.data.corpus, cache_dir=self.cache, shards=self.config.data.shards)
        self._check_input(f"the corpus {corpus.name}", corpus.manifest())
        return corpus

    def _check_input(self, name: str, fingerprint: Mapping[str, Any]) -> None:
        check_input(self.run.path, name, fingerprint, record=self.world.rank == 0)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer. Raises DataError while there is none."""
        return Tokenizer.load(self.run.tokenizer_dir)

    @cached_property
    def token_bytes(self) -> Tensor:
        """Bytes of each id, 0 for specials: int32 [vocab]."""
        import torch

        return torch.from_numpy(self.tokenizer.token_bytes())

    def store(self, stage: StageName, *, build: bool = False) -> TokenStore:
        """What a training stage reads, as tokens, made where it isn't there: the corpus for `base`, conversations with
        their mask for the others. `build` also checks a store that is there, and makes it again when it is damaged.
        """
        config, key = self.config, _store_key(self, stage)
        if not stage_spec(stage).chat:
            splits = corpus_splits(self.corpus, self.tokenizer, self.progress)
        else:
            mixture = self.mixture(stage)
            splits = mixture_splits(mixture, self.tokenizer, self.progress, seed=config.seed, strict=config.data.strict)
        return token_store(self.cache, key, self.tokenizer.vocab_size, splits, self.world, build)

    def has_store(self, stage: StageName) -> bool:
        """Whether what a training stage reads is there as tokens, so that reading it makes nothing."""
        return store_path(self.cache, _store_key(self, stage)).is_dir()

    def conversations_version(self, mixture: Mapping[str, int]) -> dict[str, Any]:
        """What the content of a mixture's sources depends on beside their names. Raises InputChanged where it isn't what the
        run began with."""
        versions: dict[str, Any] = {}
        for name in mixture:
            if (fingerprint := open_task(name).fingerprint()) is not None:
                versions[name] = fingerprint
                self._check_input(f"the conversations {name}", fingerprint)
            else:
                versions["stdlib"] = self._stdlib_manifest
        return versions

    @cached_property
    def _stdlib_manifest(self) -> dict[str, Any]:
        manifest = open_corpus("stdlib", cache_dir=self.cache).manifest()
        self._check_input("the standard library", manifest)
        return manifest

    def check_conversations(self) -> dict[str, ReadConversations]:
        """What the files of conversations hold that the stages of this run train on, by their names; all of them are read, and
        what is elsewhere is fetched.

        Raises DataError for one that can't be read or has nothing for a split.
        """
        stages = [stage for stage in TRAINING_STAGES if stage_spec(stage).chat and stage in self.config.stages]
        mixtures = [self.mixture(stage) for stage in stages]
        names = {name: None for mixture in mixtures for name in mixture}
        if any(spec.name in self.config.stages for spec in evaluations(chat=True)):
            names |= dict.fromkeys(benchmark_names(self.config.eval.benchmarks))
        return check_mixture(list(names), self.progress, strict=self.config.data.strict)

    def mixture(self, stage: StageName) -> dict[str, int]:
        """What a chat stage draws from each source, sources of none left out. Raises DataError for an empty mixture."""
        return mixture_of(self.config, stage)

    def rows(self, stage: StageName, split: Literal["train", "val"]) -> Rows:
        """The rows of a training stage. Those for validation are the same whatever the seed."""
        tokens = self.store(stage).split(split)
        length = self.config.model.max_seq_len
        seed = self.config.seed if split == "train" else 0
        section = stage_config(self.config, stage)
        if not isinstance(section, ChatTrainConfig):
            return Rows(tokens, length, seed=seed)
        return Rows(tokens, length, seed=seed, chat=section.loss_on)

    # --- models ------------------------------------------------------------------------------------------------------

    @property
    def train_config(self) -> TrainConfig:
        """The settings of this training stage."""
        return stage_config(self.config, self.stage)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The compute type."""
        from mccore.train.devices import choose_dtype

        return choose_dtype(self.config.hardware.dtype, self.world.device)

    @property
    def aux_dtype(self) -> torch.dtype:
        """The compute type of GistNet and LensNet: the GPT's, unless the configuration names one."""
        import torch

        named = {"fp32": torch.float32, "bf16": torch.bfloat16}
        return named.get(self.config.megacontext.aux_dtype, self.dtype)

    @cached_property
    def model_config(self) -> ModelConfig:
        """The GPT's configuration. Ids that the tokenizer turned out not to have are never predicted."""
        return self.config.model.model_copy(update={"vocab_ids": self.tokenizer.vocab_size})

    @property
    def compiled(self) -> bool:
        """Whether training goes through torch.compile."""
        wish = self.config.hardware.compile
        return wish == "on" or (wish == "auto" and self.world.device.type == "cuda")

    def training(self) -> Training:
        """A freshly initialised model, its optimizer for this stage and its objective."""
        from torch import nn

        from mccore.model.gpt import GPT
        from mccore.model.optim.optimizer import build_optimizer
        from mccore.runtime.policy import build_policy
        from mccore.train.objective import NextTokenObjective

        with self.world.device:
            gpt = GPT(self.model_config, seed=self.config.seed, compute_dtype=self.dtype)
        if isinstance(self.train_config, RLConfig):
            nets = self._nets() if self.config.megacontext.enabled else None
            before = self.previous_stage() if self.train_config.kl_weight else None
            reference = None if before is None else self.open_model(before).gpt
            parts = build_policy(self.config, self.stage, gpt, nets, reference, compiled=self.compiled)
            return Training(parts.model, gpt, parts.optimizer, parts.objective)
        compiled = self.compiled
        # Muon orthogonalises in the compute type: on a CPU with bf16 that halves the optimizer's share of a small step.
        if not self.config.megacontext.enabled:
            model = nn.ModuleDict({"gpt": gpt})
            optimizer = build_optimizer(model, self.config, self.stage, prefix="gpt.", dtype=self.dtype)
            return Training(model, gpt, optimizer, NextTokenObjective(gpt, compiled=compiled))
        from mccore.megacontext.networks.networks import megacontext_groups
        from mccore.megacontext.training.draw import StepDraw
        from mccore.megacontext.training.objective import MegaContextObjective

        nets = self._nets()
        model = nn.ModuleDict({"gpt": gpt, "mc": nets})
        rate = self.train_config.lr_scale * self.config.optim.lr_batch_scale
        groups = megacontext_groups(self.config.megacontext, "mc.", rate)
        optimizer = build_optimizer(model, self.config, self.stage, prefix="gpt.", extra=groups, dtype=self.dtype)
        draw = StepDraw(nets.config, self.config.model.max_seq_len, self.config.seed)
        all_reduce = self.world.sum if self.world.size > 1 else None
        objective = MegaContextObjective(gpt, nets, draw, compiled=compiled, all_reduce=all_reduce)
        if compiled:
            dynamo = torch._dynamo.config
            dynamo.recompile_limit = max(dynamo.recompile_limit, objective.graphs)
        return Training(model, gpt, optimizer, objective, nets)

    def _nets(self) -> MegaContextNets:
        """GistNet, LensNet and what belongs to them, freshly initialised."""
        from mccore.megacontext.networks.networks import MegaContextNets

        config = self.config
        with self.world.device:
            return MegaContextNets(config.megacontext, self.model_config, seed=config.seed, dtype=self.aux_dtype)

    def previous_stage(self) -> StageName | None:
        """The training stage whose model this one starts from, or None for the first."""
        before = TRAINING_STAGES[: TRAINING_STAGES.index(self.stage)]
        return next((stage for stage in reversed(before) if stage in self.config.stages), None)

    def last_checkpoint(self, stage: StageName) -> Path:
        """The newest checkpoint of a stage. Raises CheckpointError when there is none, or an older one than its result names."""
        found = latest(self.run.checkpoint_dir(stage))
        claimed = (self.run.read_result(stage) or {}).get("step")
        if found is not None and isinstance(claimed, int) and step_of(found) != claimed:
            raise CheckpointError(
                f"{stage} ended at step {claimed}, and its newest complete checkpoint is {found.name}: a copy was interrupted, "
                f"or files were deleted",
                hint=f"copy the run again as a whole, or delete {self.run.result_path(stage)} to train {stage} from there",
            )
        if found is None:
            raise CheckpointError(
                f"{self.stage} needs the model of {stage}, which has no checkpoint in {self.run.path}",
                hint=f"run the {stage} stage first",
            )
        return found

    def open_model(self, stage: StageName, *, aux_dtype: torch.dtype | None = None) -> OpenModel:
        """The model of a stage's newest checkpoint, for evaluation; aux_dtype: see `runtime.open.open_model`."""
        opened = open_model(self.last_checkpoint(stage), self.world.device, self.dtype, aux_dtype=aux_dtype)
        _ = opened.tokenizer  # another one is told before anything is computed
        return opened

    def validate(self, gpt: GPT, rows: Rows, tokens: int, batch_rows: int) -> BitsPerByte:
        """Validation loss and bits per byte over up to `tokens` tokens; every rank takes its share and gets the result. A model
        whose plain pass reads parts of a sequence is asked for such parts."""
        from mccore.data.batches.loader import parts_of, validation_batches
        from mccore.eval.bits_per_byte import bits_per_byte

        batches = validation_batches(rows, tokens, batch_rows, rank=self.world.rank, world_size=self.world.size)
        megacontext = self.config.megacontext
        if length := megacontext.enabled and megacontext.baseline_tokens:
            batches = parts_of(batches, length)
        return bits_per_byte(gpt, batches, self.token_bytes, all_reduce=self.world.sum)


def _store_key(runtime: Runtime, stage: StageName) -> dict[str, Any]:
    """What the tokens of a training stage are made from."""
    key: dict[str, Any] = {"kind": "text", "corpus": None, "tokenizer": runtime.tokenizer.fingerprint}
    if not stage_spec(stage).chat:
        return {**key, "corpus": runtime.corpus.manifest()}
    mixture = runtime.mixture(stage)
    return key | {
        "kind": "chat",
        "corpus": runtime.conversations_version(mixture),
        "code": code_version(),
        "mixture": dict(sorted(mixture.items())),
        "seed": runtime.config.seed,
    }


def look_at(run: RunDir, stage: StageName) -> Runtime:
    """A finished run as a stage of it would see it, for measuring: nothing is written into the run."""
    return Runtime(run.config, run, stage, World(), Unheard(), lambda: False)


def build(
    run: RunDir,
    stage: StageName,
    *,
    world: World,
    emitter: Emitter,
    stop_requested: Callable[[], bool] | None = None,
    show: Callable[[Event], None] = lambda event: None,
) -> Runtime:
    """The runtime of one stage on one rank. `show` tells events to whoever reads the stage's log."""
    return Runtime(run.config, run, stage, world, emitter, stop_requested or run.stop_requested, show)
