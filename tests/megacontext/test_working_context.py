"""What a Working Context shows and what it hides: the plain model where all is tokens, exact entries, no look ahead."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.training.random_cuts import CutShape, draw_cuts, reachable_length
from mccore.megacontext.working_context import WorkingContexts, assemble, context_targets, model_inputs
from mccore.model import GPT
from tests.support.networks import T, entries, finest, networks, random_tokens, run_config, uniform

KINDS = ("simple", "gaussian", "gaussian_alibi", "gaussian_lod2d")
MODELS: dict[str, dict[str, object]] = {
    "default": {},
    "smear": {"smear": True, "smear_init": 0.7},
    "windows and gqa": {"window_pattern": "SL", "window_short": 7, "n_kv_head": 1},
    "no value embeddings": {"value_embeddings": False},
}
SMEAR = MODELS["smear"]


def contexts_of(
    gpt: GPT, nets: MegaContextNets, tokens: Tensor, level: Tensor, index: Tensor, *, gists_of: Tensor | None = None
) -> WorkingContexts:
    """One cut per row of `tokens` [B, T]; gists are those of `gists_of` where given."""
    levels = nets.pyramid(gpt.embed(tokens))
    if gists_of is not None:
        levels = [levels[0], *nets.pyramid(gpt.embed(gists_of))[1:]]
    return assemble(levels, torch.arange(len(tokens)), level, index, nets.config.block_size)


@torch.no_grad()
def states(
    gpt: GPT, nets: MegaContextNets, tokens: Tensor, level: Tensor, index: Tensor, *, gists_of: Tensor | None = None
) -> Tensor:
    """Final hidden states of the cuts, [B, L, D]."""
    contexts = contexts_of(gpt, nets, tokens, level, index, gists_of=gists_of)
    return gpt.hidden(
        **model_inputs(gpt, contexts, tokens, nets.bias, nets.config.positional, nets.config.token_positions)
    )


# --- tokens only -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positional", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_tokens_alone_are_the_plain_model_bit_for_bit(
    model: str, positional: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        GPT, "_step_weights", None
    )  # one token of plain text has a form of its own on CPUs: see test_step
    gpt, nets = networks(run_config(MODELS[model], positional=positional))
    tokens = random_tokens(2, T)
    contexts = contexts_of(gpt, nets, tokens, *finest(T, rows=2))
    with torch.no_grad():
        got = gpt(**model_inputs(gpt, contexts, tokens, None, positional))  # type: ignore[arg-type]
        assert torch.equal(got, gpt(tokens))
        plain, focused = gpt.new_cache(2, T), gpt.new_cache(2, T)
        for first, stop in [(0, 40), *((at, at + 1) for at in range(40, T))]:
            level, index = entries(*((0, at) for at in range(first, stop)), rows=2)
            inputs = model_inputs(gpt, contexts_of(gpt, nets, tokens, level, index), tokens, None, positional)  # type: ignore[arg-type]
            if "smear_mask" in inputs and first:
                inputs["smear_mask"][:, 0] = True  # the token before is in the cache
            assert torch.equal(gpt(**inputs, cache=focused), gpt(tokens[:, first:stop], cache=plain))


@pytest.mark.parametrize("positional", KINDS)
def test_the_bias_of_gist_keys_leaves_tokens_alone(positional: str) -> None:
    """A bias costs channels, and so the order of sums: whoever has only tokens passes none. Its values are exactly 0."""
    gpt, nets = networks(run_config(positional=positional))
    tokens = random_tokens(2, T)
    contexts = contexts_of(gpt, nets, tokens, *finest(T, rows=2))
    inputs = model_inputs(gpt, contexts, tokens, nets.bias, positional)  # type: ignore[arg-type]
    assert not inputs["key_bias"].any()
    with torch.no_grad():
        torch.testing.assert_close(gpt(**inputs), gpt(tokens), atol=2e-5, rtol=1e-5)


# --- a cut by hand -----------------------------------------------------------------------------------------------------

# 12 tokens in blocks of 2: gists at both ends, one inside.
NODES = [(2, 0), (0, 4), (0, 5), (1, 3), (0, 8), (0, 9), (1, 5)]


@pytest.fixture
def by_hand() -> tuple[GPT, MegaContextNets, Tensor, WorkingContexts]:
    config = run_config(
        {**SMEAR, "max_seq_len": 12}, block_size=2, max_lod=2, recent_tokens=2, horizon=2, train_wc_length=6,
        expanded_blocks=1,
    )  # fmt: skip
    gpt, nets = networks(config)
    tokens = random_tokens(2, 13)
    return gpt, nets, tokens, contexts_of(gpt, nets, tokens[:, :-1], *entries(*NODES, rows=2))


def test_targets_are_the_tokens_behind_each_entry(by_hand: Any) -> None:
    _, _, tokens, contexts = by_hand
    assert contexts.last[0].tolist() == [3, 4, 5, 7, 8, 9, 11]
    want = tokens[:, [4, 5, 6, 8, 9, 10, 12]]
    assert torch.equal(context_targets(contexts, tokens[:, 1:]), want)
    ignored = tokens[:, 1:].clone()
    ignored[:, 7] = -1
    assert context_targets(contexts, ignored)[0].tolist() == [*want[0, :3].tolist(), -1, *want[0, 4:].tolist()]


def test_targets_of_cuts_of_other_rows(by_hand: Any) -> None:
    gpt, nets, tokens, _ = by_hand
    row = torch.tensor([1, 0, 1])
    levels = nets.pyramid(gpt.embed(tokens[:, :-1]))
    contexts = assemble(levels, row, *entries(*NODES, rows=3), 2)
    want = tokens[:, [4, 5, 6, 8, 9, 10, 12]]
    assert torch.equal(context_targets(contexts, tokens[:, 1:]), want[row])
    assert torch.equal(contexts.embeddings[0], contexts.embeddings[2])
    assert torch.equal(contexts.embeddings[1, 1:3], levels[0][0, 4:6])


def test_entries_are_their_own_nodes_at_their_places(by_hand: Any) -> None:
    gpt, nets, tokens, contexts = by_hand
    levels = nets.pyramid(gpt.embed(tokens[:, :-1]))
    for entry, (level, index) in enumerate(NODES):
        assert torch.equal(contexts.embeddings[:, entry], levels[level][:, index])
    assert contexts.spans.centre[0].tolist() == [1.5, 4, 5, 6.5, 8, 9, 10.5]
    assert contexts.spans.span[0].tolist() == [4, 1, 1, 2, 1, 1, 2]
    assert contexts.spans.level[0].tolist() == [level for level, _ in NODES]
    offset = torch.tensor([[0, 0, 0, 0, 100, 100, 100]]).expand(2, -1)
    moved = assemble(levels, torch.arange(2), *entries(*NODES, rows=2), 2, offset)
    assert moved.spans.centre[0].tolist() == [1.5, 4, 5, 6.5, 108, 109, 110.5]
    assert torch.equal(moved.last, contexts.last)
    assert torch.equal(moved.embeddings, contexts.embeddings)


def test_inputs_of_a_cut(by_hand: Any) -> None:
    gpt, nets, tokens, contexts = by_hand
    inputs = model_inputs(gpt, contexts, tokens[:, :-1], nets.bias, "gaussian")
    assert inputs["smear_mask"][0].tolist() == [False, False, True, False, False, True, False]
    ids = tokens[:, :-1].gather(1, contexts.last)
    ids[:, [0, 3, 6]] = -1
    assert torch.equal(inputs["value_embeddings"], gpt.embed_values(ids))
    assert not inputs["value_embeddings"][:, :, [0, 3, 6]].any()
    assert inputs["value_embeddings"][:, :, [1, 2, 4, 5]].any(dim=-1).all()
    want = [math.log(4), 0, 0, math.log(2), 0, 0, math.log(2)]
    assert inputs["key_bias"][0, :, 0].tolist() == pytest.approx(want)
    assert inputs["key_bias_weights"] is nets.bias.weights


# --- no look ahead -----------------------------------------------------------------------------------------------------

CUTS = ("recency", "anywhere", "protected", "three levels")


def drawn_cuts(kind: str, rows: int) -> tuple[Tensor, Tensor]:
    """Random cuts of T tokens: in blocks of 2 with three levels, else in blocks of 4 with two."""
    size, max_lod = (2, 3) if kind == "three levels" else (4, 2)
    shape = CutShape(T, 0, size, max_lod, 12)
    shape = shape._replace(length=reachable_length(28, shape))
    blocks = shape.blocks
    priority = uniform(1, rows, blocks)
    if kind in ("recency", "protected"):
        priority = -torch.arange(blocks).float().expand(rows, -1)
    protected = uniform(2, rows, blocks) < 0.2 if kind == "protected" else None
    coarse = uniform(3, rows, max_lod - 1, blocks)
    return draw_cuts(shape, torch.full((rows,), T), priority, 0.6, coarse, protected)


@pytest.mark.parametrize("kind", CUTS)
@pytest.mark.parametrize("model", ["default", "smear"])
def test_no_prediction_changes_with_a_later_token(model: str, kind: str) -> None:
    three = kind == "three levels"
    gpt, nets = networks(run_config(MODELS[model], block_size=2 if three else 4, max_lod=3 if three else 2))
    level, index = drawn_cuts(kind, 1)
    assert level.unique().tolist() == ([0, 1, 2, 3] if three else [0, 1, 2])
    tokens = random_tokens(1, T).repeat(T, 1)
    changed = torch.arange(T)
    other = tokens.clone()
    other[changed, changed] = (tokens[changed, changed] + 1) % 48  # one row per changed position
    cut = level.expand(T, -1), index.expand(T, -1)
    last = contexts_of(gpt, nets, tokens[:1], level, index).last
    moved = (states(gpt, nets, tokens, *cut) != states(gpt, nets, other, *cut)).any(dim=-1)  # [p, entry]
    sees = last >= changed.unsqueeze(1)
    assert not (moved & ~sees).any()
    assert moved.gather(1, sees.int().argmax(dim=1, keepdim=True)).all()  # the entry over p does see it


@pytest.mark.parametrize("model", MODELS)
def test_a_collapsed_block_speaks_only_through_its_gist(model: str) -> None:
    gpt, nets = networks(run_config(MODELS[model]))
    level, index = drawn_cuts("protected", 1)
    tokens = random_tokens(1, T)
    before = states(gpt, nets, tokens, level, index)
    tried = 0
    for entry in (level[0] > 0).nonzero().flatten().tolist():
        span = 4 ** int(level[0, entry])
        start = int(index[0, entry]) * span
        for p in (start, start + span - 1):
            changed = tokens.clone()
            changed[:, p] = (changed[:, p] + 1) % 48
            frozen = states(gpt, nets, changed, level, index, gists_of=tokens)
            assert torch.equal(frozen, before)
            moved = (states(gpt, nets, changed, level, index) != before).any(dim=-1)[0]
            assert moved[entry:].all()
            assert not moved[:entry].any()
            tried += 1
    assert tried >= 8


def test_a_token_takes_no_share_of_the_gist_before_it() -> None:
    gpt, nets = networks(run_config(SMEAR))
    level, index = entries((1, 0), *((0, at) for at in range(4, 8)), (1, 2), *((0, at) for at in range(12, 20)))
    tokens = random_tokens(1, 20)
    contexts = contexts_of(gpt, nets, tokens, level, index)
    inputs = model_inputs(gpt, contexts, tokens, nets.bias, "gaussian")
    # Nobody attends to the gist in the middle (entry 5), so only a share of it could carry a change on.
    inputs["attn_bias"] = torch.zeros(1, 1, 14, 14)
    inputs["attn_bias"][..., 5] = -torch.inf
    other = {**inputs, "embeddings": inputs["embeddings"].clone()}
    other["embeddings"][:, 5] = torch.randn(32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        moved = (gpt.hidden(**inputs) != gpt.hidden(**other)).any(dim=-1)[0]
        assert moved.nonzero().flatten().tolist() == [5]
        smeared = {"smear_mask": F.pad(torch.ones(1, 13), (1, 0))}
        moved = (gpt.hidden(**inputs | smeared) != gpt.hidden(**other | smeared)).any(dim=-1)[0]
        assert moved.nonzero().flatten().tolist() == list(range(5, 14))


def test_rows_of_a_batch_are_apart() -> None:
    gpt, nets = networks(run_config())
    level, index = drawn_cuts("anywhere", 3)
    tokens = random_tokens(3, T)
    before = states(gpt, nets, tokens, level, index)
    changed = tokens.clone()
    changed[1] = (changed[1] + 1) % 48
    after = states(gpt, nets, changed, level, index)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert not torch.equal(after[1], before[1])
