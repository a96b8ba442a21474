"""Angles of spans against the mean of the rotations they stand for, and the score bias of their keys."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mccore.config import ModelConfig
from mccore.megacontext.networks.positions import (
    Positional,
    Spans,
    contiguous,
    span_rotary,
    spans_of,
)
from mccore.megacontext.networks.span_bias import SpanBias, excess_mass
from mccore.megacontext.tree.cut import contiguous_centres
from mccore.model.attention import attend_reference, with_key_bias
from mccore.model.rotary import Rotary, rotary
from mccore.scaling.model import derive_model

MODEL = derive_model(ModelConfig(depth=2, n_embd=64, head_dim=32, vocab_size=64, vocab_ids=48))
KINDS = ("simple", "gaussian", "gaussian_alibi", "gaussian_lod2d")


def spans(*nodes: tuple[int, int], size: int = 8) -> Spans:
    level, index = torch.tensor(nodes).unsqueeze(0).unbind(-1)
    return spans_of(level, index, size)


def test_centres_and_spans() -> None:
    got = spans((0, 7), (1, 0), (1, 3), (2, 1), size=8)
    assert got.centre.tolist() == [[7.0, 3.5, 27.5, 95.5]]
    assert got.span.tolist() == [[1.0, 8.0, 8.0, 64.0]]
    assert got.centre.dtype == got.span.dtype == torch.float64
    far = spans((0, 2**40 + 1), (4, 2**20 + 1), size=128)
    assert far.centre.tolist() == [[2**40 + 1, (2**20 + 1) * 2**28 + (2**28 - 1) / 2]]


@pytest.mark.parametrize("kind", KINDS)
def test_angles_of_tokens_are_the_plain_ones(kind: str) -> None:
    at = torch.tensor([[0, 1, 77, 4095, 1_000_003]])
    got = span_rotary(spans_of(torch.zeros_like(at), at, 8), MODEL, kind)  # type: ignore[arg-type]
    want = rotary(at, MODEL.head_dim, MODEL.rope_base)
    assert got.cos.dtype == torch.float32
    assert torch.equal(got.cos, want.cos)
    assert torch.equal(got.sin, want.sin)


def mean_rotation(centre: float, span: int) -> Rotary:
    """Cosines and sines averaged over the tokens of a span."""
    tokens = centre - (span - 1) / 2 + torch.arange(span, dtype=torch.float64)
    exponents = torch.arange(0, MODEL.head_dim, 2, dtype=torch.float64) / MODEL.head_dim
    angles = tokens.unsqueeze(-1) * MODEL.rope_base**-exponents
    return Rotary(angles.cos().mean(0), angles.sin().mean(0))


@pytest.mark.parametrize("level", [1, 2])
def test_a_span_turns_like_the_mean_of_its_tokens(level: int) -> None:
    nodes = spans((level, 3), size=8)
    got = span_rotary(nodes, MODEL, "gaussian")
    want = mean_rotation(nodes.centre.item(), int(nodes.span.item()))
    # A uniform spread is Gaussian to the second order: alike where the span is a small part of a turn.
    length, true = torch.hypot(*got)[0, 0].double(), torch.hypot(*want)
    slow = true > 0.7
    assert slow.sum() >= 6
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine[0, 0].double()[slow], theirs[slow], atol=0.03, rtol=0)
    torch.testing.assert_close(length[slow], true[slow], atol=0, rtol=0.03)
    # Where the span is a turn or more no phase is claimed; the uniform mean only swings around 0.
    assert length[0] < 0.1
    assert (length - true).abs().max() < 0.25
    plain = span_rotary(nodes, MODEL, "simple")
    torch.testing.assert_close(torch.hypot(*plain), torch.ones(1, 1, 16))
    assert (torch.hypot(*plain)[0, 0].double() - true).abs().max() > 0.8


def test_levels_turn_the_slowest_frequencies() -> None:
    nodes = spans((0, 70), (1, 8), (2, 1), size=8)
    gaussian, turned = (span_rotary(nodes, MODEL, kind) for kind in ("gaussian", "gaussian_lod2d"))  # type: ignore[arg-type]
    before, after = torch.complex(*gaussian), torch.complex(*turned)
    torch.testing.assert_close(after[..., :12], before[..., :12])
    phase = (after / before)[0, :, 12:].angle()
    torch.testing.assert_close(phase, torch.tensor([[0.0], [1.0], [2.0]]).expand(3, 4), atol=1e-4, rtol=0)


def test_kinds_without_level_phases_share_their_angles() -> None:
    nodes = spans((0, 3), (1, 2), (2, 1))
    a, b = (span_rotary(nodes, MODEL, kind) for kind in ("gaussian", "gaussian_alibi"))  # type: ignore[arg-type]
    assert torch.equal(a.cos, b.cos)
    assert torch.equal(a.sin, b.sin)


# --- score bias --------------------------------------------------------------------------------------------------------


def biases(kind: str, nodes: Spans, size: int = 8) -> Tensor:
    """What each head of the first layer adds to the score of each entry, [H, L]."""
    bias = SpanBias(MODEL, kind, size)  # type: ignore[arg-type]
    with torch.no_grad():
        return torch.einsum("hf,lf->hl", bias.weights[0], bias.features(nodes)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_one_key_for_many_weighs_like_all_of_them(kind: str) -> None:
    """A gist whose key equals those of its 8 tokens takes the attention that the 8 would, and the rest keeps its own."""
    nodes = spans((1, 0), *((0, at) for at in range(8, 12)))
    q, keys, values = torch.randn(3, 1, 2, 12, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    keys[:, :, :8] = keys[:, :, :1]
    whole = attend_reference(q, keys, values, scale=0.3)[:, :, 8:]
    bias = SpanBias(MODEL, "simple" if kind == "gaussian_alibi" else kind, 8)  # type: ignore[arg-type]
    short = torch.cat((values[:, :, :8].mean(dim=2, keepdim=True), values[:, :, 8:]), dim=2)
    biased = with_key_bias(q[:, :, 7:], keys[:, :, 7:], short, bias.features(nodes), bias.weights[0], 0.3)
    got = attend_reference(*biased, scale=0.3)[:, :, 1:, :16]  # type: ignore[misc]
    torch.testing.assert_close(got, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bias_starts_as_the_log_of_the_span(kind: str) -> None:
    nodes = spans((2, 0), (1, 8), (0, 72), (0, 73))
    got = biases(kind, nodes)
    assert not got[:, 2:].any()
    if kind == "gaussian_alibi":
        assert (got[:, 0] < math.log(64)).all()
    else:
        torch.testing.assert_close(got[:, :2], torch.tensor([[math.log(64), math.log(8)]]).expand(2, 2))


def test_alibi_penalises_distance() -> None:
    nodes = spans(*((1, at) for at in range(20)), *((0, 160 + at) for at in range(8)))
    got = biases("gaussian_alibi", nodes)
    assert (got[:, 1:20] > got[:, :19]).all()  # the nearer, the more
    fall = got[:, 19] - got[:, 0]
    assert (fall[:-1] > fall[1:]).all()  # heads differ: the first one looks least far
    assert not got[:, 20:].any()
    # Distances count from the newest entry, wherever it is.
    later = nodes._replace(centre=nodes.centre + 10_000)
    torch.testing.assert_close(biases("gaussian_alibi", later), got)


@pytest.mark.parametrize("kind", KINDS)
def test_gists_together_weigh_no_more_than_the_mass(kind: Positional) -> None:
    """ln(span) of each gist, less what all of them weigh too much, in steps of a factor of two; by row."""
    rows = [spans((2, 0), (2, 1), (1, 16), (0, 136)), spans((1, 0), (1, 1), (1, 2), (0, 24))]
    nodes = Spans(*(torch.cat(part) for part in zip(*rows, strict=True)))
    bias = SpanBias(MODEL, kind, 8, mass=32)
    mass = bias.features(nodes)[..., 0]
    assert not mass[:, 3].any()  # tokens have none
    fell = torch.tensor(
        [math.log(8), 0.0], dtype=torch.float64
    )  # 136 are over 4 times 32, and count as 17; 24 are fewer
    wanted = torch.log(nodes.span[:, :3]) - fell.unsqueeze(1)
    torch.testing.assert_close(mass[:, :3], wanted, check_dtype=False)
    together = mass[:, :3].exp().sum(dim=1)
    assert (together <= 32 + 1e-4).all()
    assert together[0] == pytest.approx(17)
    assert bias.excess(nodes)[:, 0].tolist() == pytest.approx([excess_mass(136, 32), excess_mass(24, 32)])
    assert bias.excess(nodes)[:, 0].tolist() == pytest.approx(fell.tolist())
    unbounded = SpanBias(MODEL, kind, 8, mass=10**6)
    torch.testing.assert_close(unbounded.features(nodes)[1], bias.features(nodes)[1], rtol=0, atol=0)
    assert SpanBias(MODEL, kind, 8).mass == MODEL.max_seq_len


def test_bias_is_learned_per_layer_and_head() -> None:
    bias = SpanBias(MODEL, "gaussian_alibi", 8)
    assert bias.weights.shape == (MODEL.depth, MODEL.n_head, 2)
    assert SpanBias(MODEL, "gaussian", 8).weights.shape == (MODEL.depth, MODEL.n_head, 1)
    before = bias.weights.detach().clone()
    with torch.no_grad():
        bias.weights.add_(1)
    bias.reset()
    assert torch.equal(bias.weights, before)


def test_contiguous_tokens_are_numbered_back_from_the_newest_and_gists_stay() -> None:
    level = torch.tensor([[1, 0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0, 0]])
    index = torch.tensor([[0, 4, 5, 6, 7, 2, 3, 16, 17], [0, 1, 2, 3, 1, 2, 12, 13, 14]])
    found = contiguous(spans_of(level, index, 4))
    assert found.centre.tolist() == [
        [1.5, 12, 13, 14, 15, 9.5, 13.5, 16, 17],
        [8, 9, 10, 11, 5.5, 9.5, 12, 13, 14],
    ]
    for row, (levels, indices) in enumerate(zip(level.numpy(), index.numpy(), strict=True)):
        assert contiguous_centres(levels, indices, 4).tolist() == found.centre[row].tolist()


def test_contiguous_places_of_a_cut_that_ends_in_a_gist() -> None:
    level, index = torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1]])
    assert contiguous(spans_of(level, index, 2)).centre.tolist() == [[2, 3, 2.5]]


def test_what_fills_a_row_has_no_say_in_contiguous_places() -> None:
    level = torch.tensor([[1, 0, 0, 0, 0, 1, 1, 0, 0]])
    index = torch.tensor([[0, 4, 5, 6, 7, 2, 3, 16, 17]])
    found = contiguous(spans_of(level, index, 4)).centre
    padded = contiguous(spans_of(*(torch.nn.functional.pad(part, (0, 3)) for part in (level, index)), 4)).centre
    assert torch.equal(padded[:, :9], found)
