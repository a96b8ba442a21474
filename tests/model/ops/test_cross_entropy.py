"""The chunked loss equals the plain one, gradients included, without ever holding a batch of logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mccore.model import GPT
from mccore.model.ops import cross_entropy as loss_module
from tests.model.test_attention import Shapes


@pytest.fixture
def targets() -> Tensor:
    targets = torch.randint(0, 101, (2, 24), generator=torch.Generator().manual_seed(2))
    targets[0, :5] = -1
    return targets


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("mccore.model.gpt.chunk_rows", lambda ids, device: 7)
    return 7


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("softcap", [0.0, 15.0, 60.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_plain_cross_entropy(make_model, tokens, targets, reduction, softcap, weighted) -> None:  # type: ignore[no-untyped-def]
    model = make_model(logit_softcap=softcap)
    weights = torch.rand(2, 24) if weighted else None
    got = model.loss(tokens, targets, reduction=reduction, weights=weights)
    nll = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none").view(2, 24)
    scale = torch.ones(2, 24) if weights is None else weights
    scored = (targets >= 0) * scale
    want = {"none": nll * scale, "sum": (nll * scale).sum(), "mean": (nll * scale).sum() / scored.sum()}[reduction]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    upstream = torch.rand(got.shape) + 0.5
    parameters = list(model.parameters())
    got_grads = torch.autograd.grad((got * upstream).sum(), parameters)
    want_grads = torch.autograd.grad((want * upstream).sum(), parameters)
    for a, b in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model.loss(tokens, targets, reduction=reduction, weights=weights), want)


def test_other_ignore_index_and_nothing_scored(model: GPT, tokens: Tensor, targets: Tensor) -> None:
    relabelled = targets.masked_fill(targets == -1, -100)
    assert torch.equal(model.loss(tokens, relabelled, ignore_index=-100), model.loss(tokens, targets))
    nothing = model.loss(tokens, torch.full_like(targets, -1))
    nothing.backward()
    assert nothing.item() == 0.0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_logits_of_a_batch_never_exist(make_model, tokens, targets, small_chunks, reduction) -> None:  # type: ignore[no-untyped-def]
    model = make_model()
    with Shapes() as shapes:
        model.loss(tokens, targets, reduction=reduction).sum().backward()
    rows = {shape[-2] for shape in shapes.seen if len(shape) > 1 and shape[-1] == 101}
    rows.discard(model.config.n_embd)  # the head's weight, transposed
    assert max(rows) == small_chunks
    with Shapes() as shapes:
        model(tokens)
    assert any(shape[-1:] == (101,) and shape[0] * shape[1] == 48 for shape in shapes.seen)


def test_padded_ids_are_never_predicted(make_model, tokens) -> None:  # type: ignore[no-untyped-def]
    model = make_model()
    with torch.no_grad():
        model.head.weight[101:] = 1e3
    assert model(tokens).shape == (2, 24, 101)
    model.loss(tokens, tokens).backward()
    assert not model.head.weight.grad[101:].any()


def test_bf16_losses_are_close(make_model, tokens, targets) -> None:  # type: ignore[no-untyped-def]
    model = make_model()
    want = model.loss(tokens, targets)
    model.compute_dtype = torch.bfloat16
    got = model.loss(tokens, targets)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(want.item(), rel=0.02)


def test_chunks_are_bounded_by_device() -> None:
    assert loss_module.chunk_rows(32768, torch.device("cpu")) == 32
    assert loss_module.chunk_rows(32768, torch.device("cuda")) == 4096


# --- a sum with its parts, and distillation ----------------------------------------------------------------------------


def assert_gradients_agree(got: Tensor, want: Tensor, inputs: list[Tensor], tolerance: float) -> None:
    mine = torch.autograd.grad(3 * got, inputs)
    theirs = torch.autograd.grad(3 * want, inputs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.float(), b.float(), atol=tolerance * b.abs().max().item(), rtol=tolerance)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [0.0, 15.0, 60.0])
def test_a_weighted_sum_and_each_loss_in_one_pass(make_model, targets, softcap, dtype) -> None:  # type: ignore[no-untyped-def]
    model = make_model(logit_softcap=softcap)
    hidden = torch.randn(2, 24, 32).to(dtype).requires_grad_()
    weights = torch.rand(2, 24)
    total, losses = model.hidden_losses(hidden, targets, weights)
    logits = (hidden @ model.head.weight[:101].to(dtype).t()).float()
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none").view(2, 24)
    torch.testing.assert_close(losses, nll, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(total, (nll * weights).sum(), atol=1e-4, rtol=1e-5)
    assert losses.dtype == total.dtype == torch.float32
    assert not losses.requires_grad
    assert not losses[0, :5].any()  # nothing is scored there
    tolerance = 1e-4 if dtype == torch.float32 else 0.03
    assert_gradients_agree(total, (nll * weights).sum(), [hidden, model.head.weight], tolerance)
    with torch.no_grad():
        plain = model.hidden_losses(hidden, targets, weights)
        torch.testing.assert_close(plain[0], total)
        assert torch.equal(plain[1], losses)


def test_no_gradient_flows_into_weights_of_losses(make_model, targets) -> None:  # type: ignore[no-untyped-def]
    model = make_model()
    weights = torch.rand(2, 24, requires_grad=True)
    hidden = torch.randn(2, 24, 32, requires_grad=True)
    teacher = torch.randn(2, 24, 32, requires_grad=True)
    total = model.hidden_losses(hidden, targets, weights)[0] + model.distillation(hidden, teacher, weights)[0]
    total.backward()
    assert weights.grad is None
    assert teacher.grad is None
    assert hidden.grad.any()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [0.0, 15.0])
def test_distillation_equals_plain_divergence(make_model, softcap, dtype) -> None:  # type: ignore[no-untyped-def]
    model = make_model(logit_softcap=softcap)
    hidden = torch.randn(2, 24, 32).to(dtype).requires_grad_()
    teacher = torch.randn(2, 24, 32).to(dtype)
    weights = torch.rand(2, 24)

    def logits(states: Tensor, matrix: Tensor) -> Tensor:
        z = (states @ matrix[:101].to(dtype).t()).float()
        return softcap * torch.tanh(z / softcap) if softcap else z

    total, each = model.distillation(hidden, teacher, weights)
    known = logits(teacher, model.head.weight.detach()).log_softmax(dim=-1)
    own = logits(hidden, model.head.weight).log_softmax(dim=-1)
    want = F.kl_div(own, known, reduction="none", log_target=True).sum(dim=-1)
    torch.testing.assert_close(each, want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(total, (want * weights).sum(), atol=1e-4, rtol=1e-5)
    assert each.min() > 0
    assert not each.requires_grad
    tolerance = 1e-4 if dtype == torch.float32 else 0.03
    assert_gradients_agree(total, (want * weights).sum(), [hidden, model.head.weight], tolerance)
    with torch.no_grad():
        plain = model.distillation(hidden, teacher, weights)
        torch.testing.assert_close(plain[0], total)
        torch.testing.assert_close(plain[1], each)


def test_distilling_the_same_states_is_free(make_model) -> None:  # type: ignore[no-untyped-def]
    model = make_model()
    hidden = torch.randn(2, 24, 32, requires_grad=True)
    total, each = model.distillation(hidden, hidden, torch.ones(2, 24))
    assert each.abs().max() < 1e-6
    gradients = torch.autograd.grad(total, [hidden, model.head.weight])
    assert all(gradient.abs().max() < 1e-6 for gradient in gradients)


def test_distillation_never_makes_the_logits_of_a_batch(make_model, small_chunks) -> None:  # type: ignore[no-untyped-def]
    model = make_model()
    hidden = torch.randn(2, 24, 32, requires_grad=True)
    with Shapes() as shapes:
        model.distillation(hidden, torch.randn(2, 24, 32), torch.ones(2, 24))[0].backward()
    rows = {shape[-2] for shape in shapes.seen if len(shape) > 1 and shape[-1] == 101}
    rows.discard(model.config.n_embd)  # the head's weight, transposed
    assert max(rows) == small_chunks
    assert not model.head.weight.grad[101:].any()
