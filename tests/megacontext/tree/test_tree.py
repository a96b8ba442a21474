"""Trees: appending in any pieces leaves what building at once does, on both backends, with one GistNet call per level."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mccore import plugins
from mccore.api import TreeBackend
from mccore.config import GistNetConfig
from mccore.megacontext.networks.gistnet import GistNet, build_pyramid
from mccore.megacontext.tree.cut import Cut, coarsest, finest, recency_pyramid
from mccore.megacontext.tree.tree import BlockEncoder, Tree, TreeError, append_all, dequantize, quantize
from tests.support.networks import stir

WIDTH, K, VOCAB = 16, 4, 48
STORED = [torch.float32, torch.float16, torch.bfloat16, torch.int8]
TABLE = torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(5))


class CountingNet(GistNet):
    """A GistNet that remembers its calls as (level, blocks)."""

    def __init__(self, config: GistNetConfig) -> None:
        super().__init__(config, WIDTH, K, 3)
        self.calls: list[tuple[int, int]] = []

    def forward(self, children: Tensor, level: int) -> Tensor:
        self.calls.append((level, len(children)))
        return super().forward(children, level)


def gistnet(**changes: Any) -> CountingNet:
    net = CountingNet(GistNetConfig.model_validate({"layers": 1, **changes}))
    net.reset(torch.Generator().manual_seed(1))
    stir(net, 1)
    return net


def encoder(net: GistNet | None = None, **changes: Any) -> BlockEncoder:
    return BlockEncoder(lambda ids: TABLE[ids], net or gistnet(), max_lod=3, **changes)


def open_tree(kind: str, directory: Path, coder: BlockEncoder) -> Tree:
    extension = plugins.load("tree", kind)
    backend = extension.build(extension.options(), coder.spec(directory if kind == "disk" else None))
    return Tree(backend, coder)


def ids_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, count)


def rows_of(tree: Tree) -> list[np.ndarray]:
    """Everything the backend holds, level by level."""
    return [tree.backend.read(level, 0, tree.backend.length(level)).copy() for level in range(4)]


@pytest.fixture(params=["ram", "disk"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Tree]:
    """`fresh(encoder)`: another empty tree of a backend."""
    made: list[Tree] = []

    def make(coder: BlockEncoder | None = None) -> Tree:
        made.append(open_tree(request.param, tmp_path / str(len(made)), coder or encoder()))
        return made[-1]

    return make


# --- gate 6 -----------------------------------------------------------------------------------------------------------

PIECES = [
    [1] * 70,
    [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7],
    [15, 1, 1, 47, 4],  # up to a super-block, across it, and to the end of the next ones
    [63, 1, 0, 64, 2],  # across a node of the third level
    [16, 16, 16, 16, 16],
]


@pytest.mark.parametrize("pieces", PIECES, ids=str)
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_appending_in_pieces_is_building_at_once(
    fresh: Callable[..., Tree], pieces: list[int], stored: torch.dtype
) -> None:
    coder = encoder(stored=stored)
    ids = ids_of(sum(pieces))
    whole, grown = fresh(coder), fresh(coder)
    whole.append(ids)
    for stop, count in zip(np.cumsum(pieces), pieces, strict=True):
        grown.append(ids[stop - count : stop])
        assert grown.tokens == stop
        assert [grown.backend.length(level) for level in range(4)] == [stop // K**level for level in range(4)]
    for one, other in zip(rows_of(whole), rows_of(grown), strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=4), min_size=1, max_size=3),
    st.sampled_from(["mean", "query", "cls"]),
)
def test_any_pieces_of_several_trees(pieces: list[list[int]], pooling: str) -> None:
    coder = encoder(gistnet(pooling=pooling))
    grown = [open_tree("ram", Path(), coder) for _ in pieces]
    parts = [[ids_of(count, seed=7 * row + at) for at, count in enumerate(row_of)] for row, row_of in enumerate(pieces)]
    for at in range(max(len(row) for row in pieces)):
        append_all(grown, [row[at] if at < len(row) else [] for row in parts])
    for tree, row in zip(grown, parts, strict=True):
        alone = open_tree("ram", Path(), coder)
        alone.append(np.concatenate(row))
        for one, other in zip(rows_of(alone), rows_of(tree), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_tree_is_the_pyramid_of_training(fresh: Callable[..., Tree]) -> None:
    net = gistnet()
    tree = fresh(encoder(net))
    ids = ids_of(150)
    for start in range(0, 150, 31):
        tree.append(ids[start : start + 31])
    with torch.no_grad():
        levels = build_pyramid(net, TABLE[torch.from_numpy(ids)].unsqueeze(0), 3)
    for level in (1, 2, 3):
        torch.testing.assert_close(tree.gists(level, np.arange(150 // K**level)), levels[level][0], atol=1e-5, rtol=0)


def test_a_gist_is_of_its_own_block(fresh: Callable[..., Tree]) -> None:
    ids, other = ids_of(64), ids_of(64)
    other[21] = (other[21] + 1) % VOCAB
    one, two = fresh(), fresh()
    one.append(ids)
    two.append(other)
    for level in (1, 2, 3):
        differs = np.any(rows_of(one)[level] != rows_of(two)[level], axis=1)
        assert np.flatnonzero(differs).tolist() == [21 // K**level]


# --- cost -------------------------------------------------------------------------------------------------------------


def test_one_call_per_level_whatever_the_number_of_trees() -> None:
    net = gistnet()
    coder = encoder(net)
    trees = [open_tree("ram", Path(), coder) for _ in range(5)]
    append_all(trees, [ids_of(70, seed) for seed in range(5)])
    assert [level for level, _ in net.calls] == [1, 2, 3]
    assert [blocks for _, blocks in net.calls] == [88, 20, 8]  # 85, 20 and 5, rounded up to a multiple of 4
    net.calls.clear()
    append_all(trees, [[1]] * 5)
    assert net.calls == []
    append_all(trees, [[1, 2], *[[]] * 4])
    assert net.calls == [(1, 4)]


def test_a_long_append_is_cut_into_calls_of_bounded_size() -> None:
    net = gistnet()
    tree = open_tree("ram", Path(), encoder(net, call_blocks=8))
    whole = open_tree("ram", Path(), encoder(net))
    tree.append(ids_of(200))
    assert max(blocks for _, blocks in net.calls) == 8
    whole.append(ids_of(200))
    for one, other in zip(rows_of(tree), rows_of(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_token_is_read_and_written_a_bounded_number_of_times() -> None:
    class Counting:
        """The ram backend, counting the rows that pass."""

        def __init__(self, inner: TreeBackend) -> None:
            self.inner, self.rows = inner, 0

        def length(self, level: int) -> int:
            return self.inner.length(level)

        def append(self, level: int, rows: Any) -> None:
            self.rows += len(rows)
            self.inner.append(level, rows)

        def read(self, level: int, start: int, stop: int) -> Any:
            self.rows += stop - start
            return self.inner.read(level, start, stop)

        def flush(self) -> None: ...

        def close(self) -> None: ...

    coder = encoder()
    extension = plugins.load("tree", "ram")
    counting = Counting(extension.build(extension.options(), coder.spec()))
    tree = Tree(counting, coder)
    for start in range(0, 3000, 7):
        tree.append(ids_of(7, start))
    assert counting.rows <= 2 * tree.tokens * K / (K - 1)  # every row of the pyramid once in and once out


def test_lod0_takes_four_bytes_a_token_and_gists_their_own_type() -> None:
    for stored, name in ((torch.float32, "float32"), (torch.float16, "float16"), (torch.bfloat16, "uint16")):
        spec = encoder(stored=stored).spec()
        assert (spec.levels[0].shape, spec.levels[0].dtype) == ((), "uint32")
        assert {(level.shape, level.dtype) for level in spec.levels[1:]} == {((WIDTH,), name)}
        assert len(spec.levels) == 4
    spec = encoder(stored=torch.int8).spec()
    assert {(level.shape, level.dtype) for level in spec.levels[1:]} == {((WIDTH + 4,), "uint8")}
    with pytest.raises(ValueError, match="stored as one of"):
        encoder(stored=torch.int16)
    with pytest.raises(ValueError, match="multiple of 4"):
        encoder(call_blocks=6)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", STORED, ids=str)
def test_the_entries_of_a_cut_are_its_nodes(fresh: Callable[..., Tree], stored: torch.dtype) -> None:
    tree = fresh(encoder(stored=stored))
    ids = ids_of(150)
    tree.append(ids)
    scattered = Cut([2, 1, 0, 0, 0, 0, 1, 1, 2], [0, 4, 20, 21, 22, 23, 6, 7, 2], K)
    for cut in (finest(150, K), coarsest(150, K, 3, 10), recency_pyramid(150, K, 3, 10, 60), scattered):
        found = tree.entries(cut)
        assert found.embeddings.shape == (len(cut), WIDTH)
        assert found.embeddings.dtype == torch.float32
        for at, (level, index) in enumerate(zip(cut.level, cut.index, strict=True)):
            if level == 0:
                assert found.tokens[at] == ids[index]
                assert torch.equal(found.embeddings[at], TABLE[ids[index]])
            else:
                assert found.tokens[at] == -1
                assert torch.equal(found.embeddings[at], tree.gists(int(level), np.array([index]))[0])
    np.testing.assert_array_equal(tree.ids(3, 9), ids[3:9])


def test_int8_keeps_every_value_within_half_a_step_of_its_row() -> None:
    gists = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(2)) * torch.logspace(-6, 6, 200).unsqueeze(
        1
    )
    gists[7] = 0
    rows = quantize(gists)
    assert (rows.shape, rows.dtype) == ((200, WIDTH + 4), torch.uint8)
    step = gists.abs().amax(dim=1, keepdim=True) / 127
    assert bool(((dequantize(rows) - gists).abs() <= 0.501 * step).all())
    assert torch.equal(dequantize(rows)[7], torch.zeros(WIDTH))
    assert torch.equal(torch.cat([quantize(row) for row in gists.split(3)]), rows)  # a row depends on itself alone


def test_int8_gists_are_those_of_fp32_up_to_rounding() -> None:
    coders = encoder(), encoder(stored=torch.int8)
    trees = [open_tree("ram", Path(), coder) for coder in coders]
    for tree in trees:
        tree.append(ids_of(150))
    for level in (1, 2, 3):
        full, short = (tree.gists(level, np.arange(150 // K**level)) for tree in trees)
        assert float((full - short).norm() / full.norm()) < 0.02 * level


def test_an_empty_tree_has_an_empty_cut(fresh: Callable[..., Tree]) -> None:
    tree = fresh()
    found = tree.entries(finest(0, K))
    assert (tree.tokens, found.embeddings.shape, found.tokens.shape) == (0, (0, WIDTH), (0,))
    tree.append([])
    assert tree.tokens == 0


def test_a_node_that_does_not_exist_is_an_error(fresh: Callable[..., Tree]) -> None:
    tree = fresh()
    tree.append(ids_of(18))
    with pytest.raises(IndexError):
        tree.entries(Cut([2, 2], [0, 1], K))


# --- the disk, and what goes wrong ------------------------------------------------------------------------------------


def test_a_disk_tree_goes_on_after_reopening(tmp_path: Path) -> None:
    coder, ids = encoder(), ids_of(131)
    tree = open_tree("disk", tmp_path / "a", coder)
    tree.append(ids[:50])
    tree.close()
    again = open_tree("disk", tmp_path / "a", coder)
    again.append(ids[50:])
    whole = open_tree("ram", tmp_path, coder)
    whole.append(ids)
    for one, other in zip(rows_of(again), rows_of(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    again.close()


@pytest.mark.parametrize("made", [0, 1, 2])
def test_gists_that_a_dead_process_owes_are_made_on_opening(tmp_path: Path, made: int) -> None:
    coder, ids = encoder(), ids_of(90)
    whole = open_tree("ram", tmp_path, coder)
    whole.append(ids)
    extension = plugins.load("tree", "disk")
    backend = extension.build(extension.options(), coder.spec(tmp_path / "a"))
    backend.append(0, ids.astype(np.uint32))
    for level in range(1, made + 1):
        backend.append(level, rows_of(whole)[level][: 90 // K**level - (level == made)])
    backend.close()
    tree = open_tree("disk", tmp_path / "a", coder)
    for one, other in zip(rows_of(tree), rows_of(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    tree.close()


def test_levels_of_another_block_size_are_refused(tmp_path: Path) -> None:
    coder = encoder()
    extension = plugins.load("tree", "ram")
    backend = extension.build(extension.options(), coder.spec())
    backend.append(0, ids_of(10).astype(np.uint32))
    backend.append(1, np.zeros((3, WIDTH), dtype=np.float32))
    with pytest.raises(TreeError, match=r"level 1 of the tree has 3 gists, but what lies below fills only 2"):
        Tree(backend, coder)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.5, 2.0], "list of integers, not float64"),
        ([[1, 2]], r"not int64 \[1, 2\]"),
        ([3, -1], r"lie in \[0, 2\^32\)"),
        ([2**32], r"lie in \[0, 2\^32\)"),
        (["a"], "list of integers"),
    ],
    ids=str,
)
def test_what_is_no_list_of_ids_is_refused_whole(ids: Any, message: str) -> None:
    coder = encoder()
    one, two = open_tree("ram", Path(), coder), open_tree("ram", Path(), coder)
    with pytest.raises(TreeError, match=message):
        append_all([one, two], [[1, 2, 3], ids])
    assert (one.tokens, two.tokens) == (0, 0)


def test_trees_that_are_not_different_or_share_no_encoder_are_refused() -> None:
    coder = encoder()
    tree = open_tree("ram", Path(), coder)
    with pytest.raises(ValueError, match="share an encoder"):
        append_all([tree, tree], [[1], [2]])
    with pytest.raises(ValueError, match="share an encoder"):
        append_all([tree, open_tree("ram", Path(), encoder())], [[1], [2]])
    assert tree.tokens == 0


def test_a_gist_that_is_not_finite_is_refused_and_made_up_for() -> None:
    net = gistnet()
    tree, whole = open_tree("ram", Path(), encoder(net)), open_tree("ram", Path(), encoder(net))
    good = net.place.detach().clone()
    with torch.no_grad():
        net.place[0, 0] = torch.nan
    with pytest.raises(TreeError, match="a gist at LOD1 isn't finite"):
        tree.append(ids_of(20))
    with torch.no_grad():
        net.place.copy_(good)
    tree.append([])
    whole.append(ids_of(20))
    for one, other in zip(rows_of(tree), rows_of(whole), strict=True):
        np.testing.assert_array_equal(one, other)
