"""The tree of a history: token ids at the bottom, gists above, in whatever storage a `TreeBackend` gives.

Node (k, j) covers the tokens `[j * K^k, (j + 1) * K^k)` and exists once they are all there: level k of a tree of n tokens has
`n // K^k` rows. LOD0 holds ids, 4 bytes each, embedded when they are read; a gist is made once, from the stored rows below
it, when its last token arrives. Nothing is ever rewritten, so appending costs O(1) per token on average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mccore.api import LevelSpec, TreeBackend, TreeSpec
from mccore.errors import MccoreError
from mccore.megacontext.networks.gistnet import GistNet
from mccore.megacontext.tree.cut import Cut

# NumPy has no bfloat16: its bits are stored as integers. int8 is a row's own scale, fp32, behind its bytes.
_STORED = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "uint16", torch.int8: "uint8"}
_SCALE_BYTES = 4
# The head of a GistNet multiplies one row per block, and matrix products round differently for the few rows that are left
# over from a multiple of 4. With none left over a gist has the same bits however many blocks are made with it.
_MULTIPLE = 4


class TreeError(MccoreError):
    """A tree whose levels don't fit each other, or token ids or gists that it can't hold."""


class BlockEncoder:
    """What turns blocks into gists, shared by the trees of many sessions.

    Args:
        embed: ids int64 [...] on GistNet's device -> embeddings [..., D].
        gistnet: children [N, K, D] and their parents' level -> gists [N, D], all on its device.
        max_lod: coarsest level that is made.
        stored: dtype of gists in the tree: fp32, bf16, fp16, or int8 with a scale per gist (`quantize`).
        compute: dtype that GistNet gets its children in.
        call_blocks: most blocks of one GistNet call, which bounds the memory of a long prefill; a multiple of 4.
    """

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        gistnet: GistNet,
        *,
        max_lod: int,
        stored: torch.dtype = torch.float32,
        compute: torch.dtype = torch.float32,
        call_blocks: int = 1024,
    ) -> None:
        if stored not in _STORED:
            raise ValueError(f"gists are stored as one of {[str(dtype) for dtype in _STORED]}, not {stored}")
        if call_blocks < _MULTIPLE or call_blocks % _MULTIPLE:
            raise ValueError(f"call_blocks is a positive multiple of {_MULTIPLE}, not {call_blocks}")
        self.gistnet = gistnet
        self.block_size = gistnet.block_size
        self.max_lod = max_lod
        self.stored = stored
        self.compute = compute
        self.device = next(gistnet.parameters()).device
        self._embed = embed
        self._call_blocks = call_blocks

    def spec(self, directory: Path | None = None, *, read_only: bool = False, salvage: bool = False) -> TreeSpec:
        """What a backend of such a tree has to store, and how it is opened."""
        width = self.embed(np.zeros(1, dtype=np.int64)).size(-1)
        gists = LevelSpec((width + (_SCALE_BYTES if self.stored is torch.int8 else 0),), _STORED[self.stored])
        levels = (LevelSpec((), "uint32"), *(gists for _ in range(self.max_lod)))
        return TreeSpec(levels, directory, read_only, salvage)

    @torch.no_grad()
    def embed(self, ids: NDArray[Any]) -> Tensor:
        """Embeddings [..., D] of ids, in the compute dtype."""
        return self._embed(torch.from_numpy(np.asarray(ids, dtype=np.int64)).to(self.device)).to(self.compute)

    @torch.no_grad()
    def encode(self, below: NDArray[Any], level: int) -> NDArray[Any]:
        """The rows of level `level` over whole blocks of rows of the level below it: [N * K, ...] -> [N, D].

        Raises TreeError where a gist isn't finite.
        """
        parts = []
        size = self.block_size
        for start in range(0, len(below), self._call_blocks * size):
            rows = below[start : start + self._call_blocks * size]
            flat = self.embed(rows) if level == 1 else self.from_rows(rows)
            children = flat.view(-1, size, flat.size(-1))
            blocks = len(children)
            if missing := -blocks % _MULTIPLE:
                children = torch.cat((children, children[:1].expand(missing, -1, -1)))
            gists = self.gistnet(children, level)[:blocks]
            if self.stored is not torch.int8:
                gists = gists.to(self.stored)
            if not bool(torch.isfinite(gists).all()):
                raise TreeError(
                    f"a gist at LOD{level} isn't finite", hint="the model's weights are broken: use another one"
                )
            parts.append((quantize(gists) if self.stored is torch.int8 else gists).cpu())
        gists = torch.cat(parts)
        array: NDArray[Any] = (gists.view(torch.int16) if self.stored is torch.bfloat16 else gists).numpy()
        return array.view(_STORED[self.stored])

    def from_rows(self, rows: NDArray[Any]) -> Tensor:
        """Rows of a backend as gists in the compute dtype."""
        copy = np.array(rows)  # backends give read-only arrays, which torch can't hold
        if self.stored is torch.int8:
            return dequantize(torch.from_numpy(copy)).to(self.device).to(self.compute)
        gists = torch.from_numpy(copy.view(np.int16) if self.stored is torch.bfloat16 else copy)
        return gists.view(self.stored).to(self.device).to(self.compute)


def quantize(gists: Tensor) -> Tensor:
    """Gists [N, D] as rows uint8 [N, D + 4]: D signed bytes, whose unit is the row's largest magnitude / 127, and that
    unit as fp32. Each row depends on itself alone, so any chunking gives the same bits."""
    gists = gists.float()
    unit = gists.abs().amax(dim=1, keepdim=True) / 127
    steps = torch.round(gists / torch.where(unit > 0, unit, 1)).to(torch.int8)
    return torch.cat([steps.view(torch.uint8), unit.contiguous().view(torch.uint8)], dim=1)


def dequantize(rows: Tensor) -> Tensor:
    """What `quantize` made of gists, fp32 [N, D]."""
    unit = rows[:, -_SCALE_BYTES:].contiguous().view(torch.float32)
    return rows[:, :-_SCALE_BYTES].contiguous().view(torch.int8).float() * unit


class Entries(NamedTuple):
    """A cut as the networks read it."""

    embeddings: Tensor  # [L, D], in the compute dtype
    tokens: Tensor  # int64 [L], -1 for gists


class Tree:
    """One history over a backend, which it owns from now on. Appending in any pieces leaves what building at once does:
    bit for bit where matrix products don't depend on how many blocks they hold (see `_MULTIPLE`), else within rounding.

    Opening a backend that holds ids whose gists were never made, by a process that died in between, makes them. Raises
    TreeError when its levels can't belong to one history.
    """

    def __init__(self, backend: TreeBackend, encoder: BlockEncoder) -> None:
        self.backend = backend
        self.encoder = encoder
        for level in range(1, encoder.max_lod + 1):
            there, most = backend.length(level), backend.length(level - 1) // encoder.block_size
            if there > most:
                raise TreeError(
                    f"level {level} of the tree has {there} gists, but what lies below fills only {most}",
                    hint=f"it was made with another block size than {encoder.block_size}, or its files were mixed up",
                )
        _complete([self])

    @property
    def block_size(self) -> int:
        return self.encoder.block_size

    @property
    def tokens(self) -> int:
        """Tokens of the history (n)."""
        return self.backend.length(0)

    def append(self, ids: ArrayLike) -> None:
        """Add tokens, ids [t], and every gist that they complete. Raises TreeError for what isn't a list of ids."""
        append_all([self], [ids])

    def ids(self, start: int, stop: int) -> NDArray[np.int64]:
        """The tokens `[start, stop)`. Raises IndexError outside the history."""
        return self.backend.read(0, start, stop).astype(np.int64)

    def gists(self, level: int, index: NDArray[Any]) -> Tensor:
        """The gists `(level, index)` of ascending indices [m], level 1 or more: [m, D]. Raises IndexError for one that
        doesn't exist."""
        return self.encoder.from_rows(self._read(level, np.asarray(index)))

    @torch.no_grad()
    def entries(self, cut: Cut) -> Entries:
        """What the nodes of a cut hold: one read per run of neighbours, whatever the length of the history."""
        tokens = np.full(len(cut), -1, dtype=np.int64)
        raw = cut.level == 0
        tokens[raw] = self._read(0, cut.index[raw])
        embeddings = self.encoder.embed(np.maximum(tokens, 0))
        for level in range(1, int(cut.level.max(initial=0)) + 1):
            at = np.flatnonzero(cut.level == level)
            if len(at):
                embeddings[torch.from_numpy(at).to(embeddings.device)] = self.gists(level, cut.index[at])
        return Entries(embeddings, torch.from_numpy(tokens).to(embeddings.device))

    def flush(self) -> None:
        """Make what was appended survive a crash, where the backend can."""
        self.backend.flush()

    def close(self) -> None:
        """Flush and let go of the backend."""
        self.backend.close()

    def _read(self, level: int, index: NDArray[Any]) -> NDArray[Any]:
        """Rows of a level by ascending indices, copied."""
        breaks = np.flatnonzero(np.diff(index) != 1) + 1
        first, stop = np.r_[0, breaks], np.r_[breaks, len(index)]
        runs = [
            self.backend.read(level, int(index[a]), int(index[b - 1]) + 1)
            for a, b in zip(first, stop, strict=True)
            if b
        ]
        return np.concatenate(runs) if runs else self.backend.read(level, 0, 0)


