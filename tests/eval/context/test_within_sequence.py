"""The evaluation of contexts on models whose answers are known, the same tokens everywhere, and its statistics by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mccore import plugins
from mccore.api import Allocator, AllocatorSpec
from mccore.config import MegaContextConfig, ModelConfig
from mccore.errors import ConfigError, DataError
from mccore.eval.context.catalogue import POLICIES
from mccore.eval.context.conditions import ContextModels, ContextRows, mean_pyramid
from mccore.eval.context.geometry import Geometry, Ledger
from mccore.eval.context.policies import K1, K3, B, bm25
from mccore.eval.context.statistics import estimate, ratio, recall_at, spearman
from mccore.eval.context.stream import StreamPlan, _Stream, stream_focus
from mccore.eval.context.within_sequence import ContextOptions, ContextReport, evaluate_contexts, swap_partners
from mccore.eval.statistics import mean_and_stderr
from mccore.events import METRICS
from mccore.megacontext.focus.controller import lens_score, prefill_focus, refocus
from mccore.megacontext.focus.state import FocusError, Limits, append_tokens, start_focus
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.search.ngram import NgramSearch
from mccore.megacontext.tree.cut import check
from mccore.megacontext.tree.edits import append
from mccore.megacontext.tree.tree import BlockEncoder, Tree
from mccore.megacontext.working_context import assemble, model_inputs
from mccore.model import GPT

K, VOCAB, T, W, H, E = 4, 40, 97, 48, 6, 2
CONDITIONS = {
    "full", "window", "tail", "gists", "gists_zeroed", "gists_swapped", "gists_mean", "unexpanded", *POLICIES,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def networks(
    *, stirred: bool = True, model: dict[str, Any] | None = None, **changes: Any
) -> tuple[GPT, MegaContextNets]:
    """A small GPT and its nets; unless `stirred`, as they start: predicting nothing."""
    sizes = {"depth": 2, "n_embd": 32, "head_dim": 8, "max_seq_len": T, "vocab_ids": VOCAB, "vocab_size": 64}
    gates = {"value_gate_channels": 6, "smear_gate_channels": 10}
    gpt = GPT(ModelConfig.model_validate({**sizes, **gates, **(model or {})}), seed=1)
    config = MegaContextConfig.model_validate(
        {
            "enabled": True, "block_size": K, "max_lod": 2, "horizon": H, "recent_tokens": 8, "refocus_interval": 6,
            "expanded_blocks": E, "gistnet": {"layers": 1}, "lens": {"layers": 1}, **changes,
        }
    )  # fmt: skip
    nets = MegaContextNets(config, gpt.config, seed=1)
    if stirred:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for part in (gpt, nets):
                for parameter in part.parameters():
                    if parameter.dim() == 2 and parameter.std() < 0.1:
                        parameter.normal_(0.0, 0.3, generator=generator)
    return gpt, nets


def random_rows(count: int, length: int = T, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (count, length), generator=torch.Generator().manual_seed(seed))


def evaluate(gpt: GPT, nets: MegaContextNets, rows: Tensor, **changes: Any) -> ContextReport:
    documents = changes.pop("documents", None)
    return evaluate_contexts(
        gpt, nets, rows, ContextOptions(**{"budget": W, "horizon": H, "expanded": E, **changes}), documents
    )


def greedy(**options: Any) -> Allocator:
    extension = plugins.load("allocator", "greedy")
    return extension.build(extension.options.model_validate({"recent_tokens": 8, **options}), AllocatorSpec(K, 2))


def close(one: Any, other: Any, tolerance: float = 1e-4) -> bool:
    return bool(np.allclose(one, other, atol=tolerance, rtol=0))


# --- known answers ----------------------------------------------------------------------------------------------------


def test_a_model_that_knows_nothing_needs_ln_v_in_every_condition() -> None:
    report = evaluate(*networks(stirred=False), random_rows(6))
    assert set(report.nll) == CONDITIONS
    for name, values in report.nll.items():
        assert close(values, math.log(VOCAB), 0.05), name
        assert name == "full" or abs(report.delta_nll(name).mean or 0) < 0.02
    assert report.gap_closed("gists") is None  # there is no gap
    assert report.focus_gap_closed("lens") is None or close(report.nll["oracle"], report.nll["random"], 0.02)


def test_gists_that_no_query_sees_make_no_difference() -> None:
    gpt, nets = networks()
    assert nets.bias is not None
    with torch.no_grad():
        nets.bias.weights.fill_(-60.0)
    report = evaluate(gpt, nets, random_rows(5))
    for name in ("gists", "gists_zeroed", "gists_swapped", "gists_mean"):
        assert close(report.nll[name], report.nll["tail"]), name
    assert not close(report.nll["window"], report.nll["tail"])
    assert not close(report.nll["full"], report.nll["tail"])
    seen = evaluate(*networks(), random_rows(5))
    for name in ("gists_zeroed", "gists_swapped", "gists_mean"):
        assert not close(seen.nll[name], seen.nll["gists"]), name


# A hand-made model: token SIGN, wherever it is seen, makes it predict GOAL; everything else it predicts evenly.
SIGN, GOAL, FILLER = 1, 2, 8


def sign_model() -> tuple[GPT, MegaContextNets]:
    """One head that attends to SIGN, by a channel that all other tokens lack, and writes GOAL's logit."""
    gpt, nets = networks(
        stirred=False,
        model={
            "depth": 1, "head_dim": 32, "rope_base": 1e30, "value_embeddings": False, "residual_scalars": False,
            "backout": False, "logit_softcap": 0.0,
        },
        gistnet={"layers": 1, "skip": True},
        span_bias=False,
        positional="simple",
    )  # fmt: skip
    common, sign, other, goal, slow = 0, 1, 2, 3, 15  # the slowest pair of channels hardly turns
    attention = gpt.blocks[0].attn
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.zero_()
        gpt.embedding.weight[:, common] = 1.0
        gpt.embedding.weight[:, other] = 1.0
        gpt.embedding.weight[SIGN, sign], gpt.embedding.weight[SIGN, other] = 3.0, 0.0
        attention.q.weight[slow, common] = 1.0
        attention.k.weight[slow, sign], attention.k.weight[slow - 1, other] = 1.0, 1.0
        attention.v.weight[goal, sign] = 1.0
        attention.proj.weight[goal, goal] = 1.0
        gpt.head.weight[GOAL, goal] = 4.0
    return gpt, nets


