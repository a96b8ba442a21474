"""Working Contexts far behind in long histories: every condition against what it stands for, made another way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mccore import plugins
from mccore.config import SearchConfig
from mccore.errors import ConfigError, DataError
from mccore.eval.context.far import row as far_row
from mccore.eval.context.far.row import CONDITIONS, LOOKUPS, ON_DEMAND, LongHistoryOptions
from mccore.eval.context.long_history import (
    LongHistoryReport,
    evaluate_long_histories,
    window_losses,
)
from mccore.eval.context.policies import GivenSpans, bm25
from mccore.eval.context.statistics import Comparison
from mccore.megacontext.networks.nodes import AttentionMass
from mccore.megacontext.networks.positions import Spans
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.options import SessionOptions
from mccore.megacontext.sessions.session import Session
from mccore.megacontext.tree.tree import Tree
from mccore.megacontext.working_context import assemble, model_inputs
from mccore.model import GPT
from tests.eval.context.test_within_sequence import GOAL, SIGN, sign_model
from tests.support.networks import stir
from tests.support.sessions import INTERVAL, RECENT, K, W, context_model, new_session

HISTORY, SPAN = 300, 8
SEARCH = SearchConfig(kind="ngram", span_tokens=SPAN, query_tokens=6)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def searching(**changes: Any) -> SessionModel:
    settings = {"token_positions": "contiguous", "search": SEARCH, **changes}
    return context_model(allocator="spans", options={"spans": 1, "hysteresis": 0.0}, **settings)


@pytest.fixture(scope="module")
def model() -> SessionModel:
    return searching()


def rows_of(count: int = 3, horizon: int = INTERVAL, seed: int = 0) -> NDArray[np.int64]:
    """Rows of few distinct tokens, so that n-grams come again."""
    return np.random.default_rng(seed).integers(0, 12, (count, HISTORY + horizon))


def evaluate(model: SessionModel, rows: NDArray[Any], documents: Any = None, **changes: Any) -> LongHistoryReport:
    ram = plugins.load("tree", "ram")

    def new_tree() -> Tree:
        return Tree(ram.build(ram.options(), model.encoder.spec()), model.encoder)

    own = list(range(len(rows))) if documents is None else documents
    on_progress = changes.pop("on_progress", lambda done: None)
    options = LongHistoryOptions(**{"horizon": rows.shape[1] - HISTORY, **changes})
    return evaluate_long_histories(model, new_tree, rows, own, options, on_progress)


def streamed(model: SessionModel, row: NDArray[np.int64], **options: Any) -> tuple[Session, list[float]]:
    """A session that read the history of a row and then token by token what follows, and its losses."""
    session, losses = new_session(model, **options), []
    session.append(row[:HISTORY])
    for token in row[HISTORY:].tolist():
        losses.append(float(-session.read().log_softmax(0)[token]))
        session.append_token(token)
    assert session.refocuses == 1
    return session, losses


def plain_losses(gpt: GPT, tokens: NDArray[np.int64], horizon: int) -> NDArray[np.float64]:
    """Losses of the last tokens of one row in a plain pass."""
    row = torch.from_numpy(tokens)
    with torch.inference_mode():
        logits = gpt.logits(gpt.hidden(row[:-1].unsqueeze(0)))[0, -horizon:]
    found: NDArray[np.float64] = -logits.log_softmax(-1).gather(1, row[-horizon:, None])[:, 0].double().numpy()
    return found


def close(one: Any, other: Any) -> bool:
    return bool(np.allclose(one, other, atol=1e-4, rtol=0))


def tail_of(session: Session) -> int:
    """First token of the raw tail of a session."""
    cut = session.focus.cut
    return int(cut.stop[cut.level > 0].max(initial=0))


def spans_shown(session: Session) -> list[int]:
    """First tokens of the spans shown before the tail; they are SPAN tokens apart or more."""
    cut = session.focus.cut
    far = cut.index[(cut.level == 0) & (cut.index < tail_of(session))]
    assert set(far.tolist()) == {first + i for first in far[::SPAN].tolist() for i in range(SPAN)}
    starts: list[int] = far[::SPAN].tolist()
    return starts


# --- the Working Context, and windows --------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, INTERVAL])
@pytest.mark.parametrize("changes", [{}, {"kv_policy": "exact", "token_positions": "absolute"}, {"search": None}])
def test_context_is_a_session_that_is_fed_token_by_token(changes: dict[str, Any], horizon: int) -> None:
    model = context_model() if "search" in changes else searching(**changes)
    rows = rows_of(2, horizon)
    report = evaluate(model, rows)
    entries, far, tails = [], [], []
    for row, losses in zip(rows, report.losses["context"], strict=True):
        session, expected = streamed(model, row)
        assert close(losses, expected)
        assert len(session.focus.cut) <= W
        entries.append(len(session.focus.cut) - (horizon - 1))  # before the first prediction
        tails.append(HISTORY - tail_of(session))
        cut = session.focus.cut
        far.append(int(((cut.level == 0) & (cut.index < tail_of(session))).sum()))
    assert report.entries == np.mean(entries) <= W - INTERVAL
    assert report.tail == np.mean(tails) >= RECENT
    assert report.far_tokens == np.mean(far)
    assert np.mean(far) == SPAN or "search" in changes
    assert report.history == HISTORY


def test_windows_and_the_tail_have_the_plain_models_losses(model: SessionModel) -> None:
    rows, twin = rows_of(), GPT(model.gpt.config, seed=5).eval()
    stir(twin, 5)
    report = evaluate(model, rows, twin=twin)
    for row in range(len(rows)):
        session = new_session(model)
        session.append(rows[row, :HISTORY])
        session.read()
        for name, gpt, first in (
            ("window", model.gpt, HISTORY - (W - INTERVAL)),
            ("window_full", model.gpt, HISTORY - W),
            ("twin", twin, HISTORY - (W - INTERVAL)),
            ("twin_full", twin, HISTORY - W),
            ("tail", model.gpt, tail_of(session)),
        ):
            assert close(report.losses[name][row], plain_losses(gpt, rows[row, first:], INTERVAL)), name
    means = [values.mean() for name, values in report.nll.items() if name in ("window", "window_full", "tail", "twin")]
    assert min(np.diff(sorted(means))) > 1e-3  # no two are the same by chance
    many = rows_of(40, seed=2)
    losses = window_losses(model.gpt, many, INTERVAL)
    assert all(close(losses[row], plain_losses(model.gpt, many[row], INTERVAL)) for row in (0, 15, 16, 39))


def test_a_context_of_unseen_gists_and_no_spans_is_its_tail() -> None:
    silent = context_model(allocator="spans", options={"spans": 0, "hysteresis": 0.0}, search=SEARCH)
    assert silent.nets.bias is not None
    with torch.no_grad():
        silent.nets.bias.weights.fill_(-60.0)
    report = evaluate(silent, rows_of())
    for name in ("context", "gists_zeroed", "gists_swapped", "history_swapped", "nothing_found", "contiguous"):
        assert close(report.losses[name], report.losses["tail"]), name
    assert report.far_tokens == 0
    assert not close(report.losses["window"], report.losses["tail"])


# --- other gists, other histories, other places ------------------------------------------------------------------------


def test_swapping_with_the_same_history_changes_nothing(model: SessionModel) -> None:
    rows = rows_of(2)
    rows[1, :HISTORY] = rows[0, :HISTORY]
    report = evaluate(model, rows)
    for name in ("gists_swapped", "history_swapped"):
        assert close(report.losses[name], report.losses["context"]), name


def test_controls_differ_where_histories_do(model: SessionModel) -> None:
    report = evaluate(model, rows_of())
    names = ("context", "gists_zeroed", "gists_swapped", "history_swapped", "absolute", "nothing_found", "tail")
    for i, one in enumerate(names):
        for other in names[:i]:
            assert (np.abs(report.losses[one] - report.losses[other]).max(axis=1) > 1e-2).all(), (one, other)


def test_only_what_lies_before_the_tail_is_swapped(model: SessionModel) -> None:
    rows = rows_of(2)
    session = new_session(model)
    session.append(rows[0, :HISTORY])
    session.read()
    (shown,) = spans_shown(session)
    before = evaluate(model, rows).losses
    partner = rows.copy()
    partner[1, tail_of(session) : HISTORY] = 13  # what the partner of row 0 has in its tail
    after = evaluate(model, partner).losses
    for name in ("gists_swapped", "history_swapped"):
        assert close(before[name][0], after[name][0])
    partner = rows.copy()
    partner[1, shown : shown + SPAN] = 13  # no gist of row 0 stands for these, they are tokens
    after = evaluate(model, partner).losses
    assert close(before["gists_swapped"][0], after["gists_swapped"][0])
    assert not close(before["history_swapped"][0], after["history_swapped"][0])


def test_a_swapped_history_is_what_the_other_document_shows(model: SessionModel) -> None:
    rows, phrase = rows_of(2), np.arange(20, 26)
    for row in rows:
        row[97:103] = row[HISTORY - 6 : HISTORY] = phrase  # so that both show [96, 104), with own tokens at its ends
    rows[:, HISTORY - W : HISTORY - 6], rows[:, HISTORY:] = 13, rows[0, HISTORY:]
    losses = evaluate(model, rows).losses
    assert close(losses["history_swapped"], losses["context"][::-1])
    assert not close(losses["gists_swapped"], losses["context"][::-1])
    assert not close(losses["context"][0], losses["context"][1])


def test_tokens_are_placed_as_the_other_kind_of_model_places_them() -> None:
    absolute, contiguous = (searching(token_positions=kind) for kind in ("absolute", "contiguous"))
    one, other = evaluate(absolute, rows_of()), evaluate(contiguous, rows_of())
    assert close(one.losses["context"], other.losses["absolute"])
    assert close(one.losses["contiguous"], other.losses["context"])
    assert not close(one.losses["context"], other.losses["context"])
    assert close(one.losses["lens"], evaluate(absolute, rows_of()).losses["lens"])  # the model is what it was
    assert absolute.nets.config.token_positions == "absolute"


def test_rows_of_one_document_are_swapped_with_none(model: SessionModel) -> None:
    rows, swapped = rows_of(), {"gists_swapped", "history_swapped"}
    of_one = evaluate(model, rows, [7, 7, 7])
    assert set(of_one.losses) == set(CONDITIONS) - swapped - {"contiguous", "twin", "twin_full", *ON_DEMAND, *LOOKUPS}
    of_two = evaluate(model, rows, [7, 7, 8])
    assert swapped <= of_two.losses.keys()
    same = rows.copy()
    same[1] = 3  # row 0 is swapped with row 2, of the other document
    assert close(of_two.losses["gists_swapped"][0], evaluate(model, same, [7, 7, 8]).losses["gists_swapped"][0])
    difference = of_two.nll["context"] - of_two.nll["window"]
    found = of_two.difference("context", "window")
    assert found.mean == pytest.approx(difference.mean())
    assert found.n == 2
    assert of_two.difference("context", "window", by_document=False).n == 3


# --- what is found -----------------------------------------------------------------------------------------------------


def test_a_search_that_finds_nothing_is_a_model_without_one(model: SessionModel) -> None:
    alone = evaluate(searching(search=SearchConfig()), rows_of())
    report = evaluate(model, rows_of())
    assert alone.far_tokens == 0
    assert close(alone.losses["context"], report.losses["nothing_found"])
    assert not close(report.losses["context"], report.losses["nothing_found"])
    assert not {"nothing_found", "random", "bm25", "lens"} & alone.losses.keys()
    assert not alone.scores


def test_routers_show_the_spans_of_highest_score(model: SessionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Session] = []

    class Kept(Session):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            opened.append(self)

    monkeypatch.setattr(far_row, "Session", Kept)
    rows = rows_of(4, seed=1)
    report = evaluate(model, rows, conditions=["random", "bm25", "lens"])
    assert len(opened) == 4 * 4
    of = {name: opened[i::4] for i, name in enumerate(("context", "random", "bm25", "lens"))}
    for row in range(4):
        history, tail = rows[row, :HISTORY], tail_of(of["context"][row])
        spans = history[: HISTORY // SPAN * SPAN].reshape(-1, SPAN)
        scores = {"bm25": bm25(history[-6:], spans), "lens": lens_shares(model, of["context"][row], tail)}
        for name, score in scores.items():
            before = tail_of(of[name][row]) // SPAN  # a span in the tail needs no place
            assert spans_shown(of[name][row]) == [SPAN * best_of(score[:before])], name
        given = of["lens"][row].search
        assert given is not None
        found = given.find([], tail, HISTORY)  # relative to the mean share, of all blocks that may be edited
        ratio = found.score / scores["lens"][found.start // SPAN]
        assert len(ratio) == tail // SPAN
        assert np.allclose(ratio, (HISTORY - RECENT) // K, rtol=1e-2)
        for name, sessions in of.items():
            assert close(report.losses[name][row], streamed(model, rows[row], search=sessions[row].search)[1]), name
    assert len({tuple(spans_shown(session)) for session in of["random"]}) > 1
    again = evaluate(model, rows, conditions=["random"])
    assert close(again.losses["random"], report.losses["random"])
    other = evaluate(model, rows, conditions=["random"], seed=1)
    assert not close(other.losses["random"], report.losses["random"])


def best_of(scores: NDArray[np.float64]) -> int:
    """The last of those that score highest."""
    return len(scores) - 1 - int(scores[::-1].argmax())


def lens_shares(model: SessionModel, session: Session, tail: int) -> NDArray[np.float64]:
    """The shares of attention by span that LensNet expects of gists of everything before the tail."""
    blocks = tail // K
    level = torch.tensor([[1] * blocks + [0] * (HISTORY - tail)])
    index = torch.tensor([[*range(blocks), *range(tail, HISTORY)]])
    gists = session.tree.backend.read(1, 0, blocks)
    embeddings = torch.cat(
        [torch.from_numpy(gists.copy()), model.gpt.embed(torch.from_numpy(session.ids(tail, HISTORY)))]
    )
    span = torch.where(level > 0, float(K), 1.0).double()
    spans = Spans(level, index * span + (span - 1) / 2, span)
    editable = (index + 1) * span <= (HISTORY - RECENT) // K * K
    with torch.inference_mode():
        shares = model.nets.lensnet(embeddings.unsqueeze(0), spans, editable).scores[0, :blocks].exp().double()
    summed: NDArray[np.float64] = shares[: blocks // 2 * 2].view(-1, SPAN // K).sum(dim=1).numpy()
    return summed


def test_what_was_said_far_back_is_found_and_helps() -> None:
    """A model that says GOAL wherever it sees SIGN, which stands far back beside the words that the newest tokens repeat."""
    gpt, nets = sign_model()
    spans = plugins.load("allocator", "spans")
    options = spans.options.model_validate({"spans": 1, "recent_tokens": RECENT})
    settings = SessionOptions(W, INTERVAL, search=SEARCH)
    knowing = SessionModel(gpt.eval(), nets.eval(), lambda spec: spans.build(options, spec), settings)
    rows = np.random.default_rng(0).integers(8, 30, (6, HISTORY + INTERVAL))
    phrase = np.arange(30, 35)
    for row, at in enumerate((10, 42, 83, 120, 161, 202)):
        rows[row, at : at + 5], rows[row, at + 5] = phrase, SIGN
        rows[row, HISTORY - 5 : HISTORY], rows[row, HISTORY:] = phrase, GOAL
    report = evaluate(knowing, rows, conditions=set(CONDITIONS) - {"lens"}, oracle_spans=1)
    nll = {name: float(values.mean()) for name, values in report.nll.items()}
    assert report.far_tokens == SPAN
    # Both oracles show the span with SIGN, which in one row isn't the one with the words, but the next.
    same = np.arange(6) != 2
    for name in ("oracle", "oracle_bound"):
        assert close(report.losses[name][same], report.losses["context"][same])
        assert report.losses[name].max() < 0.01 < report.losses["context"][2].min()
    assert report.utilities is not None
    assert report.utilities.shape == report.scores["ngram"].shape == (6, (HISTORY - (W - INTERVAL)) // SPAN)
    assert report.utilities.argmax(axis=1).tolist() == [1, 5, 11, 15, 20, 25]
    recall, closed = report.recall("ngram", 1), report.focus_gap_closed("context")
    assert recall is not None
    assert recall == report.recall("bm25", 1)
    assert recall.mean == pytest.approx(5 / 6)
    assert closed is not None
    gained = nll["random"] - nll["context"]
    assert closed.mean == pytest.approx(gained / (nll["random"] - nll["oracle"]))
    oracle = report.focus_gap_closed("oracle")
    assert oracle is not None
    assert oracle.mean == pytest.approx(1)
    assert nll["context"] < 0.5
    assert close(report.losses["bm25"], report.losses["context"])
    for name in ("window", "window_full", "tail"):  # they know nothing
        assert nll[name] == pytest.approx(np.log(40), abs=0.05), name
    assert nll["history_swapped"] > nll["context"] + 1
    for name in ("random", "nothing_found"):  # the gist that stands for SIGN and many others tells a little
        assert nll["context"] + 0.5 < nll[name] < nll["tail"] + 0.01, name
    for name in ("gists_zeroed", "gists_swapped"):  # the span is enough
        assert nll[name] < nll["nothing_found"] - 2, name
    gain = report.difference("context", "window")
    assert gain.z is not None
    assert gain.z < -10


def test_recency_shows_the_newest_span_outside_of_the_tail(model: SessionModel) -> None:
    rows = rows_of(2)
    report = evaluate(model, rows, conditions=["recency"])
    every = np.arange(1.0, HISTORY // SPAN + 1)
    for row in range(2):
        session, losses = streamed(model, rows[row], search=GivenSpans(SPAN, HISTORY, every))
        assert close(report.losses["recency"][row], losses)
        assert spans_shown(session) in ([], [(tail_of(session) - 1) // SPAN * SPAN])  # or it grew into the tail
    assert report.scores["recency"][0].tolist() == sorted(report.scores["recency"][0])


def test_raw_attention_is_that_of_the_newest_tokens_to_gists_made_as_in_training(model: SessionModel) -> None:
    rows, size = rows_of(2), SPAN // K
    report = evaluate(model, rows, conditions=["raw_attention"])
    gpt, nets = model.gpt, model.nets
    for row in range(2):
        session, _ = streamed(model, rows[row])
        blocks = tail_of(session) // K
        level = torch.tensor([[1] * blocks + [0] * (HISTORY - blocks * K)])
        index = torch.tensor([[*range(blocks), *range(blocks * K, HISTORY)]])
        tokens = torch.from_numpy(rows[row : row + 1, :HISTORY])
        with torch.inference_mode():
            contexts = assemble(nets.pyramid(gpt.embed(tokens)), torch.tensor([0]), level, index, K)
            length = level.size(1)
            asked = min(nets.config.lens.queries, length - blocks)
            recorder = AttentionMass(
                torch.tensor([length - asked]), asked, 1, length, torch.tensor([blocks]), gpt.attend
            )
            gpt.hidden(
                **model_inputs(gpt, contexts, tokens, nets.bias, nets.config.positional, "contiguous"), attend=recorder
            )
        attention = recorder.excess()[0].sum(dim=0)[: blocks // size * size].double()
        candidates = report.scores["raw_attention"].shape[1]
        assert close(report.scores["raw_attention"][row], attention.view(-1, size).sum(dim=1)[:candidates])
        assert attention.max() > 1e-3


def test_an_oracle_takes_what_lowers_the_loss_most_and_is_honest() -> None:
    model, rows = searching(), rows_of(2)
    report = evaluate(model, rows, conditions=["nothing_found", *ON_DEMAND], oracle_spans=1)
    assert report.utilities is not None
    for row in range(2):
        alone = []
        for span in range(report.utilities.shape[1]):
            scores = np.zeros(HISTORY // SPAN)
            scores[span] = 1.0
            alone.append(streamed(model, rows[row], search=GivenSpans(SPAN, HISTORY, scores))[1])
        losses = np.array(alone)
        utilities = report.nll["nothing_found"][row] - losses.mean(axis=1)
        assert close(report.utilities[row], utilities)
        assert close(report.losses["oracle_bound"][row], losses[losses.mean(axis=1).argmin()])
        even, odd = losses[losses[:, 1::2].mean(axis=1).argmin()], losses[losses[:, 0::2].mean(axis=1).argmin()]
        assert close(report.losses["oracle"][row, 0::2], even[0::2])
        assert close(report.losses["oracle"][row, 1::2], odd[1::2])
        assert close(report.losses["full"][row], plain_losses(model.gpt, rows[row], INTERVAL))
    two = evaluate(model, rows, conditions=["oracle_bound"], oracle_spans=2)
    assert close(two.losses["oracle_bound"], report.losses["oracle_bound"])  # this allocator shows one
    assert report.gap_closed("context") is None  # random networks gain nothing by more context


def test_shares_of_gaps_are_ratios_of_means() -> None:
    gaps = np.array([[0.4], [0.5], [0.6], [0.5]])
    losses = {"full": np.zeros((4, 1)), "window": gaps, "context": gaps / 4, "random": gaps * 2, "oracle": gaps / 2}
    report = Comparison(losses, np.arange(4), {}, None)
    for found, share in (
        (report.gap_closed("context"), 3 / 4),
        (report.gap_closed("random"), -1),
        (report.focus_gap_closed("context"), 7 / 6),
        (report.focus_gap_closed("window"), 2 / 3),
    ):
        assert found is not None
        assert found.mean == pytest.approx(share)
        assert found.n == 4
    unsure = {**losses, "window": np.array([[0.9], [-0.8], [0.7], [-0.6]])}
    assert Comparison(unsure, np.arange(4), {}, None).gap_closed("context") is None
    assert Comparison({"window": gaps}, np.arange(4), {}, None).gap_closed("window") is None


def test_a_history_hardly_longer_than_the_window_has_no_oracle(model: SessionModel) -> None:
    rows = np.random.default_rng(0).integers(0, 12, (2, W + 1 + INTERVAL))
    assert (W + 1 - (W - INTERVAL)) // SPAN == 0
    report = evaluate(model, rows, conditions=ON_DEMAND, horizon=INTERVAL)
    assert report.losses.keys() == {"context", "window", "full"}
    assert report.utilities is None


def test_only_the_conditions_that_were_asked_for() -> None:
    model, rows = searching(), rows_of(2)
    everything = evaluate(model, rows)
    for asked in ([], ["tail"], ["gists_swapped", "bm25"], ["window_full", "absolute"], ["recency", "raw_attention"]):
        report = evaluate(model, rows, conditions=iter(asked))
        assert set(report.losses) == {"context", "window", *asked}
        assert all(close(values, everything.losses[name]) for name, values in report.losses.items())
    assert {"twin", "twin_full"} <= evaluate(model, rows, conditions=[], twin=model.gpt).losses.keys()
    done: list[int] = []
    evaluate(model, rows, conditions=[], on_progress=done.append)
    assert done == [1, 2]


def test_what_cant_be_compared_is_refused(model: SessionModel) -> None:
    with pytest.raises(DataError, match=f"histories of {W} tokens fit a Working Context of {W}"):
        evaluate(model, rows_of()[:, : W + INTERVAL], horizon=INTERVAL)
    for horizon in (0, INTERVAL + 1):
        with pytest.raises(DataError, match=f"a horizon of {horizon} tokens"):
            evaluate(model, rows_of(horizon=horizon))
    with pytest.raises(ConfigError, match="there is no condition 'widow'"):
        evaluate(model, rows_of(), conditions=["tail", "widow"])
    with pytest.raises(DataError, match="3 rows and 2 documents"):
        evaluate(model, rows_of(), [0, 1])
    with pytest.raises(DataError, match="0 rows"):
        evaluate(model, rows_of()[:0])


# --- given spans -------------------------------------------------------------------------------------------------------


def test_given_spans_come_by_score_the_newer_first() -> None:
    given = GivenSpans(8, 52, np.array([1.0, 3.0, 0.0, 3.0, -1.0, 2.0]))

    def found(before: int, count: int) -> tuple[list[int], list[int], list[float]]:
        spans = given.find([1, 2], before, count)
        return spans.start.tolist(), spans.stop.tolist(), spans.score.tolist()

    assert found(52, 9) == ([24, 8, 40, 0], [32, 16, 48, 8], [3.0, 3.0, 2.0, 1.0])  # none without a score
    assert found(52, 2) == ([24, 8], [32, 16], [3.0, 3.0])
    assert found(47, 9)[0] == [24, 8, 0]  # 40 to 48 isn't wholly before 47
    assert found(31, 1)[0] == [8]
    assert found(7, 9) == found(52, 0) == ([], [], [])
    assert (given.span, given.tokens) == (8, 52)
    assert GivenSpans(8, 52, np.zeros(6)).find([1], 52, 9).start.dtype == np.int64
