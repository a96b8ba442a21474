"""Recorded attention against a softmax by hand, and the loss that compares it with LensNet's scores."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mccore.megacontext.networks.lensnet import LensOutput
from mccore.megacontext.networks.nodes import AttentionMass, block_scores, by_node, node_of_block
from mccore.megacontext.training.targets.attention import attention_losses
from mccore.model import GPT
from mccore.model.attention import attend, attend_reference
from tests.support.networks import T, entries, random_tokens, run_config, stir

K = 4


def excess_by_hand(model: GPT, tokens: Tensor, first: list[int], count: int, limit: list[int]) -> Tensor:
    """Each query's mass on blocks above its mean, of the one head that peaks highest; one query at a time."""
    scores: list[Tensor] = []

    def record(q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, bias: Tensor | None = None) -> Tensor:
        rows, heads, length, _ = q.shape
        layer = torch.zeros(rows, heads, length, length)
        for row in range(rows):
            for head in range(heads):
                key = k[row, head // (heads // k.size(1))]
                for at in range(length):
                    low = max(0, at - window + 1) if window else 0
                    layer[row, head, at, low : at + 1] = torch.softmax(
                        (key[low : at + 1] @ q[row, head, at]) * scale, dim=0
                    )
        scores.append(layer)
        return attend_reference(q, k, v, scale=scale, window=window, bias=bias)

    model.hidden(tokens, attend=record)
    heads = torch.stack(scores).transpose(0, 1).flatten(1, 2)  # [rows, layers * heads, T, T]
    out = torch.zeros(len(tokens), count, -(-tokens.size(1) // K))
    for row, begin in enumerate(first):
        for query in range(count):
            best = torch.zeros(limit[row])
            for head in heads[row, :, max(0, begin + query)]:
                mass = torch.stack([head[block * K : (block + 1) * K].sum() for block in range(limit[row])])
                found = (mass - mass.mean()).clamp(min=0)
                best = found if found.max() > best.max() else best
            out[row, query, : limit[row]] = best
    return out


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_kv_head": 1},
        {"window_pattern": "SL", "window_short": 6, "depth": 3},
        {"window_pattern": "SL", "window_short": 16, "n_kv_head": 2, "smear": True},
    ],
)
def test_recorded_attention_is_that_of_a_softmax_by_hand(changes: dict[str, object]) -> None:
    model = GPT(run_config(changes).model)
    stir(model)
    tokens = random_tokens(2, 22)  # the last block is incomplete
    first, limit = [10, -2], [4, 3]
    recorder = AttentionMass(torch.tensor(first), 7, K, 6, torch.tensor(limit))
    with torch.no_grad():
        hidden = model.hidden(tokens, attend=recorder)
        want = excess_by_hand(model, tokens, first, 7, limit)
    torch.testing.assert_close(recorder.excess(), want, atol=1e-5, rtol=1e-4)
    assert torch.equal(hidden, model.hidden(tokens))  # recording changes nothing
    assert (want[0].amax(dim=-1) > 0.01).all()


def test_recording_leaves_gradients_as_they_are() -> None:
    model = GPT(run_config().model)
    stir(model)
    tokens = random_tokens(2, T)
    recorder = AttentionMass(torch.tensor([40, 50]), 8, K, T // K, torch.tensor([9, 9]), attend)
    gradients = []
    for chosen in (None, recorder):
        model.zero_grad()
        model.hidden(tokens, attend=chosen).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert not recorder.excess().requires_grad


# --- nodes -------------------------------------------------------------------------------------------------------------

# 9 blocks of 4 tokens: a LOD2 node over 4, a gist, 6 of the 8 tokens of two blocks, and nothing yet of the rest.
LEVEL, INDEX = entries((2, 0), (1, 4), *((0, at) for at in range(20, 26)))


def test_blocks_know_the_node_over_them() -> None:
    first, node = node_of_block(LEVEL, INDEX, K, 9)
    assert first.tolist() == [[0, 4, 5, 5, 5, 5, 6, 6]]
    assert node.tolist() == [[0, 0, 0, 0, 4, 5, 6, 6, 6]]
    first, node = node_of_block(torch.zeros_like(LEVEL), torch.arange(8).unsqueeze(0), K, 2)
    assert first.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]]
    assert node.tolist() == [[0, 1]]
    level, index = entries((3, 0), (2, 4), (1, 20))
    first, node = node_of_block(level, index, K, 22)
    assert first.tolist() == [[0, 16, 20]]
    assert node.tolist() == [[0] * 16 + [16] * 4 + [20, 20]]


# 8 queries of which the last two are of the horizon, over the nodes 0 (LOD2), 1 (gist), 2 (block 5) and 3 (recent).
NODE = torch.tensor([[0, 1, 2, 2, 2, 2, 3, 3]])
THERE = torch.tensor([[True] * 3 + [False] * 5])


