"""What looking up is measured to be worth: by the session's own path, and told from a model that can't."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mccore.eval.context.far.references import Bag, NgramCache, corpus_shares, fit_bag, fit_ngram_cache
from mccore.eval.context.far.row import LOOKUPS
from mccore.eval.context.far.words import FAR_ONLY, places
from mccore.eval.context.long_history import LongHistoryReport
from mccore.megacontext.search.lookup import Matches
from mccore.megacontext.search.mixing import LookupMixer
from mccore.megacontext.sessions.lookup.fit import collect, examples_of, fit
from mccore.megacontext.sessions.model import SessionModel
from tests.eval.context.test_long_history import HISTORY, INTERVAL, W, evaluate, searching, streamed
from tests.support.networks import VOCAB
from tests.support.sessions import new_session


def echoing(count: int, *, far: bool, seed: int = 0) -> NDArray[np.int64]:
    """Rows of words that come once, but for their last ones: a passage from far behind word for word, or new words too."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, VOCAB, (count, HISTORY + INTERVAL))
    if far:
        rows[:, -INTERVAL - 4 :] = rows[:, 10 : 10 + INTERVAL + 4]
    return rows


@pytest.fixture(scope="module")
def remembering() -> SessionModel:
    """A model whose lookup has learned that echoes come, and that not all that was there before is one."""
    model = searching()
    documents = [*echoing(12, far=True, seed=5), *echoing(12, far=False, seed=6)]
    examples, _ = collect(lambda: new_session(model), documents, least=W + INTERVAL, tokens=24 * 3 * INTERVAL)
    assert examples is not None
    model.look_up_with(fit(examples))
    return model


def report_of(model: SessionModel, rows: NDArray[np.int64], conditions: Iterable[str] = LOOKUPS) -> LongHistoryReport:
    return evaluate(model, rows, conditions=conditions, fit_rows=echoing(3, far=True, seed=7), twin=model.gpt)


def test_the_lookup_is_the_session_token_by_token(remembering: SessionModel) -> None:
    rows = echoing(2, far=True)
    report = report_of(remembering, rows)
    assert set(LOOKUPS) <= set(report.losses)
    for row, losses in zip(rows, report.losses["lookup"], strict=True):
        _, expected = streamed(remembering, row)
        assert np.allclose(losses, expected, atol=1e-4)
    plain = searching()
    for row, losses in zip(rows, report.losses["context"], strict=True):
        assert np.allclose(losses, streamed(plain, row)[1], atol=1e-4)


def test_a_model_that_surely_remembers_is_told_from_one_that_surely_does_not(remembering: SessionModel) -> None:
    rows = echoing(4, far=True)
    far = np.isin(places(rows, INTERVAL, W - INTERVAL), FAR_ONLY)
    assert far.mean() > 0.3
    found = report_of(remembering, rows).losses
    assert (found["lookup"] - found["context"])[far].mean() < -1.0
    assert abs((found["lookup_elsewhere"] - found["context"]).mean()) < 0.3
    mute = searching()
    mute.look_up_with(LookupMixer().requires_grad_(False))
    with torch.no_grad():
        assert mute.mixer is not None
        mute.mixer.out.bias.fill_(-25.0)
    silent = report_of(mute, rows).losses
    assert np.allclose(silent["lookup"], silent["context"], atol=1e-4)


def test_a_text_without_repetition_loses_nothing(remembering: SessionModel) -> None:
    found = report_of(remembering, echoing(6, far=False, seed=11)).losses
    assert (found["lookup"] - found["context"]).mean() < 0.05


def test_without_rows_to_fit_to_nothing_looks_up(remembering: SessionModel) -> None:
    assert not set(evaluate(remembering, echoing(2, far=True)).losses) & set(LOOKUPS)


# --- reference lines --------------------------------------------------------------------------------------------------


def logits_of(count: int) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(1))


def test_a_bag_raises_the_words_of_a_text_and_is_off_where_it_does_not_help() -> None:
    logits, corpus = logits_of(4), corpus_shares([np.arange(8)], 8)
    counts = torch.zeros(8)
    counts[3] = 50
    bag = Bag(0.5, 10.0, corpus)
    share = (counts + 10 * corpus) / 60
    expected = torch.log_softmax(logits + 0.5 * torch.log(share / corpus), dim=1)
    assert torch.allclose(bag.losses(logits, torch.tensor([3, 0, 3, 1]), counts), -expected[range(4), [3, 0, 3, 1]])
    helpful = fit_bag([logits], [torch.tensor([3, 3, 3, 3])], [counts], corpus)
    assert helpful.a > 0
    useless = fit_bag([logits], [torch.tensor([0, 1, 2, 4])], [counts], corpus)
    assert useless.a == 0


def test_an_ngram_cache_mixes_counts_by_hand() -> None:
    matches = Matches(np.array([3, 6, 9]), np.array([2, 5, 5]), np.array([2, 4, 4]))
    ids = np.array([5])
    examples = examples_of(logits_of(1), ids, [(matches, np.zeros(3, bool), 12)])
    own = torch.log_softmax(logits_of(1), dim=1)[0, 5].exp()
    cache = NgramCache(torch.full((8, 3, 4), 0.25))
    assert cache.losses(examples).exp().item() == pytest.approx(1 / (0.75 * own.item() + 0.25), rel=1e-4)
    assert fit_ngram_cache(examples).weight.max() <= 0.99
    nothing = Matches(*(np.zeros(0, np.int64) for _ in range(3)))
    silent = examples_of(logits_of(1), ids, [(nothing, np.zeros(0, bool), 12)])
    assert cache.losses(silent).item() == pytest.approx(-own.log().item(), rel=1e-5)
