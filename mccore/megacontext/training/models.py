"""What the passes of a training step compute with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from mccore.megacontext.networks.networks import MegaContextNets
from mccore.model.gpt import GPT
from mccore.train.timings import Timings

Forward = Callable[..., Tensor]  # as `GPT.hidden`

M = TypeVar("M", bound=nn.Module)

# The parts of a step that are timed, and the part that one runs within.
PARTS: dict[str, str | None] = {
    "build_ms": None,
    "positional_ms": None,
    "variant_ms": None,
    "lens_forward_ms": "lens_loss_ms",
    "lens_loss_ms": None,
    "total_ms": None,
}


@dataclass(frozen=True)
class Models:
    """The networks of a step and how they are called."""

    gpt: GPT  # what the plain pass trains
    reader: GPT  # what reads variants: the same one, or the same parameters without gradients
    nets: MegaContextNets
    read_plain: Forward
    read_variants: Forward
    timings: Timings
    all_reduce: Callable[[Tensor], None] | None  # sums over the ranks in place

    def eager(self) -> Models:
        """The same without compilation."""
        return replace(self, read_plain=self.gpt.hidden, read_variants=self.reader.hidden)

    def compiled(self) -> Models:
        """The same with passes through torch.compile."""
        plain: Forward = torch.compile(self.gpt.hidden, dynamic=False)
        variants = plain if self.reader is self.gpt else torch.compile(self.reader.hidden, dynamic=False)
        return replace(self, read_plain=plain, read_variants=variants)


def models_of(
    gpt: GPT, nets: MegaContextNets, *, train_gpt: bool, all_reduce: Callable[[Tensor], None] | None
) -> Models:
    """The models of a step whose variants do or don't train the GPT, not compiled."""
    reader = gpt if train_gpt else without_gradients(gpt)
    return Models(gpt, reader, nets, gpt.hidden, reader.hidden, Timings(PARTS), all_reduce)


def without_gradients(module: M) -> M:
    """A module with the same parameters and buffers, in the same memory, none of which gets a gradient.

    It follows all that is written into the parameters; a parameter that is replaced it doesn't see.
    """
    shared: dict[int, object] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    shared |= {id(buffer): buffer for buffer in module.buffers()}
    return copy.deepcopy(module, shared)
