"""Sessions of a small model whose every path carries signal, and what has to hold for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mccore import plugins
from mccore.config import Choice
from mccore.megacontext.focus.abilities import DeclaredAllocator
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.sessions.batch import SessionBatch
from mccore.megacontext.sessions.cache import WorkingContextCache
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.options import SessionOptions
from mccore.megacontext.sessions.session import Session
from mccore.megacontext.tree.cut import check
from mccore.megacontext.tree.tree import Tree
from mccore.model import GPT
from tests.support.networks import VOCAB, run_config, stir

W, INTERVAL, RECENT, K = 40, 6, 8, 4


def context_model(
    model: dict[str, Any] | None = None,
    *,
    allocator: str = "greedy",
    options: dict[str, Any] | None = None,
    budget: int = W,
    interval: int = INTERVAL,
    **changes: Any,
) -> SessionModel:
    """A small model whose every path carries signal; `changes` are settings of sessions and of the MegaContext section."""
    of_session = {name: changes.pop(name) for name in ("kv_policy", "surprise", "rounds", "search") if name in changes}
    config = run_config(model, **changes)
    gpt = GPT(config.model)
    stir(gpt)
    nets = MegaContextNets(config.megacontext, config.model)
    stir(nets, 1)
    extension = plugins.load("allocator", allocator)
    eager = {"min_residency": 1, "expand_threshold": -1.0, "collapse_threshold": -1.0}
    chosen = {"recent_tokens": RECENT, "hysteresis": 0.0, **({} if allocator == "spans" else eager), **(options or {})}
    opened = plugins.read_options("allocator", Choice(name=allocator, options=chosen), extension)
    return SessionModel(
        gpt.eval(),
        nets.eval(),
        lambda spec: DeclaredAllocator(extension.build(opened, spec), extension.reads),
        SessionOptions(budget, interval, **of_session),
    )


def new_session(model: SessionModel, **options: Any) -> Session:
    extension = plugins.load("tree", "ram")
    return Session(model, Tree(extension.build(extension.options(), model.encoder.spec()), model.encoder), **options)


def step_all(batch: SessionBatch, tokens: list[int]) -> Tensor:
    """One more token for every session: logits [B, V]."""
    for session, token in zip(batch.sessions, tokens, strict=True):
        session.append_token(token)
    return batch.step()


def ids_of(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).tolist()


def reread(session: Session) -> Tensor:
    """The logits that reading the session's whole Working Context at once gives."""
    model = session.model
    session.flush()
    fresh = WorkingContextCache(model.gpt, model.nets, model.options.wc_length)
    with torch.inference_mode():
        return model.gpt.logits(fresh.read(session.focus.cut, session.tree.entries))[0]


def check_legal(session: Session) -> None:
    limits = session.model.limits(session.tokens)
    check(
        session.focus.cut, session.covered, max_lod=limits.max_lod, recent_tokens=min(RECENT, session.tokens), budget=W
    )
    assert session.working_context.entries == len(session.focus.cut) <= W