def append_all(trees: Sequence[Tree], ids: Sequence[ArrayLike]) -> None:
    """Append to several trees of one encoder at once, with one GistNet call per level for all of them.

    Raises TreeError for what isn't a list of ids, and then appends nothing anywhere.
    """
    if len({id(tree) for tree in trees}) < len(trees) or len({id(tree.encoder) for tree in trees}) > 1:
        raise ValueError("trees that are appended together are different ones and share an encoder")
    rows = [_as_ids(each) for each in ids]
    for tree, row in zip(trees, rows, strict=True):
        tree.backend.append(0, row)
    _complete(trees)


def _as_ids(ids: ArrayLike) -> NDArray[np.uint32]:
    array = np.asarray(ids)
    if array.size == 0:
        return np.empty(0, dtype=np.uint32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TreeError(f"token ids are a list of integers, not {array.dtype} {list(array.shape)}")
    if int(array.min()) < 0 or int(array.max()) >= 2**32:
        raise TreeError(f"token ids lie in [0, 2^32), and these in [{array.min()}, {array.max()}]")
    return array.astype(np.uint32)


def _complete(trees: Sequence[Tree]) -> None:
    """Make every gist whose block is full, level by level, upwards."""
    if not trees:
        return
    encoder, size = trees[0].encoder, trees[0].block_size
    for level in range(1, encoder.max_lod + 1):
        there = [tree.backend.length(level) for tree in trees]
        full = [tree.backend.length(level - 1) // size for tree in trees]
        counts = [stop - start for start, stop in zip(there, full, strict=True)]
        if not any(counts):
            continue
        below = [
            tree.backend.read(level - 1, start * size, stop * size)
            for tree, start, stop in zip(trees, there, full, strict=True)
        ]
        gists = encoder.encode(np.concatenate(below), level)
        ends = np.cumsum(counts)
        for tree, count, end in zip(trees, counts, ends, strict=True):
            if count:
                tree.backend.append(level, gists[end - count : end])