def sign_rows(count: int, blocks: Sequence[int], hint: Sequence[int] = ()) -> Tensor:
    """Rows of filler with SIGN in one far block and GOAL at every scored place; `hint`, two tokens at most, beside SIGN and in
    the tail."""
    rows = torch.randint(FILLER, 24, (count, T), generator=torch.Generator().manual_seed(4))
    rows[:, 18 * K :] += 24 - FILLER  # the tail shares nothing else with the far past
    rows[:, -H:] = GOAL
    for row, block in enumerate(blocks):
        rows[row, block * K + 1] = SIGN
        for at, token in enumerate(hint, 2):
            rows[row, block * K + at] = rows[row, T - H - 4 + at] = token
    return rows


def test_a_model_with_one_thing_to_find() -> None:
    gpt, nets = sign_model()
    where = [0, 3, 5, 7, 9, 11, 2, 6]
    report = evaluate(gpt, nets, sign_rows(8, where, hint=(7, 6)))
    nll = {name: float(values.mean()) for name, values in report.nll.items()}
    assert close(report.nll["full"], report.nll["oracle"], 0.05)
    assert nll["full"] < 0.5
    assert nll["window"] == pytest.approx(math.log(VOCAB), abs=0.05)
    assert nll["tail"] == pytest.approx(nll["window"], abs=0.05)
    assert nll["gists_zeroed"] == pytest.approx(nll["tail"], abs=0.05)
    assert nll["gists"] < nll["tail"] - 0.1  # a fresh gist is the mean of its block, SIGN included
    assert close(report.nll["gists_mean"], report.nll["gists"])
    for policy in ("oracle", "bm25", "ngram", "raw_attention", "teacher_attention"):
        assert close(report.nll[policy], report.nll["full"], 0.05), policy
    assert report.utilities is not None
    assert report.utilities.argmax(axis=1).tolist() == where
    for policy in ("bm25", "ngram", "raw_attention", "teacher_attention"):
        assert report.scores[policy].argmax(axis=1).tolist() == where
    assert nll["recency"] > nll["oracle"] + 0.5
    gap = report.focus_gap_closed("teacher_attention")
    assert gap is not None
    assert gap.mean == pytest.approx(1.0, abs=0.05)
    closed = report.gap_closed("oracle")
    assert closed is not None
    assert closed.mean == pytest.approx(1.0, abs=0.05)
    window = report.difference("window", "full")
    assert window.z is not None
    assert window.z > 3


