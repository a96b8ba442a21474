"""A model that shares its parameters with another one and trains none of them."""

from __future__ import annotations

import torch

from mccore.megacontext.training.models import models_of, without_gradients
from tests.support.networks import networks, random_tokens, run_config


def test_parameters_are_shared_and_get_no_gradient() -> None:
    gpt, _ = networks(run_config({"smear": True}))
    twin = without_gradients(gpt)
    assert [name for name, _ in twin.named_parameters()] == [name for name, _ in gpt.named_parameters()]
    for one, other in ((gpt.parameters(), twin.parameters()), (gpt.buffers(), twin.buffers())):
        assert [x.data_ptr() for x in one] == [x.data_ptr() for x in other]
    assert all(parameter.requires_grad for parameter in gpt.parameters())
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert not twin.hidden(random_tokens(1, 8)).requires_grad


def test_what_is_written_into_the_parameters_is_seen() -> None:
    gpt, _ = networks(run_config())
    twin, other = without_gradients(gpt), networks(run_config(), seed=9)[0]
    tokens = random_tokens(2, 8)
    before = twin.hidden(tokens)
    gpt.load_state_dict(other.state_dict())
    with torch.no_grad():
        next(gpt.parameters()).mul_(1.5)
    assert torch.equal(twin.hidden(tokens), gpt.hidden(tokens))
    assert not torch.equal(twin.hidden(tokens), before)


def test_variants_that_train_the_gpt_are_read_by_itself() -> None:
    gpt, nets = networks(run_config())
    assert models_of(gpt, nets, train_gpt=True, all_reduce=None).reader is gpt
    models = models_of(gpt, nets, train_gpt=False, all_reduce=None)
    assert models.reader is not gpt
    assert models.read_plain.__self__ is gpt  # type: ignore[attr-defined]
    assert models.read_variants.__self__ is models.reader  # type: ignore[attr-defined]
