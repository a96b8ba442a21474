"""Sessions of a run's model: its networks, allocator and trees put together, and where conversations with a name live."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mccore import plugins
from mccore.api import TreeSpec
from mccore.config import Choice, MegaContextConfig, RunConfig
from mccore.errors import UsageError
from mccore.host import paths
from mccore.resolve.draft import FINDER
from mccore.runs.checkpoints import identity_of
from mccore.runtime.models import load_gpt, load_megacontext

if TYPE_CHECKING:
    import torch

    from mccore.api import TreeBackend
    from mccore.megacontext.sessions.model import SessionModel
    from mccore.megacontext.sessions.session import Session
    from mccore.model.gpt import GPT
    from mccore.runs.checkpoints import Meta

_STORED = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
MEMORY, FILES = "ram", "disk"  # what stands in where the configured tree isn't for memory, or not for files


@dataclass(frozen=True)
class Overrides:
    """What a session does otherwise than its model's configuration says; None leaves it as it is."""

    allocator: Choice | None = None
    tree: Choice | None = None
    wc_length: int | None = None
    refocus_interval: int | None = None
    kv_policy: str | None = None
    surprise: float | None = None
    gist_dtype: str | None = None
    search: str | None = None
    token_positions: str | None = None

    def apply(self, config: MegaContextConfig) -> MegaContextConfig:
        """The configuration with these. Raises ConfigError for a value that isn't allowed."""
        given = {name: _plain(value) for name, value in vars(self).items() if value is not None}
        if self.search is not None:
            given["search"] = {**config.search.model_dump(), "kind": self.search}
        return MegaContextConfig.model_validate({**config.model_dump(), **given})


class TreeBuilder:
    """Builds the trees of sessions: by the plugin that was configured, or by its fellow where that one can't."""

    def __init__(self, choice: Choice) -> None:
        self.memory = Choice(name=MEMORY) if choice.name == FILES else choice
        self.files = Choice(name=FILES) if choice.name == MEMORY else choice

    def __call__(self, spec: TreeSpec) -> TreeBackend:
        return plugins.build("tree", self.memory if spec.directory is None else self.files, spec)


def load_context_model(
    checkpoint: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    overrides: Overrides | None = None,
) -> tuple[SessionModel, TreeBuilder, Meta]:
    """The model of a checkpoint as sessions share it, and what builds their trees.

    Raises UsageError for a model that was trained without MegaContext, or a search that was asked for with an allocator that
    doesn't show what is found, CheckpointError for a damaged model, ConfigError.
    """
    gpt, meta = load_gpt(checkpoint, device, dtype)
    model, trees = context_model(checkpoint, gpt, meta, device, overrides)
    return model, trees, meta


def context_model(
    checkpoint: Path, gpt: GPT, meta: Meta, device: torch.device | str = "cpu", overrides: Overrides | None = None
) -> tuple[SessionModel, TreeBuilder]:
    """`load_context_model` around a GPT that is there already."""
    import torch

    from mccore.megacontext.sessions.model import SessionModel, SessionSettings

    nets = load_megacontext(checkpoint, device, gpt.compute_dtype)
    if nets is None:
        raise UsageError(
            f"the model in {checkpoint} was trained without MegaContext: it has no gists and no focus",
            hint="train one with `mccore run tiny --mc`",
        )
    config = (overrides or Overrides()).apply(RunConfig.model_validate(meta.config).megacontext)
    nets.config = nets.config.model_copy(update={"token_positions": config.token_positions})
    extension = plugins.load("allocator", config.allocator.name)
    options = plugins.read_options("allocator", config.allocator, extension)
    own = getattr(options, "recent_tokens", None)
    if own is not None:  # made for large Working Contexts, in a small one it would leave nothing to allocate
        options = options.model_copy(update={"recent_tokens": min(own, config.wc_length // 4)})
    settings = SessionSettings(
        budget=config.wc_length,
        interval=config.refocus_interval,
        kv_policy=config.kv_policy,
        surprise=config.surprise or None,
        search=config.search,
    )
    model = SessionModel(
        gpt,
        nets,
        lambda spec: extension.build(options, spec),
        settings,
        identity=model_identity(checkpoint, meta),
        stored=getattr(torch, _STORED[config.gist_dtype]),
    )
    if overrides is not None and overrides.search not in (None, "none") and not shows_what_is_found(model):
        raise UsageError(
            f"the allocator {config.allocator.name!r} doesn't show what a search finds",
            hint=f"choose one that does: --allocator {FINDER}",
        )
    return model, TreeBuilder(config.tree)


def shows_what_is_found(model: SessionModel) -> bool:
    """Whether the allocator of a model goes by what a search of the history finds."""
    return bool(getattr(model.allocator(model.nets.config.max_lod, 0), "reads_found", False))


def missing_search(model: SessionModel) -> str | None:
    """What to tell a user whose allocator waits for a search and has none; None where all is well."""
    if model.settings.search.kind != "none" or not shows_what_is_found(model):
        return None
    return (
        "this allocator shows what a search finds, and nothing is searched: it makes a window behind a coarse past; "
        "--search ngram searches"
    )


def session_in_memory(model: SessionModel, trees: TreeBuilder) -> Session:
    """A new session without a place of its own."""
    from mccore.megacontext.sessions.session import Session
    from mccore.megacontext.tree.tree import Tree

    return Session(model, Tree(trees(model.encoder.spec()), model.encoder))


def model_identity(checkpoint: Path, meta: Meta) -> str:
    """What tells a model and its tokenizer from every other."""
    return identity_of(checkpoint, meta.tokenizer)


def session_directory(name: str) -> Path:
    """Where the session of a name lives. Raises UsageError for what can't be a name."""
    fits = 0 < len(os.fsencode(name)) <= 100 and not name.startswith(".")
    if not fits or not all(letter.isalnum() or letter in "-_." for letter in name):
        shown = name if len(name) <= 100 else f"{name[:40]}..."
        raise UsageError(
            f"{shown!r} can't be the name of a session",
            hint="use up to 100 letters, digits, `-`, `_` and `.`, such as `thesis-2`",
        )
    return paths.sessions_dir() / name


def _plain(value: object) -> object:
    return value.model_dump() if isinstance(value, Choice) else value