def test_whoever_must_not_peek_does_not() -> None:
    gpt, nets = networks()
    rows, other = random_rows(4), random_rows(4)
    other[:, -H:] = random_rows(4, H, seed=9)
    one, two = evaluate(gpt, nets, rows), evaluate(gpt, nets, other)
    for policy in ("random", "recency", "bm25", "ngram", "raw_attention", "lens"):
        np.testing.assert_array_equal(one.scores[policy], two.scores[policy])
    assert not close(one.scores["teacher_attention"], two.scores["teacher_attention"])


def test_the_oracle_measures_what_expanding_does() -> None:
    gpt, nets = networks()
    rows = random_rows(3)
    report = evaluate(gpt, nets, rows, expanded=1)
    assert report.utilities is not None
    found = report.nll["unexpanded"] - report.nll["oracle_bound"]
    np.testing.assert_allclose(found, report.utilities.max(axis=1), atol=1e-5)
    for policy in report.scores:
        picked = report.scores[policy].shape[1] - 1 - report.scores[policy][:, ::-1].argmax(axis=1)
        saved = report.nll["unexpanded"] - report.nll[policy]
        np.testing.assert_allclose(saved, report.utilities[np.arange(3), picked], atol=1e-5)


@torch.inference_mode()
def test_the_oracle_measures_again_after_each_choice() -> None:
    gpt, nets = networks()
    rows = random_rows(4)
    report = evaluate(gpt, nets, rows)
    assert report.utilities is not None
    part = ContextRows(ContextModels(gpt, nets, report.geometry), torch.arange(4), rows, None, Ledger(rows[:, -H:]))
    first = torch.from_numpy(report.utilities.argmax(axis=1))
    tried = np.full(report.utilities.shape, np.inf)
    for other in range(tried.shape[1]):
        there = torch.where(first == other, (first + 1) % tried.shape[1], other)
        cut = part.contexts(part.expand(torch.stack((first, there), dim=1)), report.geometry.entries)
        tried[:, other] = part.score(cut)[1].double().mean(dim=1).numpy()
    np.testing.assert_allclose(report.nll["oracle_bound"], tried.min(axis=1), atol=1e-5)
    singly = np.argsort(report.utilities, axis=1)[:, -2]
    assert (tried.argmin(axis=1) != singly).any()  # else the second measurement would have changed nothing


@torch.inference_mode()
def test_the_oracle_picks_on_other_tokens_than_it_is_scored_on() -> None:
    gpt, nets = networks()
    rows = random_rows(4)
    report = evaluate(gpt, nets, rows, expanded=1)
    part = ContextRows(ContextModels(gpt, nets, report.geometry), torch.arange(4), rows, None, Ledger(rows[:, -H:]))
    assert report.utilities is not None
    losses = []
    for candidate in range(report.utilities.shape[1]):
        cut = part.contexts(part.expand(torch.full((4, 1), candidate)), report.geometry.entries)
        losses.append(part.score(cut)[1].double().numpy())
    each = np.stack(losses, axis=1)  # [R, J, H]
    for half in (0, 1):
        picked = each[:, :, 1 - half :: 2].mean(axis=2).argmin(axis=1)
        expected = each[np.arange(4), picked, half::2]
        np.testing.assert_allclose(report.losses["oracle"][:, half::2], expected, atol=1e-5)
    assert (report.nll["oracle"] >= report.nll["oracle_bound"] - 1e-6).all()


def test_an_oracle_gains_nothing_where_there_is_nothing_to_gain() -> None:
    report = evaluate(*networks(), random_rows(128), expanded=1)  # random tokens: what an expansion saves is chance
    gain, bound = report.difference("oracle", "random"), report.difference("oracle_bound", "random")
    assert gain.z is not None
    assert bound.z is not None
    assert abs(gain.z) < 3
    assert bound.z < -10


