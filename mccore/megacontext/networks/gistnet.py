"""GistNet: the vectors of K children become one gist, the same way at every level.

Inside a block everything may see everything: a gist is only ever seen by tokens after its block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mccore.config import GistNetConfig
from mccore.megacontext.networks.encoder import EPS, EncoderHead, EncoderLayer
from mccore.model.ops.elementwise import rms_norm


class GistNet(nn.Module):
    """`[..., K, D] -> [..., D]`, normed like the embeddings that the GPT reads.

    A block is: child embeddings (normed, each with a learned share of the one before it), places and level added; the
    layers; the pool; a head that starts at zero, beside the plain mean of the children where `skip`.
    """

    def __init__(self, config: GistNetConfig, width: int, block_size: int, max_lod: int) -> None:
        super().__init__()
        self.config = config
        self.block_size = block_size
        self.place = nn.Parameter(torch.empty(block_size, width))
        self.level = nn.Parameter(torch.empty(max_lod, width))
        self.layers = nn.ModuleList()
        self.smear: nn.Parameter | None = None
        if config.kind == "transformer":
            self.smear = nn.Parameter(torch.empty(1))
            self.layers.extend(EncoderLayer(width) for _ in range(config.layers))
        self.probe: nn.Parameter | None = None
        if config.pooling != "mean":
            self.probe = nn.Parameter(torch.empty(width))
        self.head = EncoderHead(width, width, config.head, zero=config.skip)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw the start."""
        self.place.normal_(0.0, 0.1, generator=generator)
        self.level.normal_(0.0, 0.1, generator=generator)
        if self.smear is not None:
            self.smear.fill_(1.0)
        if self.probe is not None:
            self.probe.normal_(0.0, 1.0, generator=generator)
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            layer.reset(generator)
        self.head.reset(generator)

    def forward(self, children: Tensor, level: int) -> Tensor:
        """The gists at `level` (1 or more) of blocks of children [..., K, D]: [..., D]. Smaller blocks than K will do.

        Levels above those that were trained are made as the highest one was: a history has no end, and training has.
        """
        shape = children.shape
        x = rms_norm(children.reshape(-1, *shape[-2:]), EPS)  # [N, K, D]
        mean = x.mean(dim=1)
        if self.smear is not None:
            x = rms_norm(x + self.smear.to(x.dtype) * F.pad(x[:, :-1], (0, 0, 1, 0)), EPS)
        x = x + (self.place[: x.size(1)] + self.level[min(level, len(self.level)) - 1]).to(x.dtype)
        if self.probe is not None and self.config.pooling == "cls":
            x = torch.cat((self.probe.to(x.dtype).expand(x.size(0), 1, -1), x), dim=1)
        for layer in self.layers:
            x = layer(x)
        # Normed before the pool and not behind it: the head's part is then as small at first as the mean that it adds to,
        # a K-th of the children in size. Normed behind it, fast matrix rates drown the mean in the first steps.
        pooled = self.head(self._pool(rms_norm(x, EPS)))
        if self.config.skip:
            pooled = pooled + mean
        return rms_norm(pooled, EPS).view(*shape[:-2], shape[-1])

    def _pool(self, x: Tensor) -> Tensor:
        """[N, K, D] or, with the extra entry of `cls`, [N, K + 1, D] -> [N, D]."""
        if self.probe is None:
            return x.mean(dim=1)
        if self.config.pooling == "cls":
            # Without a layer that mixes, the extra entry would know nothing of the children.
            return x[:, 0] if len(self.layers) else x.mean(dim=1)
        scores = (x * self.probe.to(x.dtype)).sum(dim=-1) / x.size(-1) ** 0.5  # [N, K]
        return (torch.softmax(scores.float(), dim=-1).to(x.dtype).unsqueeze(-1) * x).sum(dim=1)


def build_pyramid(gistnet: GistNet, embeddings: Tensor, max_lod: int, block_size: int | None = None) -> list[Tensor]:
    """Token embeddings [B, T, D] and the gists of every complete block above them: [B, T // K^k, D] for k = 0 ... max_lod.

    One GistNet call per level for all rows. `block_size`: smaller blocks than the network's, while it learns.
    """
    size = block_size or gistnet.block_size
    levels = [embeddings]
    for lod in range(1, max_lod + 1):
        below = levels[-1]
        blocks = below.size(1) // size
        if blocks == 0:
            levels.append(below[:, :0])
            continue
        children = below[:, : blocks * size].unflatten(1, (blocks, size))
        levels.append(gistnet(children, lod))
    return levels


def pool_of(levels: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """The levels of a pyramid side by side, [B, P, D], and where each begins."""
    offsets, total = [], 0
    for level in levels:
        offsets.append(total)
        total += level.size(1)
    return torch.cat(list(levels), dim=1), offsets
