"""GistNet and LensNet: what each output depends on, reproducible starts, and how they are trained."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from mccore.config import GistNetConfig, LensConfig
from mccore.megacontext.networks.decoder import WeakDecoder
from mccore.megacontext.networks.gistnet import GistNet, build_pyramid
from mccore.megacontext.networks.lensnet import LensNet, squash
from mccore.megacontext.networks.networks import MegaContextNets, megacontext_groups
from mccore.megacontext.networks.positions import Spans, spans_of
from mccore.model.optim.optimizer import assign_groups, gpt_groups
from tests.support.networks import entries, networks, random_tokens, run_config, stir

WIDTH, K = 16, 4


def gistnet(seed: int = 0, *, stirred: bool = True, **changes: object) -> GistNet:
    net = GistNet(GistNetConfig.model_validate(changes), WIDTH, K, 3)
    net.reset(torch.Generator().manual_seed(seed))
    if stirred:
        stir(net, seed)
    return net


GISTNETS = [
    {"kind": kind, "pooling": pooling, "head": head, "layers": layers, "skip": skip}
    for kind, layer_counts in (("transformer", (1, 2, 4)), ("mean", (2,)))
    for pooling in ("mean", "query", "cls")
    for head in ("linear", "mlp")
    for layers in layer_counts
    for skip in (True, False)
]


@pytest.mark.parametrize("changes", GISTNETS, ids=lambda c: "-".join(str(value) for value in c.values()))
def test_a_gist_depends_on_every_child(changes: dict[str, object]) -> None:
    net = gistnet(**changes)
    children = torch.randn(3, K, WIDTH, generator=torch.Generator().manual_seed(1), requires_grad=True)
    gists = net(children, 1)
    assert gists.shape == (3, WIDTH)
    torch.testing.assert_close(gists.square().mean(-1), torch.ones(3), atol=1e-3, rtol=0)
    (gradient,) = torch.autograd.grad((gists * torch.randn(3, WIDTH)).sum(), children)
    assert (gradient.norm(dim=-1) > 1e-4).all()
    with torch.no_grad():
        for child in range(K):
            other = children.clone()
            other[1, child] = torch.randn(WIDTH, generator=torch.Generator().manual_seed(child))
            moved = (net(other, 1) - gists).abs().amax(dim=-1)
            assert moved[1] > 1e-3
            assert not moved[[0, 2]].any()  # and on no other block's


@pytest.mark.parametrize("kind", ["transformer", "mean"])
def test_a_gist_depends_on_the_order_and_the_level(kind: str) -> None:
    net = gistnet(kind=kind, pooling="query")
    children = torch.randn(1, K, WIDTH, generator=torch.Generator().manual_seed(1))
    assert (net(children, 1) - net(children.flip(1), 1)).abs().max() > 1e-3
    assert (net(children, 1) - net(children, 2)).abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["mean", "query", "cls"])
def test_a_fresh_gist_with_a_skip_is_the_mean(pooling: str) -> None:
    net = gistnet(stirred=False, pooling=pooling)
    children = torch.randn(5, K, WIDTH)
    normed = children / children.square().mean(-1, keepdim=True).sqrt()
    mean = normed.mean(1)
    want = mean / mean.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(net(children, 1), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", GISTNETS, ids=lambda c: "-".join(str(value) for value in c.values()))
def test_every_parameter_of_gistnet_has_a_gradient(changes: dict[str, object]) -> None:
    net = gistnet(**changes)
    children = torch.randn(3, K, WIDTH, generator=torch.Generator().manual_seed(1))
    out = sum((net(children, level) * torch.randn(3, WIDTH)).sum() for level in (1, 2, 3))
    out.backward()  # type: ignore[union-attr]
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_a_pyramid_has_every_complete_block_and_nothing_else() -> None:
    net = gistnet()
    tokens = torch.randn(2, 71, WIDTH)
    levels = build_pyramid(net, tokens, 3)
    assert [level.shape for level in levels] == [(2, 71, WIDTH), (2, 17, WIDTH), (2, 4, WIDTH), (2, 1, WIDTH)]
    torch.testing.assert_close(levels[1][:, 16], net(tokens[:, 64:68], 1))
    torch.testing.assert_close(levels[2][:, 3], net(levels[1][:, 12:16], 2))
    torch.testing.assert_close(levels[3][:, 0], net(levels[2][:, :4], 3))
    short = build_pyramid(net, tokens[:, :7], 3)
    assert [level.shape[1] for level in short] == [7, 1, 0, 0]


# --- LensNet -----------------------------------------------------------------------------------------------------------

# 29 tokens in blocks of 4: a node over 16 tokens, a gist, a block as tokens, a gist, five recent tokens.
NODES = [(2, 0), (1, 4), (0, 20), (0, 21), (0, 22), (0, 23), *((0, at) for at in range(24, 29))]
EDITABLE = torch.arange(11) < 6


def lensnet(seed: int = 0, *, stirred: bool = True, **changes: object) -> LensNet:
    net = LensNet(LensConfig.model_validate({"queries": 4, **changes}), WIDTH, 2, K)
    net.reset(torch.Generator().manual_seed(seed))
    if stirred:
        stir(net, seed)
    return net


def context(rows: int = 2) -> tuple[Tensor, Spans, Tensor]:
    level, index = entries(*NODES, rows=rows)
    x = torch.randn(rows, len(NODES), WIDTH, generator=torch.Generator().manual_seed(3))
    return x, spans_of(level, index, K), EDITABLE.expand(rows, -1)


@pytest.mark.parametrize("stirred", [True, False])
@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_the_oldest_score_depends_on_the_newest_token(layers: int, head: str, stirred: bool) -> None:
    net = lensnet(stirred=stirred, layers=layers, head=head)
    x, spans, editable = context()
    x.requires_grad_()
    scores = net(x, spans, editable).scores
    assert scores.shape == (2, 11)
    assert scores.dtype == torch.float32
    (gradient,) = torch.autograd.grad(scores[0, 0], x, retain_graph=True)
    matters = gradient[0].norm(dim=-1) > 1e-7
    assert matters[:6].all()  # every node
    assert matters[7:].all()  # and every token that asks
    assert bool(matters[6]) == stirred  # a token that doesn't ask is seen by those that do, once layers mix
    assert not gradient[1].any()
    with torch.no_grad():
        other = x.clone()
        other[0, 10] = torch.randn(WIDTH, generator=torch.Generator().manual_seed(9))
        moved = (net(other, spans, editable).scores - scores).abs()
        assert (moved[0, :6] > 1e-6).all()
        assert not moved[1].any()


def test_a_fresh_focus_by_hand() -> None:
    """Likeness of embeddings alone: shares of softmax(4 sqrt(D) cos), summed over a node, averaged over the queries."""
    net = lensnet(stirred=False)
    x, spans, editable = context(1)
    found = net(x, spans, editable)
    normed = torch.nn.functional.normalize(x[0], dim=-1)
    shares = torch.softmax(4 * WIDTH**0.5 * normed[7:] @ normed[:6].t(), dim=1)  # [4, 6]
    by_node = torch.stack((shares[:, 0], shares[:, 1], shares[:, 2:].sum(dim=1)), dim=1)  # [4, 3]
    assert found.node.tolist() == [[0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4]]
    assert found.mask.tolist() == [[True] * 3 + [False] * 8]
    torch.testing.assert_close(found.questions[0, :, :3].exp(), by_node, atol=1e-5, rtol=1e-4)
    assert found.questions[0, :, 3:].exp().max() < 1e-12
    mean = by_node.mean(dim=0).log()
    want = torch.cat((mean[:2], mean[2:].expand(4), torch.full((5,), -torch.tensor(3.0).log())))
    torch.testing.assert_close(found.scores[0], want, atol=1e-5, rtol=1e-4)


def test_shares_of_nodes_add_up() -> None:
    net = lensnet()
    found = net(*context())
    torch.testing.assert_close(found.questions.exp().sum(dim=2), torch.ones(2, 4))
    nodes = [0, 1, 2]  # the numbers of nodes, and of the first entry of each
    torch.testing.assert_close(found.scores[:, nodes].exp().sum(dim=1), torch.ones(2))
    torch.testing.assert_close(found.shares[:, nodes], found.scores[:, [0, 1, 2]])
    assert (found.shares[:, 3:] == -1e9).all()


def test_tokens_to_come_ask_without_being_seen() -> None:
    net = lensnet()
    x, spans, editable = context()
    later = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(5))
    alone, found = net(x, spans, editable), net(x, spans, editable, later)
    assert torch.equal(found.scores, alone.scores)
    assert found.questions.shape == (2, 7, 11)
    torch.testing.assert_close(found.questions[:, :4], alone.questions)
    other = later.clone()
    other[:, 1] += 1
    moved = (net(x, spans, editable, other).questions - found.questions).abs().amax(dim=2) > 1e-6
    assert moved.tolist() == [[False] * 5 + [True, False]] * 2


def test_scores_feel_the_level_and_the_distance() -> None:
    net = lensnet()
    x, spans, editable = context()
    before = net(x, spans, editable).scores[:, :6]
    further = spans._replace(centre=spans.centre - 64 * 4**5 * (spans.level == 2))
    assert (net(x, further, editable).scores[:, :6] - before).abs().min() > 1e-6
    coarser = spans._replace(level=torch.where(spans.level == 1, 2, spans.level))
    assert (net(x, coarser, editable).scores[:, :6] - before).abs().min() > 1e-7
    shifted = spans._replace(centre=spans.centre + 4**10)
    torch.testing.assert_close(net(x, shifted, editable).scores[:, :6], before)


def test_the_smear_of_lensnet_stays_between_tokens() -> None:
    net = lensnet(stirred=False)
    with torch.no_grad():
        net.smear.fill_(0.7)
    x, spans, _ = context()
    _, before = net._inputs(x, spans)
    for changed, want in ((1, [1]), (2, [2, 3]), (5, [5, 6]), (10, [10])):
        other = x.clone()
        other[:, changed] = torch.randn(WIDTH)
        moved = (net._inputs(other, spans)[1] != before).any(dim=-1)
        assert moved[0].nonzero().flatten().tolist() == want


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_every_parameter_of_lensnet_has_a_gradient(head: str) -> None:
    net = lensnet(head=head)
    found = net(*context())
    (found.scores * torch.randn(2, 11)).sum().backward()
    (gradient,) = torch.autograd.grad(net(*context()).shares[:, :3].sum(), net.key.weight)
    assert gradient.any()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_squashed_scores_are_shares_against_the_mean() -> None:
    shares = torch.tensor([[0.3, *[0.7 / 9] * 9], [0.1] * 10])
    got = squash(shares.log(), torch.tensor([10, 10]))
    assert got[0, 0].item() == pytest.approx((3 - 1) / (3 + 1), abs=1e-5)
    torch.testing.assert_close(got[1], torch.zeros(10), atol=1e-6, rtol=0)
    assert (got.abs() < 1).all()
    assert (got[0, 1:] < 0).all()


# --- starts, groups ----------------------------------------------------------------------------------------------------

FULL = {
    "recon_weight": 0.1,
    "positional": "gaussian_alibi",
    "num_random_variants": 4,
    "lens": {"target": "both", "kl_weight": 0.1, "budget_smooth_weight": 0.1},
}


def test_starts_come_from_the_seed_alone() -> None:
    config = run_config(**FULL)
    torch.manual_seed(0)
    first = MegaContextNets(config.megacontext, config.model, seed=5).state_dict()
    torch.manual_seed(1)
    again = MegaContextNets(config.megacontext, config.model, seed=5).state_dict()
    other = MegaContextNets(config.megacontext, config.model, seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["gistnet.place"], other["gistnet.place"])
    assert not torch.equal(first["lensnet.level"], other["lensnet.level"])
    assert torch.equal(first["lensnet.layers.0.q.weight"], first["lensnet.layers.0.k.weight"])


def test_a_start_on_the_meta_device_is_the_same() -> None:
    config = run_config(**FULL)
    want = MegaContextNets(config.megacontext, config.model, seed=5).state_dict()
    with torch.device("meta"):
        nets = MegaContextNets(config.megacontext, config.model, seed=5)
    nets.to_empty(device="cpu")
    for tensor in nets.state_dict().values():
        tensor.fill_(torch.nan)
    nets.reset(5)
    assert not [name for name, tensor in nets.state_dict().items() if not torch.equal(tensor, want[name])]


def test_a_pyramid_of_nets_keeps_the_embeddings() -> None:
    gpt, nets = networks(run_config())
    embeddings = gpt.embed(random_tokens(2, 64))
    want = nets.pyramid(embeddings)
    assert torch.equal(want[0], embeddings)
    nets.dtype = torch.bfloat16
    got = nets.pyramid(embeddings)
    assert torch.equal(got[0].float(), embeddings)  # the plain pass reads them
    assert (got[1].float() - want[1]).abs().max() < 0.1
    assert not torch.equal(got[1].float(), want[1])


CONFIGS = [
    {},
    FULL,
    {"span_bias": False, "gistnet": {"kind": "mean", "pooling": "query"}},
    {"gistnet": {"pooling": "cls", "layers": 4, "head": "linear"}, "lens": {"head": "mlp", "layers": 4}},
    {"max_lod": 4, "gistnet": {"skip": False}, "recon_weight": 1.0},
]


@pytest.mark.parametrize("changes", CONFIGS)
@pytest.mark.parametrize("model", [{}, {"smear": True}])
def test_every_parameter_is_in_exactly_one_group(model: dict[str, object], changes: dict[str, object]) -> None:
    config = run_config(model, **changes)
    gpt, nets = networks(config)
    module = nn.ModuleDict({"gpt": gpt, "mc": nets})
    groups = (*gpt_groups(config, "base", "gpt."), *megacontext_groups(config.megacontext, "mc.", 1.0))
    members = assign_groups(module, groups)
    trained = sorted(name for group in members.values() for name in group)
    assert trained == sorted(name for name, p in module.named_parameters() if p.requires_grad)
    assert not [name for name in trained if "former" in name]
    for name in trained:
        assert sum(bool(re.fullmatch(group.pattern, name)) for group in groups) == 1
    kinds = {name: group.kind for group, named in members.items() for name in named}
    assert kinds["mc.lensnet.layers.0.q.weight"] == "adamw"
    assert kinds["mc.gistnet.head.out.weight"] == "muon"
    assert kinds["mc.gistnet.place"] == "adamw"


def test_rates_of_groups_are_the_configured_ones() -> None:
    config = run_config(gistnet={"matrix_lr": 0.5, "lr": 0.25}, lens={"lr": 0.125}).megacontext
    rates = {group.name: group.lr for group in megacontext_groups(config, "mc.", 0.5)}
    assert rates == {"gist_matrices": 0.25, "gist_rest": 0.125, "lens": 0.0625, "lens_distance": 0.5}


def test_the_decoder_makes_a_state_per_token_from_one_gist() -> None:
    decoder = WeakDecoder(WIDTH, K)
    decoder.reset(torch.Generator().manual_seed(0))
    stir(decoder)
    gists = torch.randn(5, WIDTH)
    hidden = decoder(gists)
    assert hidden.shape == (5, K, WIDTH)
    other = gists.clone()
    other[2] += 1
    moved = (decoder(other) != hidden).any(-1)
    assert moved.all(dim=1).tolist() == [False, False, True, False, False]
    assert len(hidden[0].unique(dim=0)) == K  # places differ


def test_the_former_lens_follows_slowly() -> None:
    config = run_config(**FULL)
    nets = MegaContextNets(config.megacontext, config.model)
    with torch.no_grad():
        nets.lensnet.level.add_(1.0)
    torch.testing.assert_close(nets.lensnet.level - nets.former.level, torch.ones_like(nets.former.level))
    distances = []
    for _ in range(3):
        nets.follow_lens()
        distances.append((nets.lensnet.level - nets.former.level).mean().item())
    assert distances == pytest.approx([0.9, 0.81, 0.729], abs=1e-5)
    assert not any(parameter.requires_grad for parameter in nets.former.parameters())
