"""Repair: gists come back bit for bit, tokens are vouched for by their gists, and nothing is cut off unasked."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mccore import plugins
from mccore.api import RepairableTree
from mccore.config import Choice
from mccore.megacontext.tree.repair import repair_tree, verify_tree
from mccore.megacontext.tree.tree import BlockEncoder, Tree, TreeError
from tests.megacontext.tree.test_tree import TABLE, K, encoder, gistnet, ids_of, open_tree, rows_of

TOKENS = 40_005  # 160,020 bytes: two blocks of 64 KiB and a part; LOD1 has ten times that


@pytest.fixture(scope="module")
def coder() -> BlockEncoder:
    return encoder()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, coder: BlockEncoder) -> Path:
    directory = tmp_path_factory.mktemp("sound") / "tree"
    tree = open_tree("disk", directory, coder)
    tree.append(ids_of(TOKENS))
    tree.close()
    return directory


@pytest.fixture
def directory(sound: Path, tmp_path: Path) -> Path:
    return copy_of(sound, tmp_path / "tree")


def copy_of(sound: Path, to: Path) -> Path:
    to.mkdir()
    for path in sound.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def flip(path: Path, *offsets: int) -> None:
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= 0x01
    path.write_bytes(data)


def salvage(directory: Path, coder: BlockEncoder, *, read_only: bool = False) -> RepairableTree:
    spec = coder.spec(directory, salvage=True, read_only=read_only)
    backend = plugins.build("tree", Choice(name="disk"), spec)
    assert isinstance(backend, RepairableTree)
    return backend


@cache
def whole_rows(coder: BlockEncoder) -> list[np.ndarray]:
    """What every level of the sound tree holds."""
    whole = open_tree("ram", Path(), coder)
    whole.append(ids_of(TOKENS))
    return rows_of(whole)


def assert_whole(directory: Path, coder: BlockEncoder, tokens: int = TOKENS) -> None:
    tree = open_tree("disk", directory, coder)
    for level, (one, other) in enumerate(zip(rows_of(tree), whole_rows(coder), strict=True)):
        np.testing.assert_array_equal(one, other[: tokens // K**level])
    tree.close()
    again = salvage(directory, coder, read_only=True)
    assert verify_tree(again, K) == ()
    again.close()


def test_a_sound_tree_has_no_findings(directory: Path, coder: BlockEncoder) -> None:
    backend = salvage(directory, coder)
    assert verify_tree(backend, K) == ()
    done = repair_tree(backend, coder, truncate=True)
    assert (done.restored, done.vouched, done.lost, done.kept, done.tokens) == ((), (), (), None, TOKENS)
    backend.close()
    assert_whole(directory, coder)


def test_every_damaged_block_is_reported_with_its_nodes(directory: Path, coder: BlockEncoder) -> None:
    flip(directory / "level-0.rows", 70_000)
    flip(directory / "level-1.rows", 3, 200_000)
    flip(directory / "level-3.rows", 5)
    backend = salvage(directory, coder, read_only=True)  # what needs no lock and no permission to write
    found = [
        (each.nodes.level, each.damage.first_byte, each.damage.stop_byte, each.nodes.first_token, each.nodes.stop_token)
        for each in verify_tree(backend, K)
    ]
    backend.close()
    block, row = 1 << 16, 64  # bytes; a gist is 16 x fp32
    assert found == [
        (0, block, 2 * block, block // 4, 2 * block // 4),
        (1, 0, block, 0, block // row * K),
        (1, 3 * block, 4 * block, 3 * block // row * K, 4 * block // row * K),
        (3, 0, TOKENS // K**3 * row, 0, TOKENS // K**3 * K**3),
    ]


@pytest.mark.parametrize("level", [1, 2, 3])
def test_damaged_gists_come_back_bit_for_bit(directory: Path, coder: BlockEncoder, level: int) -> None:
    path = directory / f"level-{level}.rows"
    flip(path, 0, path.stat().st_size // 2, path.stat().st_size - 1)
    backend = salvage(directory, coder)
    done = repair_tree(backend, coder)
    backend.close()
    assert {nodes.level for nodes in done.restored} == {level}
    assert (done.inexact, done.lost) == ((), ())
    assert_whole(directory, coder)


def test_gists_of_all_levels_and_missing_ends_come_back(directory: Path, coder: BlockEncoder) -> None:
    for level in (1, 2, 3):
        os.truncate(directory / f"level-{level}.rows", 100 * level)
    os.truncate(directory / "level-1.sums", 5)
    backend = salvage(directory, coder)
    done = repair_tree(backend, coder)
    backend.close()
    assert done.lost == ()
    assert {nodes.level for nodes in done.restored} == {1, 2, 3}
    assert_whole(directory, coder)


def test_a_damaged_checksum_of_tokens_is_found_to_be_that(directory: Path, coder: BlockEncoder) -> None:
    flip(directory / "level-0.sums", 0)
    backend = salvage(directory, coder)
    done = repair_tree(backend, coder)
    backend.close()
    assert [(each.first_token, each.stop_token) for each in done.vouched] == [(0, (1 << 16) // 4)]
    assert done.lost == ()
    assert_whole(directory, coder)


def test_a_lost_token_costs_its_block_and_nothing_is_cut_unasked(directory: Path, coder: BlockEncoder) -> None:
    flip(directory / "level-0.rows", 4 * 30_001)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    backend = salvage(directory, coder)
    done = repair_tree(backend, coder)
    backend.close()
    assert [(each.level, each.first_token, each.stop_token) for each in done.lost] == [(0, 30_000, 30_004)]
    assert (done.kept, done.tokens) == (None, TOKENS)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_truncation_keeps_the_sound_beginning_and_a_copy_of_all(directory: Path, coder: BlockEncoder) -> None:
    flip(directory / "level-0.rows", 4 * 30_001)
    flip(directory / "level-1.rows", 3)
    damaged = (directory / "level-0.rows").read_bytes()
    mounted = plugins.build("tree", Choice(name="disk"), coder.spec(directory, read_only=True))
    seen = mounted.read(0, 0, 30_000).copy()
    backend = salvage(directory, coder)
    done = repair_tree(backend, coder, truncate=True)
    assert (done.tokens, backend.length(0), backend.length(1)) == (30_000, 30_000, 7_500)
    assert done.kept is not None
    assert verify_tree(backend, K) == ()
    backend.close()
    np.testing.assert_array_equal(mounted.read(0, 0, 30_000), seen)  # a reader keeps the file that it had
    mounted.close()
    assert (done.kept / "level-0.rows").read_bytes() == damaged
    kept = salvage(done.kept, coder, read_only=True)
    assert (kept.length(0), [each.nodes.level for each in verify_tree(kept, K)]) == (TOKENS, [0])
    kept.close()
    assert_whole(directory, coder, 30_000)
    tree = open_tree("disk", directory, coder)
    tree.append(ids_of(TOKENS)[30_000:])
    tree.close()
    assert_whole(directory, coder)


def test_tokens_behind_the_last_gist_have_no_witness(directory: Path, coder: BlockEncoder) -> None:
    flip(directory / "level-0.rows", 4 * TOKENS - 1)
    backend = salvage(directory, coder)
    done = repair_tree(backend, coder)
    assert [(each.first_token, each.stop_token) for each in done.lost] == [(TOKENS // K * K, TOKENS)]
    done = repair_tree(backend, coder, truncate=True)
    backend.close()
    assert done.tokens == TOKENS // K * K
    assert_whole(directory, coder, done.tokens)


def test_a_block_that_lost_tokens_and_gist_takes_the_gists_above_along(directory: Path, coder: BlockEncoder) -> None:
    flip(directory / "level-0.rows", 0)
    flip(directory / "level-1.rows", 0)
    flip(directory / "level-2.rows", 0)
    backend = salvage(directory, coder)
    done = repair_tree(backend, coder)
    backend.close()
    assert {each.level for each in done.lost} == {0, 1, 2}
    first = (1 << 16) // 64 * K  # tokens under the damaged block of gists
    assert [(each.first_token, each.stop_token) for each in done.lost if each.level < 2] == [(0, first), (0, first)]


def test_another_model_is_refused_and_writes_nothing(directory: Path, coder: BlockEncoder) -> None:
    flip(directory / "level-1.rows", 0)
    before = (directory / "level-1.rows").read_bytes()
    other = BlockEncoder(lambda ids: TABLE.flip(0)[ids], gistnet(), max_lod=3)
    backend = salvage(directory, other)
    with pytest.raises(TreeError, match="another model"):
        repair_tree(backend, other)
    backend.close()
    assert (directory / "level-1.rows").read_bytes() == before


def test_a_backend_without_checksums_is_named(coder: BlockEncoder) -> None:
    tree = open_tree("ram", Path(), coder)
    with pytest.raises(TreeError, match="RamTree keeps no checksums"):
        verify_tree(tree.backend, K)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_damage_is_mended_or_named(
    sound: Path, coder: BlockEncoder, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = copy_of(sound, tmp_path_factory.mktemp("any") / "tree")
    names = [f"level-{level}.{kind}" for level in range(4) for kind in ("rows", "sums")]
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True)):
        path = directory / name
        if size := path.stat().st_size:
            flip(path, *data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=4)))
    backend = salvage(directory, coder)
    done = repair_tree(backend, coder)
    lost = {(nodes.level, row) for nodes in done.lost for row in range(nodes.start, nodes.stop)}
    for level, rows in enumerate(whole_rows(coder)):
        there = backend.read(level, 0, backend.length(level))
        differs = np.flatnonzero((there != rows).reshape(len(rows), -1).any(axis=1))
        assert all((level, int(row)) in lost for row in differs), "damage that the repair didn't name"
    repair_tree(backend, coder, truncate=True)
    assert verify_tree(backend, K) == ()
    backend.close()
    tree = Tree(plugins.build("tree", Choice(name="disk"), coder.spec(directory)), coder)
    np.testing.assert_array_equal(tree.ids(0, tree.tokens), ids_of(TOKENS)[: tree.tokens])
    tree.close()
