from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mccore.errors import DataError
from mccore.eval.bits_per_byte import bits_per_byte
from mccore.model import GPT


class FixedLoss:
    """Stands for a model whose loss at target t is t / 10 nats: sums can be checked by hand."""

    device = torch.device("cpu")

    def loss(self, inputs: Tensor, targets: Tensor, *, reduction: str) -> Tensor:
        assert reduction == "none"
        return torch.where(targets == 3, torch.inf, targets.float() / 10)


SIZES = torch.tensor([1, 2, 4, 0, 3], dtype=torch.int32)  # id 3 is a special token


def test_by_hand() -> None:
    targets = torch.tensor([[1, 2, 3], [4, -1, 0]])
    found = bits_per_byte(FixedLoss(), [(targets, targets)], SIZES)  # type: ignore[arg-type]
    assert (found.tokens, found.bytes) == (4, 2 + 4 + 3 + 1)
    assert found.val_loss == pytest.approx((0.1 + 0.2 + 0.4 + 0.0) / 4)
    assert found.val_bpb == pytest.approx(0.7 / (math.log(2) * 10))


def test_a_uniform_model_needs_eight_bits_per_byte(random_gpt: Callable[..., GPT]) -> None:
    gpt = random_gpt(vocab_ids=256, vocab_size=256)
    with torch.no_grad():
        gpt.head.weight.zero_()
    tokens = torch.randint(0, 256, (3, 20))
    found = bits_per_byte(gpt, [(tokens, tokens)], torch.ones(256))
    assert found.val_bpb == pytest.approx(8.0, rel=1e-6)
    assert found.val_loss == pytest.approx(math.log(256), rel=1e-6)


def test_the_split_into_batches_changes_nothing(random_gpt: Callable[..., GPT]) -> None:
    gpt = random_gpt()
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 265, (6, 30), generator=generator)
    targets = torch.randint(-1, 265, (6, 30), generator=generator)
    sizes = np.array([1] * 256 + [0] * 9, dtype=np.int32)
    whole = bits_per_byte(gpt, [(inputs, targets)], torch.from_numpy(sizes))
    for size in (1, 2, 4):
        split = bits_per_byte(gpt, zip(inputs.split(size), targets.split(size), strict=True), torch.from_numpy(sizes))
        assert (split.tokens, split.bytes) == (whole.tokens, whole.bytes)
        assert split.val_bpb == pytest.approx(whole.val_bpb, rel=1e-6)
        assert split.val_loss == pytest.approx(whole.val_loss, rel=1e-6)


def test_ranks_add_up() -> None:
    targets = torch.tensor([[1, 2]])

    def double(totals: Tensor) -> None:
        totals *= 2

    one = bits_per_byte(FixedLoss(), [(targets, targets)], SIZES)  # type: ignore[arg-type]
    two = bits_per_byte(FixedLoss(), [(targets, targets)], SIZES, all_reduce=double)  # type: ignore[arg-type]
    assert (two.val_bpb, two.tokens, two.bytes) == (one.val_bpb, 2 * one.tokens, 2 * one.bytes)


@pytest.mark.parametrize("targets", [[[-1, 3]], []])
def test_nothing_counted_is_an_error(targets: list[list[int]]) -> None:
    batches = [(torch.tensor(targets), torch.tensor(targets))] if targets else []
    with pytest.raises(DataError, match="no validation target is counted"):
        bits_per_byte(FixedLoss(), batches, SIZES)  # type: ignore[arg-type]