def focus(scores: list[float], questions: Tensor | None = None) -> LensOutput:
    """A focus with these scores of its three nodes."""
    score = torch.tensor([scores])[:, [0, 1, 2, 2, 2, 2]]
    score = torch.cat((score, torch.full((1, 2), 77.0)), dim=1)
    shares = torch.cat((torch.tensor([scores]), torch.full((1, 5), -1e9)), dim=1).requires_grad_()
    asked = torch.full((1, 3, 8), -46.0) if questions is None else questions
    return LensOutput(score, shares, asked, NODE, THERE)


def test_what_blocks_have_is_summed_by_node() -> None:
    of_blocks = torch.tensor([[[1.0, 2, 3, 4, 50, 600, 0, 0, 0], [0, 0, 0, 1, 0, 2, 0, 0, 0]]])
    found = by_node(of_blocks, focus([0.0, 0, 0]), LEVEL, INDEX, K)
    assert found[0, :, :3].tolist() == [[10, 50, 600], [1, 0, 2]]
    assert not found[0, :, 3:].any()
    rows = by_node(
        of_blocks.repeat(2, 1, 1),
        LensOutput(*(x.repeat(2, *[1] * (x.dim() - 1)) for x in focus([0.0] * 3))),
        LEVEL.repeat(2, 1),
        INDEX.repeat(2, 1),
        K,
    )
    assert torch.equal(rows[0], rows[1])


def test_block_scores_are_those_of_the_node_above() -> None:
    found = block_scores(focus([1.0, 2.0, 3.0]), LEVEL, INDEX, K, 9)
    assert found[0, :6].tolist() == [1, 1, 1, 1, 2, 3]


def kl(target: list[float], shares: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(target, shares, strict=True) if p)


def test_attention_losses_by_hand() -> None:
    shares = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    questions = torch.cat((shares.log(), torch.full((3, 5), -46.0)), dim=1)[None].requires_grad_()
    wanted = torch.zeros(1, 3, 8)
    wanted[0, :, :3] = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.1, 0.0], [0.1, 0.1, 0.4]])
    given = focus([math.log(x) for x in (0.2, 0.3, 0.5)], questions)
    weights = torch.tensor([[2.0, 1.0]])  # the first query is no horizon token
    found = attention_losses(given, wanted, weights)
    foreseen = [0.7 / 1.4, 0.3 / 1.4, 0.4 / 1.4]
    assert found.focus.item() == pytest.approx(kl(foreseen, [0.2, 0.3, 0.5]), rel=1e-4)
    each = [kl([0.75, 0.25, 0], [0.1, 0.8, 0.1]), kl([1 / 6, 1 / 6, 4 / 6], [0.2, 0.2, 0.6])]
    assert found.questions.item() == pytest.approx((0.4 * each[0] + 0.6 * each[1]) / 1.0, rel=1e-4)
    assert found.uninformed.item() == pytest.approx(kl(foreseen, [1 / 3] * 3), rel=1e-4)
    (gradient,) = torch.autograd.grad(found.focus.sum(), given.shares, retain_graph=True)
    slopes = [q - p for p, q in zip(foreseen, [0.2, 0.3, 0.5], strict=True)]
    assert gradient[0].tolist() == pytest.approx([*slopes, 0, 0, 0, 0, 0], abs=1e-5)
    (asked,) = torch.autograd.grad(found.questions.sum(), questions)
    assert not asked[0, 0].any()
    assert asked[0, 1:].any(dim=-1).all()


def test_the_focus_that_is_wanted_costs_nothing() -> None:
    wanted = torch.zeros(1, 3, 8)
    wanted[0, :, :3] = torch.tensor([0.5, 0.2, 0.3])
    questions = torch.where(wanted > 0, wanted, 1e-20).log()
    given = focus([math.log(x) + 3 for x in (0.5, 0.2, 0.3)], questions)
    found = attention_losses(given, 9 * wanted, torch.ones(1, 2))
    assert found.focus.item() == pytest.approx(0, abs=1e-6)
    assert found.questions.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("there", [0, 1])
def test_without_a_choice_losses_are_zero_and_finite(there: int) -> None:
    questions = torch.full((1, 3, 8), -46.0, requires_grad=True)
    given = focus([0.0, 0.0, 0.0], questions)._replace(mask=torch.arange(8).unsqueeze(0) < there)
    given = given._replace(shares=given.shares.detach().masked_fill(~given.mask, -1e9).requires_grad_())
    wanted = torch.zeros(1, 3, 8)
    found = attention_losses(given, wanted, torch.ones(1, 2))
    gradients = torch.autograd.grad((found.focus + found.questions).sum(), [given.shares, questions])
    assert found.focus.item() == found.questions.item() == 0
    assert all(not gradient.any() for gradient in gradients)
