"""Cuts drawn for training: always a legal tiling of the wanted length, and chance that is spread as it should be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mccore.errors import ConfigError
from mccore.megacontext.training.random_cuts import (
    CutShape,
    check_shape,
    draw_cuts,
    possible_ends,
    reachable_length,
    shortest,
)
from mccore.megacontext.tree import cut as cuts
from mccore.megacontext.tree import edits
from mccore.megacontext.tree.cut import Cut
from mccore.model.chance import hash_uniform

ROWS = 4


@st.composite
def shapes(draw: st.DrawFn) -> CutShape:
    """Shapes that have cuts, of any length between the shortest and all tokens."""
    size = draw(st.one_of(st.integers(2, 5), st.integers(2, 32)))
    max_lod = draw(st.integers(2, 4))
    tokens = draw(st.integers(1, min(600, 12 * size + size**2)))
    shape = CutShape(tokens, 0, size, max_lod, draw(st.integers(0, tokens)))
    return shape._replace(length=reachable_length(draw(st.integers(1, tokens)), shape))


def drawn(shape: CutShape, ends: Tensor, seed: int, coarse: float, protected: Tensor | None = None) -> list[Cut]:
    generator = torch.Generator().manual_seed(seed)
    priority = torch.rand(len(ends), shape.blocks, generator=generator)
    uniform = torch.rand(len(ends), shape.max_lod - 1, shape.blocks, generator=generator)
    level, index = draw_cuts(shape, ends, priority, coarse, uniform, protected)
    assert level.dtype == index.dtype == torch.int64
    assert level.shape == index.shape == (len(ends), shape.length)
    return [Cut(level[r].numpy(), index[r].numpy(), shape.block_size) for r in range(len(ends))]


def assert_tiles(cut: Cut, tokens: int, shape: CutShape) -> None:
    """Every token once, in order, under nodes at multiples of their span; no gist in the tail. Not by `cuts.check`."""
    span = shape.block_size ** cut.level.astype(np.int64)
    assert cut.level.min() >= 0
    assert cut.level.max() <= shape.max_lod
    start = cut.index * span
    assert start.tolist() == [0, *(start + span)[:-1].tolist()]
    assert start[-1] + span[-1] == tokens
    assert not ((cut.level > 0) & (start + span > tokens - shape.recent_tokens)).any()


@settings(max_examples=250, deadline=None)
@given(shapes(), st.integers(0, 2**31), st.floats(0, 1), st.data())
def test_every_draw_tiles_its_tokens_with_the_wanted_number_of_entries(
    shape: CutShape, seed: int, coarse: float, data: st.DataObject
) -> None:
    check_shape(shape)
    ends = possible_ends(shape, data.draw(st.integers(1, shape.tokens)))
    assert ends[-1] == shape.tokens
    chosen = torch.tensor([ends[0], *data.draw(st.lists(st.sampled_from(ends), min_size=ROWS - 1, max_size=ROWS - 1))])
    share = data.draw(st.sampled_from([None, 0.1, 0.9, 1.0]))
    protected = None
    if share is not None:
        protected = torch.rand(ROWS, shape.blocks, generator=torch.Generator().manual_seed(seed)) < share
    for cut, end in zip(drawn(shape, chosen, seed, coarse, protected), chosen.tolist(), strict=True):
        assert_tiles(cut, end, shape)
        cuts.check(cut, end, max_lod=shape.max_lod, recent_tokens=shape.recent_tokens, budget=shape.length)


@settings(max_examples=150, deadline=None)
@given(shapes(), st.integers(0, 2**31), st.floats(0, 1), st.data())
def test_protected_blocks_stay_tokens_wherever_that_is_possible(
    shape: CutShape, seed: int, coarse: float, data: st.DataObject
) -> None:
    size = shape.block_size
    protected = torch.rand(1, shape.blocks, generator=torch.Generator().manual_seed(seed)) < data.draw(
        st.sampled_from([0.05, 0.2, 0.5])
    )
    kept = protected[0].nonzero().flatten().tolist()
    open_blocks = [b for b in range((shape.tokens - shape.recent_tokens) // size) if b not in kept]
    capacity = len(open_blocks)
    for lod in range(2, shape.max_lod + 1):
        group = size ** (lod - 1)
        capacity += sum(
            all(b in open_blocks for b in range(node * group, (node + 1) * group))
            for node in range(shape.blocks // group)
        )
    assume(capacity >= (shape.tokens - shape.length) // (size - 1))
    (cut,) = drawn(shape, torch.tensor([shape.tokens]), seed, coarse, protected)
    shown = set((cut.index[cut.level == 0] // size).tolist())
    assert set(kept) <= shown


def test_a_protected_block_stays_where_a_coarse_node_elsewhere_makes_room() -> None:
    shape = CutShape(32, 8, 4, 2, 0)
    protected = torch.arange(8).unsqueeze(0) == 7
    (cut,) = drawn(shape, torch.tensor([32]), 0, 0.0, protected)
    assert cuts.encode_runs(cut) == [(2, 1), (1, 3), (0, 4)]


@settings(max_examples=100, deadline=None)
@given(shapes(), st.integers(1, 600))
def test_lengths_and_ends_are_all_there_are(shape: CutShape, wanted: int) -> None:
    """Against every length that collapses one by one can reach."""
    assume(shape.tokens <= 150)
    size, step = shape.block_size, shape.block_size - 1

    def lengths(tokens: int) -> set[int]:
        cut, reached = cuts.finest(tokens, size), {tokens}
        for lod in range(1, shape.max_lod + 1):
            for node in range((tokens - shape.recent_tokens) // size**lod if tokens > shape.recent_tokens else 0):
                cut = edits.apply(
                    cut, [], [(lod, node)], budget=tokens, recent_tokens=shape.recent_tokens, max_lod=shape.max_lod
                )
                reached.add(len(cut))
        return reached

    reached = lengths(shape.tokens)
    assert shortest(shape.tokens, shape) == min(reached)
    longer = [length for length in reached if length >= wanted]
    assert reachable_length(wanted, shape) == (min(longer) if longer and wanted <= shape.tokens else shape.tokens)
    assert (shape.tokens - shape.length) % step == 0
    ends = [t for t in range(max(1, shape.recent_tokens), shape.tokens + 1) if shape.length in lengths(t)]
    assert possible_ends(shape, max(1, shape.recent_tokens)) == ends


def test_a_shape_without_a_cut_is_refused() -> None:
    for shape in (CutShape(64, 20, 4, 2, 40), CutShape(64, 21, 4, 2, 0), CutShape(64, 2, 4, 2, 0)):
        with pytest.raises(ConfigError, match=f"no Working Context of {shape.length} entries"):
            check_shape(shape)
    check_shape(CutShape(64, 4, 4, 2, 0))


SHAPE = CutShape(256, 0, 4, 3, 16)._replace(length=reachable_length(100, CutShape(256, 0, 4, 3, 16)))


def levels_of_blocks(shape: CutShape, rows: int, coarse: float) -> np.ndarray:
    """The level over each block of many random cuts, [rows, blocks]."""
    out = np.zeros((rows, shape.blocks), dtype=np.int64)
    for row, cut in enumerate(drawn(shape, torch.full((rows,), shape.tokens), 0, coarse)):
        for level, index in zip(cut.level, cut.index, strict=True):
            group = shape.block_size ** max(0, level - 1)
            first = index // shape.block_size if level == 0 else index * group
            out[row, first : first + group] = level
    return out


def test_every_far_block_is_sometimes_a_gist_and_sometimes_tokens() -> None:
    levels = levels_of_blocks(SHAPE, 400, 0.2)
    far = (SHAPE.tokens - SHAPE.recent_tokens) // SHAPE.block_size
    collapsed = (levels[:, :far] > 0).mean(axis=0)
    assert not levels[:, far:].any()
    assert collapsed.min() > 0.3
    assert collapsed.max() < 0.95
    at_two = (levels[:, :60] == 2).mean(axis=0)
    assert at_two.min() > 0
    # The blocks of one node differ only by chance between nodes.
    assert np.ptp((levels[:, :48] > 0).reshape(400, 3, 16).mean(axis=(0, 2))) < 0.12


def test_the_coarse_share_decides_how_much_is_coarse() -> None:
    shares = [(levels_of_blocks(SHAPE, 200, coarse) >= 2).mean() for coarse in (0.0, 0.15, 0.3, 1.0)]
    assert shares[0] == 0  # enough single blocks
    assert all(a + 0.05 < b for a, b in itertools.pairwise(shares))


def test_only_a_coarse_cut_is_short_enough() -> None:
    shape = SHAPE._replace(length=shortest(256, SHAPE))
    assert (levels_of_blocks(shape, 5, 0.0)[:, :48] == 3).all()


def test_priorities_decide_what_is_collapsed() -> None:
    shape = CutShape(64, 0, 4, 2, 8)._replace(length=reachable_length(46, CutShape(64, 0, 4, 2, 8)))
    priority = torch.zeros(2, 16)
    priority[0, [2, 5, 6, 7, 9, 12]] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    priority[1] = -torch.arange(16)
    level, index = draw_cuts(shape, torch.tensor([64, 64]), priority, 0.0, torch.ones(2, 1, 16))
    assert index[0][level[0] == 1].tolist() == [2, 5, 6, 7, 9, 12]
    assert index[1][level[1] == 1].tolist() == [0, 1, 2, 3, 4, 5]


# --- random numbers ----------------------------------------------------------------------------------------------------


def test_hashes_are_uniform() -> None:
    numbers = hash_uniform(7, torch.arange(400).unsqueeze(1), torch.arange(500)).flatten().double()
    assert numbers.dtype == torch.float64
    assert 0 <= numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1
    counts = torch.histc(numbers, bins=100, min=0, max=1)
    chi_squared = ((counts - 2000) ** 2 / 2000).sum().item()
    assert 99 - 5 * 14.1 < chi_squared < 99 + 5 * 14.1  # 99 degrees of freedom, deviation sqrt(2 * 99)
    low_bits = (numbers * 2**24).long() & 1
    assert abs(low_bits.double().mean() - 0.5) < 0.006


def test_hashes_of_neighbours_are_independent() -> None:
    grid = hash_uniform(7, torch.arange(300).unsqueeze(1), torch.arange(300))
    others = {
        "row": (grid[1:], grid[:-1]),
        "column": (grid[:, 1:], grid[:, :-1]),
        "transposed": (grid.triu(1), grid.t().triu(1)),
        "seed": (grid, hash_uniform(8, torch.arange(300).unsqueeze(1), torch.arange(300))),
        "far seed": (grid, hash_uniform(7 - 2**62, torch.arange(300).unsqueeze(1), torch.arange(300))),
        "sum": (grid[1:, :-1], grid[:-1, 1:]),
    }
    for name, (a, b) in others.items():
        keep = (a != 0) & (b != 0)
        correlation = torch.corrcoef(torch.stack((a[keep].double(), b[keep].double())))[0, 1].item()
        assert abs(correlation) < 5 / keep.sum().item() ** 0.5, name


def test_hashes_do_not_depend_on_what_is_drawn_beside_them() -> None:
    rows, blocks = torch.arange(6).unsqueeze(1), torch.arange(9)
    whole = hash_uniform(-5, rows, blocks)
    assert whole.shape == (6, 9)
    assert whole.dtype == torch.float32
    assert torch.equal(hash_uniform(-5, rows[2:4], blocks[3:]), whole[2:4, 3:])
    assert not torch.equal(hash_uniform(-4, rows, blocks), whole)
    assert len(whole.unique()) == whole.numel()
