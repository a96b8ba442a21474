"""The lookup against its definition, written out, and what it may say against arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mccore.errors import CheckpointError
from mccore.megacontext.search.bigram_index import BigramIndex, SearchError
from mccore.megacontext.search.lookup import LONGEST, REACH, find_matches
from mccore.megacontext.search.mixer_file import NAME, read_mixer, write_mixer
from mccore.megacontext.search.mixing import LookupMixer, looked_up, mixed_nll
from mccore.megacontext.search.one_row import mix_one

SIX = st.lists(st.integers(0, 5), max_size=200)


def index_of(ids: list[int]) -> BigramIndex:
    index = BigramIndex()
    index.append(ids)
    return index


def reference(ids: list[int]) -> dict[int, int]:
    """Every place of a token that followed a match, and how long that match is."""
    found, last = {}, len(ids) - 1
    for place in range(1, last):
        length = 0
        while length < LONGEST and place - length >= 0 and ids[place - length] == ids[last - length]:
            length += 1
        if length >= 2:
            found[place + 1] = length
    return found


@given(ids=SIX)
def test_every_match_is_one_and_all_are_found_where_they_are_few(ids: list[int]) -> None:
    matches, wanted = find_matches(index_of(ids)), reference(ids)
    found = dict(zip(matches.place.tolist(), matches.length.tolist(), strict=True))
    assert found.items() <= wanted.items()
    assert matches.place.tolist() == sorted(found)
    assert matches.token.tolist() == [ids[place] for place in matches.place]
    if len(wanted) <= REACH:
        assert found == wanted
    else:
        assert set(sorted(wanted)[-REACH:]) <= set(found)


def test_a_long_match_is_found_behind_any_number_of_short_ones() -> None:
    common, rare = [1, 2], [7, 8, 9, 1, 2]
    ids = [*rare, 33, *common * 500, *rare]
    matches = find_matches(index_of(ids))
    assert matches.place[0] == 5
    assert (matches.token[0], matches.length[0]) == (33, 5)
    assert len(matches.place) <= 2 * REACH


@given(ids=st.lists(st.one_of(st.integers(0, 5), st.integers(0, 2**31 - 1)), max_size=150), at=st.integers(0, 150))
def test_tokens_one_by_one_are_indexed_as_many_at_once(ids: list[int], at: int) -> None:
    one, many = index_of(ids[:at]), index_of(ids)
    for token in ids[at:]:
        one.append_token(token)
    assert one.tokens == many.tokens
    for place in range(1, len(ids)):
        assert one.former(place, 200) == many.former(place, 200)
    keys = many._keys(np.arange(1, len(ids))) if len(ids) > 1 else np.zeros(0, np.uint64)
    for ours, theirs in zip(one.places(keys, 3), many.places(keys, 3), strict=True):
        assert (ours == theirs).all()


@pytest.mark.parametrize("token", [-1, 2**31])
def test_what_is_no_token_id_is_refused(token: int) -> None:
    index = index_of([1, 2])
    with pytest.raises(SearchError):
        index.append_token(token)
    assert index.tokens == 2


def eager() -> LookupMixer:
    mixer = LookupMixer()
    with torch.no_grad():
        mixer.out.bias.fill_(1.0)
    return mixer.requires_grad_(False)


def test_what_is_mixed_is_a_distribution_and_the_one_that_was_learned_for() -> None:
    ids = [3, 4, 5, 6, 3, 4, 7, 9, 3, 4]  # behind 3 4: once 5, once 7
    matches = find_matches(index_of(ids))
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
    found = looked_up([(matches, np.array([False, True]), len(ids))])
    mixer = eager()
    mixed, given = mixer(logits, found)
    own = torch.log_softmax(logits, dim=1)
    assert mixed.exp().sum() == pytest.approx(1, abs=1e-5)
    q = mixer.distribution(found)
    assert found.token[0].tolist() == [5, 7]
    assert q.sum() == pytest.approx(1, abs=1e-6)
    weight = given.sum()
    assert 0.1 < weight < 0.9
    rest = [each for each in range(12) if each not in (5, 7)]
    assert torch.allclose(mixed[0, rest].exp(), (1 - weight) * own[0, rest].exp(), atol=1e-6)
    assert torch.allclose(mixed[0, [5, 7]].exp(), (1 - weight) * own[0, [5, 7]].exp() + weight * q[0], atol=1e-6)
    say = torch.logit(weight).reshape(1)
    assert mixed_nll(own[:, 7], q[:, 1], say) == pytest.approx(-mixed[0, 7].item(), abs=1e-5)


def test_without_a_match_the_model_alone_speaks() -> None:
    nothing = find_matches(index_of([1, 2, 3]))
    something = find_matches(index_of([1, 0, 3, 1, 0]))
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    found = looked_up([(nothing, np.zeros(0, bool), 3), (something, np.zeros(1, bool), 5)])
    mixed, given = eager()(logits, found)
    assert torch.equal(mixed[0], torch.log_softmax(logits[0], dim=0))
    assert not given[0].any()
    assert mixed[1].exp().sum() == pytest.approx(1, abs=1e-5)
    assert mixed[1, 3] > torch.log_softmax(logits[1], dim=0)[3]


@given(
    ids=st.lists(st.integers(0, 5), min_size=3, max_size=120), seed=st.integers(0, 99), say=st.sampled_from([-40, 0, 9])
)
def test_one_row_is_mixed_as_many_are(ids: list[int], seed: int, say: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    mixer = LookupMixer().requires_grad_(False)
    for parameter in mixer.parameters():
        parameter.normal_(generator=generator)
    mixer.out.bias.fill_(say)
    matches = find_matches(index_of(ids))
    shown = matches.place % 2 == 0
    logits = 3 * torch.randn(1, 9, generator=generator)
    many, given = mixer(logits, looked_up([(matches, shown, len(ids))]))
    one = mix_one(mixer, logits[0].numpy(), matches, shown, len(ids))
    assert np.allclose(one.log, many[0].numpy(), atol=1e-4)
    assert one.token.tolist() == sorted(set(matches.token.tolist()))
    assert np.allclose(one.given, given[0, : len(one.token)].numpy(), atol=1e-5)


def test_the_model_keeps_a_part_however_sure_the_lookup_is() -> None:
    mixer = eager()
    with torch.no_grad():
        mixer.out.bias.fill_(1000.0)
    ids = [3, 4, 5, 6, 3, 4]
    mixed, _ = mixer(torch.zeros(1, 8), looked_up([(find_matches(index_of(ids)), np.zeros(1, bool), len(ids))]))
    assert mixed[0, 0] > np.log(1 / 8 / 210)


def test_token_0_may_be_what_followed() -> None:
    """Columns behind a row's last token hold id 0 too."""
    ids = [1, 2, 0, 1, 2, 3, 1, 2]
    one = find_matches(index_of(ids))
    many = find_matches(index_of([1, 2, 3, 1, 2, 4, 1, 2, 5, 1, 2]))
    logits = torch.zeros(2, 6)
    mixed, _ = eager()(
        logits, looked_up([(one, np.zeros(2, bool), len(ids)), (many, np.zeros(len(many.place), bool), 11)])
    )
    assert mixed[0].exp().sum() == pytest.approx(1, abs=1e-5)
    assert mixed[0, 0] > np.log(1 / 6)


def test_a_mixer_is_kept_to_the_last_bit(tmp_path: Path) -> None:
    mixer = eager()
    with torch.no_grad():
        mixer.by_age.normal_(generator=torch.Generator().manual_seed(0))
    assert read_mixer(tmp_path, "me") is None
    write_mixer(tmp_path, "me", mixer, {"tokens": 3})
    again = read_mixer(tmp_path, "me")
    assert again is not None
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in mixer.state_dict().items())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: {**content, "model": "other"}, "another model"),
        (lambda content: {**content, "weights": {}}, "other numbers"),
        (lambda content: {**content, "weights": {**content["weights"], "by_age": [1e300] * 8}}, "damaged"),
        (lambda content: {**content, "weights": {**content["weights"], "by_age": ["x"] * 8}}, "damaged"),
        (lambda content: {**content, "version": 99}, "99"),
        (lambda content: [], "damaged"),
    ],
)
def test_a_mixer_that_isnt_whole_is_named(tmp_path: Path, damage: object, said: str) -> None:
    write_mixer(tmp_path, "me", eager(), {})
    path = tmp_path / NAME
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=said):
        read_mixer(tmp_path, "me")