@pytest.mark.parametrize("query_tokens", [9, 128])
def test_ngram_scores_are_those_of_a_sessions_search(query_tokens: int) -> None:
    search = {"query_tokens": 12, "half_life": 5.0}
    rows = random_rows(4) % 6  # of few distinct tokens, so that n-grams come again
    report = evaluate(*networks(search=search), rows, query_tokens=query_tokens)
    first, stop = report.geometry.candidates
    end = T - H  # the scored tokens come behind
    for row, scores in zip(rows.numpy(), report.scores["ngram"], strict=True):
        index = NgramSearch(K, search["half_life"], reach=T)
        index.append(row[:end])
        found = index.find(row[end - min(12, query_tokens) : end], end, T)
        expected = np.zeros(end // K)
        expected[found.start // K] = found.score
        assert len(np.unique(scores)) > 5
        np.testing.assert_allclose(scores, expected[first:stop], rtol=1e-4)


def test_recency_is_gists_with_a_longer_tail() -> None:
    report = evaluate(*networks(), random_rows(3))
    np.testing.assert_array_equal(report.nll["recency"], report.nll["gists"])


# --- the same tokens --------------------------------------------------------------------------------------------------


def test_the_ledger_takes_the_same_tokens_of_every_row_once() -> None:
    wanted = torch.arange(12).view(4, 3)
    nll = torch.ones(2, 3)
    ledger = Ledger(wanted)
    ledger.add("one", torch.tensor([0, 1]), wanted[:2], nll)
    with pytest.raises(AssertionError, match="two scored other tokens"):
        ledger.add("two", torch.tensor([0, 1]), wanted[1:3], nll)
    with pytest.raises(AssertionError, match="one scored a row twice"):
        ledger.add("one", torch.tensor([1, 2]), wanted[1:3], nll)
    with pytest.raises(AssertionError, match="one has no loss of row 2"):
        ledger.complete()
    ledger.add("one", torch.tensor([3, 2]), wanted[[3, 2]], torch.tensor([[3.0] * 3, [2.0] * 3]))
    assert ledger.complete()["one"].tolist() == [[1] * 3, [1] * 3, [2] * 3, [3] * 3]


def test_a_condition_on_other_tokens_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = ContextRows.raw

    def shifted(self: ContextRows, count: int) -> Any:
        contexts = raw(self, count)
        index = contexts.index - 1
        return assemble(self.levels, self.own, contexts.level, index, K)

    monkeypatch.setattr(ContextRows, "raw", shifted)
    with pytest.raises(AssertionError, match="window scored other tokens"):
        evaluate(*networks(), random_rows(2))


def test_results_do_not_depend_on_the_size_of_a_pass() -> None:
    gpt, nets = networks()
    rows = random_rows(5)
    whole, pieces = evaluate(gpt, nets, rows), evaluate(gpt, nets, rows, max_entries=2 * T)
    for name, values in whole.nll.items():
        assert close(values, pieces.nll[name]), name
    assert whole.utilities is not None
    assert pieces.utilities is not None
    assert close(whole.utilities, pieces.utilities)


def test_full_is_the_plain_model() -> None:
    gpt, nets = networks()
    rows = random_rows(3)
    with torch.no_grad():
        plain = gpt.loss(rows[:, :-1], rows[:, 1:], reduction="none")[:, -H:].double().mean(dim=1)
    report = evaluate(gpt, nets, rows)
    np.testing.assert_array_equal(report.nll["full"], plain.numpy())
    with torch.no_grad():
        window = gpt.loss(rows[:, -W - 1 : -1], rows[:, -W:], reduction="none")[:, -H:].double().mean(dim=1)
    assert close(report.nll["window"], window.numpy())


def test_gists_are_swapped_with_another_document() -> None:
    assert swap_partners(3, None) is not None
    assert swap_partners(3, None).tolist() == [1, 2, 0]  # type: ignore[union-attr]
    documents = np.array([5, 5, 7, 7, 5])
    partners = swap_partners(5, documents)
    assert partners is not None
    assert (documents[partners] != documents).all()
    assert swap_partners(1, None) is None
    assert swap_partners(3, np.array([1, 1, 1])) is None
    report = evaluate(*networks(), random_rows(3), documents=[1, 1, 1], oracle=False)
    assert set(report.nll) == CONDITIONS - {"gists_swapped", "oracle", "oracle_bound"}
    assert report.utilities is None
    assert report.rank_correlation("lens") is None
    assert report.focus_gap_closed("lens") is None


# --- geometry ---------------------------------------------------------------------------------------------------------


def test_every_context_is_paid_for() -> None:
    geometry = Geometry(96, H, W, E, K, 2, 8)
    assert geometry.entries == 48  # 96 - 16 * 3
    assert geometry.candidates == (0, 18)
    assert geometry.state(geometry.collapses).tolist() == [1] * 16 + [0] * 8
    odd = Geometry(96, H, 50, E, K, 2, 8)
    assert odd.entries == 48  # the next longer context would have 51


def test_a_far_past_that_is_too_long_for_its_gists_goes_to_lod2() -> None:
    geometry = Geometry(96, H, 33, 1, K, 2, 8)  # 22 blocks before the tail: gists alone take 22 + 8 entries
    assert geometry.terraces(geometry.collapses + 1) == (0, 22)
    tight = Geometry(96, H, 27, 1, K, 2, 8)
    assert tight.terraces(tight.collapses + 1) == (2, 22)
    assert tight.candidates == (8, 22)
    assert tight.state(tight.collapses + 1).tolist() == [2] * 8 + [1] * 14 + [0] * 2
    gpt, nets = networks()
    report = evaluate(gpt, nets, random_rows(2), budget=27, expanded=1)
    assert report.to_dict()["candidates"] == 14
    assert report.geometry.entries <= 27


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 96}, "fit the budget of 96: nothing is far"),
        ({"budget": 12}, "don't fit 12 entries"),
        ({"budget": 95, "expanded": 30}, "30 expanded blocks of 4"),
        ({"budget": 30, "expanded": 2, "horizon": 30}, "don't fit 30 entries"),
        ({"budget": 36, "expanded": 6}, "6 far blocks leave no choice of 6"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(*networks(), random_rows(2), **changes)


def test_rows_that_are_none_are_refused() -> None:
    gpt, nets = networks()
    with pytest.raises(DataError, match=r"token ids \[R, T\]"):
        evaluate(gpt, nets, torch.zeros(3, T))
    with pytest.raises(DataError, match="3 rows, but 2 documents"):
        evaluate(gpt, nets, random_rows(3), documents=[1, 2])


def test_mean_pooled_gists_are_those_of_a_fresh_gistnet() -> None:
    gpt, nets = networks(stirred=False)
    embeddings = gpt.embed(random_rows(2))
    with torch.no_grad():
        for given in (embeddings, embeddings[:, : K * K - 1]):  # the shorter one has no block of LOD2
            for ours, fresh in zip(mean_pyramid(given, K, 2), nets.pyramid(given), strict=True):
                torch.testing.assert_close(ours, fresh, atol=1e-5, rtol=0)


# --- statistics and BM25 ----------------------------------------------------------------------------------------------


def test_standard_errors_go_by_cluster() -> None:
    values = np.array([1.0, 2.0, 4.0, 7.0])
    assert (estimate(values).mean, estimate(values).stderr) == pytest.approx(mean_and_stderr(values.tolist()))
    clustered = estimate(values, np.array([3, 3, 8, 8]))  # sums of deviations -4 and 4
    assert clustered.mean == 3.5
    assert clustered.stderr == pytest.approx(math.sqrt(2 / 1 * 32) / 4)
    assert clustered.n == 2
    assert estimate(np.array([])).mean is None
    assert estimate(np.array([2.0])).stderr is None
    assert estimate(np.array([2.0, np.nan, 4.0])).mean == 3
    assert estimate(np.array([1.0, 1.0])).z == math.inf


def test_a_ratio_needs_a_denominator() -> None:
    below = np.array([1.0, 1.2, 0.8, 1.1])
    found = ratio(0.5 * below, below)
    assert found is not None
    assert found.mean == pytest.approx(0.5)
    assert found.stderr == pytest.approx(0.0, abs=1e-12)
    above = np.array([0.1, 0.9, 0.5, 0.6])
    noisy = ratio(above, below)
    assert noisy is not None
    quotient = above.sum() / below.sum()
    assert noisy.stderr == pytest.approx(float(np.std((above - quotient * below) / below.mean(), ddof=1) / 2))
    assert ratio(above, np.array([1.0, -1.0, 0.5, 0.2])) is None  # 0.175 +- 0.43
    assert ratio(above, -below) is None
    assert ratio(above[:1], below[:1]) is None


def test_rank_correlation_and_recall() -> None:
    utilities = np.array([[1.0, 2.0, 3.0, 4.0]] * 4)
    scores = np.array([[10.0, 20.0, 30.0, 40.0], [4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    found = spearman(scores, utilities)
    assert found[:3] == pytest.approx([1.0, -1.0, 4 / math.sqrt(20)])
    assert np.isnan(found[3])
    assert recall_at(scores, utilities, 2).tolist() == [1, 0, 1, 1]
    assert recall_at(scores, utilities, 1).tolist() == [1, 0, 1, 1]  # of those alike the newer
    assert recall_at(scores, utilities, 3).tolist() == pytest.approx([1, 2 / 3, 1, 1])


def test_bm25_by_hand() -> None:
    documents = np.array([[1, 2, 3, 4], [1, 1, 5, 6], [7, 8, 9, -1]])
    query = np.array([1, 1, 5, 30, -1])

    def part(count: int, containing: int, length: int, asked: int) -> float:
        rarity = math.log(1 + (3 - containing + 0.5) / (containing + 0.5))
        norm = K1 * (1 - B + B * length / (11 / 3))
        return rarity * count * (K1 + 1) / (count + norm) * asked * (K3 + 1) / (asked + K3)

    expected = [part(1, 2, 4, 2), part(2, 2, 4, 2) + part(1, 1, 4, 1), 0.0]
    np.testing.assert_allclose(bm25(query, documents), expected)
    assert bm25(np.array([-1]), documents).tolist() == [0, 0, 0]
    assert bm25(query, documents[:0]).shape == (0,)


def test_a_report_is_json() -> None:
    report = evaluate(*networks(), random_rows(4), documents=[1, 1, 2, 3])
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert stored["documents"] == 3
    assert stored["entries"] == 48
    assert set(stored["nll"]) == CONDITIONS
    assert set(stored["delta_nll"]) == CONDITIONS - {"full"}
    assert stored["nll"]["full"]["n"] == 3
    assert set(stored["recall"]["lens"]) == {"2", "8"}
    assert {"lens - recency", "lens - bm25", "lens - ngram", "lens - raw_attention", "gists - tail"} <= set(
        stored["differences"]
    )
    assert report.recall("lens", 18) is None


# --- streams ----------------------------------------------------------------------------------------------------------

FOCUS_METRICS = {
    "delta_nll", "swap_rate", "residency", "dwell", "dwell/p95", "thrash", "raw_share", "controller_duration",
    "reprefill_entries",
}  # fmt: skip


def test_a_stream_keeps_within_its_budget_and_gives_the_metrics_of_the_table() -> None:
    gpt, nets = networks()
    rows = random_rows(3, 151)
    planner = greedy(expand_threshold=0.0, collapse_threshold=0.0, hysteresis=0.0, min_residency=1)
    report = stream_focus(gpt, nets, rows, planner, StreamPlan(W))
    assert set(report.metrics) == FOCUS_METRICS
    assert {name.partition("/")[0] for name in report.metrics} <= set(METRICS)
    starts = list(range(W - 6, 151 - 6 + 1, 6))
    assert len(report.refocuses) == len(starts) - 1
    assert report.scored == 6 * (len(starts) - 1)  # the first part had nothing but tokens
    for focus in report.focuses:
        check(focus.cut, starts[-1] + 6, max_lod=2, recent_tokens=8, budget=W)
    for done in report.refocuses:
        for focus in done.focuses:
            check(focus.cut, focus.cut.tokens, max_lod=2, recent_tokens=8, budget=W - 6)
    assert 0.8 < report.metrics["residency"] <= 1
    assert 0 < report.metrics["raw_share"] < 1
    assert report.metrics["swap_rate"] > 0
    assert report.metrics["controller_duration"] > 0
    assert report.delta_nll.n == 3


def test_a_stream_of_a_model_that_knows_nothing_costs_nothing() -> None:
    report = stream_focus(*networks(stirred=False), random_rows(4, 120), greedy(), StreamPlan(W))
    assert abs(report.metrics["delta_nll"]) < 0.01


def test_a_stream_is_what_a_session_over_a_tree_predicts() -> None:
    gpt, nets = networks()
    length, interval, start = 97, 6, 85
    row = random_rows(1, length)
    options = {"expand_threshold": 0.0, "collapse_threshold": 0.0, "hysteresis": 0.0, "min_residency": 0}
    report = stream_focus(gpt, nets, row, greedy(**options), StreamPlan(W, start=start))
    extension = plugins.load("tree", "ram")
    encoder = BlockEncoder(gpt.embed, nets.gistnet, max_lod=2)
    tree = Tree(extension.build(extension.options(), encoder.spec()), encoder)
    planner, limits = greedy(**options), Limits(W, K, 2, room=interval)
    tree.append(row[0, :start].numpy())
    score = lens_score(nets.lensnet, lambda cuts: [tree.entries(cut).embeddings for cut in cuts], planner)
    (focus,) = prefill_focus([start_focus(start, limits, planner.recent_tokens)], score, planner, limits)
    with torch.no_grad():
        full = gpt.loss(row[:, :-1], row[:, 1:], reduction="none")[0]
    gaps = []
    for tokens in (start, start + interval):
        tree.append(row[0, tokens : tokens + interval].numpy())
        cut = append(focus.cut, interval - 1)
        found = tree.entries(cut)
        levels = nets.pyramid(gpt.embed(row[:, :-1]))
        nodes = (torch.from_numpy(part.astype(np.int64)).unsqueeze(0) for part in (cut.level, cut.index))
        contexts = assemble(levels, torch.zeros(1, dtype=torch.int64), *nodes, K)
        torch.testing.assert_close(contexts.embeddings[0], found.embeddings, atol=1e-5, rtol=0)
        with torch.no_grad():
            hidden = gpt.hidden(
                **model_inputs(
                    gpt, contexts, row[:, :-1], nets.bias, nets.config.positional, nets.config.token_positions
                )
            )
            nll = gpt.hidden_loss(hidden[0, -interval:], row[0, tokens : tokens + interval], reduction="none")
        gaps.append(nll - full[tokens - 1 : tokens - 1 + interval])
        focus = append_tokens(focus, interval, limits)
        if tokens == start:
            embeddings = [tree.entries(focus.cut).embeddings]
            score = lens_score(nets.lensnet, lambda cuts, found=embeddings: found, planner)
            (focus,) = refocus([focus], score, planner, limits).focuses
    assert report.metrics["delta_nll"] == pytest.approx(float(torch.cat(gaps).double().mean()), abs=1e-5)
    assert abs(report.metrics["delta_nll"]) > 1e-3
    assert report.focuses[0].cut == focus.cut


def test_streams_do_not_depend_on_the_size_of_a_pass() -> None:
    gpt, nets = networks()
    rows = random_rows(3, 120)
    one, other = (
        stream_focus(gpt, nets, rows, greedy(min_residency=0), StreamPlan(W, max_entries=size)) for size in (2**15, 130)
    )
    assert one.metrics["delta_nll"] == pytest.approx(other.metrics["delta_nll"], abs=1e-5)


def test_a_horizon_longer_than_the_interval_has_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    gpt, nets = networks()
    lengths: list[int] = []
    contexts = _Stream.contexts

    def seen(self: _Stream, row: Tensor, cuts: Sequence[Any]) -> Any:
        lengths.extend(len(cut) for cut in cuts)
        return contexts(self, row, cuts)

    monkeypatch.setattr(_Stream, "contexts", seen)
    rows = random_rows(2)
    for horizon in (2, 6, 14):
        lengths.clear()
        report = stream_focus(gpt, nets, rows, greedy(), StreamPlan(W, interval=6, horizon=horizon))
        assert report.scored == 8 * horizon
        assert W - K < max(lengths) <= W  # the scored tokens are in it
    assert report.metrics["dwell"] == np.mean([each.dwell for each in report.refocuses[-1].measures])


def test_streams_that_cannot_be_are_refused() -> None:
    gpt, nets = networks()
    with pytest.raises(DataError, match="rows of 50 tokens are too short"):
        stream_focus(gpt, nets, random_rows(2, 50), greedy(), StreamPlan(W))
    with pytest.raises(FocusError, match="has no room for the 6 tokens"):
        stream_focus(gpt, nets, random_rows(2), greedy(), StreamPlan(6))
    with pytest.raises(FocusError, match="takes at least"):
        stream_focus(gpt, nets, random_rows(2, 400), greedy(), StreamPlan(26, start=390 - 12))
