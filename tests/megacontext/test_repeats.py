"""Where the newest tokens stood before: counts against a slow reference, and what LensNet makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mccore.megacontext.cut import Cut
from mccore.megacontext.lensnet import HALF_LIFE
from mccore.megacontext.positions import spans_of
from mccore.megacontext.repeats import ORDERS, RepeatIndex, count_repeats, repeats_of_cut
from tests.megacontext.test_networks import K, lensnet


def slow_count(tokens: list[int], position: int, start: int, stop: int) -> list[float]:
    """Tokens in `[start, stop)` that follow an earlier occurrence of the last 2, 3 tokens up to `position`."""
    found = []
    for order in range(2, 2 + ORDERS):
        asked = tokens[position - order + 1 : position + 1] if position >= order - 1 else None
        found.append(
            float(
                sum(
                    place - order >= 0 and place - 1 < position and tokens[place - order : place] == asked
                    for place in range(start, stop)
                )
            )
        )
    return found


def mixed_cut(tokens: int) -> Cut:
    """Two LOD2 nodes, then gists and tokens by turns."""
    level, index = [2, 2], [0, 1]
    for block in range(2 * K, tokens // K):
        if block % 2:
            level.append(1)
            index.append(block)
        else:
            level += [0] * K
            index += range(block * K, (block + 1) * K)
    rest = range(tokens // K * K, tokens)
    return Cut(np.array(level + [0] * len(rest), dtype=np.int8), np.array(index + list(rest), dtype=np.int64), K)


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_looking_at_every_place(seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, 3, 3 * K * K + 5)
    cut = mixed_cut(len(tokens))
    found = repeats_of_cut(torch.from_numpy(tokens), cut, 9)
    assert found.shape == (9, len(cut), ORDERS)
    assert found.sum() > 50
    for query, position in enumerate((cut.stop - 1)[-9:].tolist()):
        for entry, (start, stop) in enumerate(zip(cut.start.tolist(), cut.stop.tolist(), strict=True)):
            assert found[query, entry].tolist() == slow_count(tokens.tolist(), position, start, stop)


@pytest.mark.parametrize("seed", range(4))
def test_an_index_counts_the_same_within_its_reach(seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, 4, 3 * K * K + 5)
    index, whole = RepeatIndex(reach=len(tokens)), mixed_cut(len(tokens))
    for piece in np.array_split(tokens, 3):
        index.index.append(piece)
    wanted = repeats_of_cut(torch.from_numpy(tokens), whole, 9).numpy()
    assert np.array_equal(index.count(whole, 9), wanted)
    # A shorter cut of the same history, as sessions have while tokens are unread, and one of nothing but its start.
    shorter = Cut(whole.level[:-3], whole.index[:-3], K)
    assert np.array_equal(index.count(shorter, 9), repeats_of_cut(torch.from_numpy(tokens), shorter, 9).numpy())
    first = Cut(np.zeros(2, dtype=np.int8), np.arange(2), K)
    assert not index.count(first, 9).any()
    near = RepeatIndex(index.index, reach=3).count(whole, 9)
    assert (near <= wanted).all()
    assert (near[..., 0].sum(axis=1) <= 3).all()
    assert near.sum() > 0


def test_the_first_tokens_of_a_history_repeat_nothing() -> None:
    tokens = torch.zeros(1, 6, dtype=torch.int64)
    start = torch.arange(6).unsqueeze(0)
    found = count_repeats(tokens, torch.tensor([[0, 1, 2, 3]]), start, start + 1)[0]
    assert found[0].tolist() == [[0, 0]] * 6
    assert found[1].tolist() == [[0, 0]] * 6  # its own pair is no earlier one
    assert found[2, :, 0].tolist() == [0, 0, 1, 0, 0, 0]
    assert found[3, :, 0].tolist() == [0, 0, 1, 1, 0, 0]
    assert found[3, :, 1].tolist() == [0, 0, 0, 1, 0, 0]


def looked_at(repeats: Tensor, **changes: object) -> tuple[Tensor, Tensor]:
    """Scores and questions of four gists and four tokens that repeat so much, [4, 8, 2]."""
    net = lensnet(stirred=False, repeats=True)
    assert net.repeats is not None
    with torch.no_grad():  # nothing but the shares, at even odds
        for part in (net.repeats.trust, net.repeats.matter, net.repeats.age):
            part.zero_()
        for name, value in changes.items():
            getattr(net.repeats, name).copy_(torch.tensor(value))
    level = torch.tensor([[1] * 4 + [0] * 4])
    index = torch.tensor([[0, 1, 2, 3, *range(4 * K, 4 * K + 4)]])
    entries = torch.randn(1, 8, net.query.in_features, generator=torch.Generator().manual_seed(1))
    editable = torch.tensor([[True] * 4 + [False] * 4])
    found = net(entries, spans_of(level, index, K), editable, repeats=repeats.unsqueeze(0))
    return found.scores[0, :4].exp(), found.questions[0, :, :4].exp()


def test_a_question_goes_where_its_last_tokens_stood_before() -> None:
    none = torch.zeros(4, 8, ORDERS)
    alone, alike = looked_at(none)
    assert torch.allclose(alike.sum(dim=1), torch.ones(4), atol=1e-5)
    once = none.clone()
    once[1, 2, 0] = 1
    scores, questions = looked_at(once)
    assert torch.allclose(questions[[0, 2, 3]], alike[[0, 2, 3]], atol=1e-5)  # nobody else's question changes
    shared = 0.5
    wanted = (1 - shared) * alike[1] + shared * torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert torch.allclose(questions[1], wanted, atol=1e-4)
    assert scores[2] > alone[2]
    assert torch.allclose(scores.sum(), torch.tensor(1.0), atol=1e-4)
    # What isn't editable is no answer.
    elsewhere = none.clone()
    elsewhere[1, 6, 0] = 1
    assert torch.allclose(looked_at(elsewhere)[1], alike, atol=1e-5)


def test_shares_of_repeats_go_by_their_number_and_kind() -> None:
    repeats = torch.zeros(4, 8, ORDERS)
    repeats[:, 0, 0], repeats[:, 1, 0], repeats[:, 1, 1] = 1, 2, 1
    surely = {"trust": [20.0, 0.0, 0.0, 0.0]}
    questions = looked_at(repeats, **surely)[1]
    assert torch.allclose(questions, torch.tensor([0.25, 0.75, 0.0, 0.0]).expand(4, -1), atol=1e-4)
    questions = looked_at(repeats, weights=[0.0, float(np.log(7.0))], **surely)[1]
    assert torch.allclose(questions, torch.tensor([0.1, 0.9, 0.0, 0.0]).expand(4, -1), atol=1e-4)
    far = looked_at(repeats, **surely, weights=[0.0, -20.0])[1]
    assert torch.allclose(far, torch.tensor([1 / 3, 2 / 3, 0.0, 0.0]).expand(4, -1), atol=1e-4)


def test_a_rare_repeat_matters_more_once_that_is_learned() -> None:
    repeats = torch.zeros(4, 8, ORDERS)
    repeats[0, 0, 0], repeats[1, 1:4, 0] = 1, 5
    surely = {"trust": [20.0, 0.0, 0.0, 0.0]}
    plain = looked_at(repeats, **surely)[0]
    rare = looked_at(repeats, matter=[6.0, 0.0, 2.0, 0.0], **surely)[0]
    assert rare[0] > plain[0]
    assert rare[1:].sum() < plain[1:].sum()


def test_new_questions_matter_more() -> None:
    repeats = torch.zeros(4, 8, ORDERS)
    for query in range(4):
        repeats[query, query, 0] = 1  # each token points to another gist
    surely = {"trust": [20.0, 0.0, 0.0, 0.0]}
    assert torch.allclose(looked_at(repeats, **surely)[0], torch.full((4,), 0.25), atol=0.01)
    faded = looked_at(repeats, age=[float(HALF_LIFE)], **surely)[0]  # by half with every token
    assert torch.allclose(faded, torch.tensor([1.0, 2.0, 4.0, 8.0]) / 15, atol=0.01)


def test_the_start_is_close_to_a_search_for_rare_n_grams() -> None:
    """The newest tokens repeat something rare in one gist, and something frequent in all the others."""
    net = lensnet(stirred=False, repeats=True)
    repeats = torch.zeros(1, 4, 8, ORDERS)
    repeats[0, 3, 2], repeats[0, 2, :4, 0], repeats[0, 0, 1] = 1, 9, 1
    level = torch.tensor([[1] * 4 + [0] * 4])
    index = torch.tensor([[0, 1, 2, 3, *range(4 * K, 4 * K + 4)]])
    entries = torch.randn(1, 8, net.query.in_features, generator=torch.Generator().manual_seed(1))
    editable = torch.tensor([[True] * 4 + [False] * 4])
    scores = net(entries, spans_of(level, index, K), editable, repeats=repeats).scores[0, :4].exp()
    assert scores.argmax() == 2
    assert scores[1] > scores[[0, 3]].max()  # as rare, and older


def test_a_network_that_knows_repeats_has_to_be_told() -> None:
    net = lensnet(repeats=True)
    level, index = torch.zeros(1, 8, dtype=torch.int64), torch.arange(8).unsqueeze(0)
    with pytest.raises(AssertionError, match="give it `repeats`"):
        net(torch.randn(1, 8, net.query.in_features), spans_of(level, index, K))
    assert lensnet().repeats is None
