"""One or several comparisons as numbers: means over models by row, errors by document, rankings."""

from __future__ import annotations

import numpy as np
import pytest

from mccore.errors import DataError
from mccore.eval.context.catalogue import LONG_HISTORY, POLICIES, WITHIN_SEQUENCE, Condition, names, pairs
from mccore.eval.context.statistics import Comparison
from mccore.eval.context.summary import mean_of, summarize_comparison

DOCUMENTS = np.array([0, 0, 1, 2])


def comparison(seed: int, **changes: object) -> Comparison:
    rng = np.random.default_rng(seed)
    values = {
        "losses": {name: rng.random((4, 3)) + shift for name, shift in (("full", 0.0), ("window", 5.0), ("lens", 2.0))},
        "documents": DOCUMENTS,
        "scores": {"lens": rng.random((4, 9))},
        "utilities": rng.random((4, 9)),
    }
    return Comparison(**{**values, **changes})  # type: ignore[arg-type]


def test_models_are_averaged_row_by_row() -> None:
    one, other = comparison(0), comparison(1)
    found = summarize_comparison([one, other], WITHIN_SEQUENCE, [1, 8])
    gap = (one.nll["lens"] - one.nll["window"] + other.nll["lens"] - other.nll["window"]) / 2
    difference = found["differences"]["lens - window"]
    assert difference["mean"] == pytest.approx(gap.mean())
    assert difference["n"] == 3  # documents
    assert difference["runs"] == [pytest.approx(float((r.nll["lens"] - r.nll["window"]).mean())) for r in (one, other)]
    assert difference["stderr"] < max(r.difference("lens", "window").stderr or 0.0 for r in (one, other))
    assert (found["rows"], found["documents"]) == (4, 3)
    assert found["nll"].keys() == {"full", "window", "lens"}
    assert found["gap_closed"]["lens"]["mean"] == pytest.approx(mean_of([one, other]).gap_closed("lens").mean)  # type: ignore[union-attr]
    ranks = [report.rank_correlation("lens").mean for report in (one, other)]  # type: ignore[union-attr]
    assert found["ranking"]["lens"]["spearman"] == pytest.approx(np.mean(ranks))  # type: ignore[arg-type]
    assert found["ranking"]["lens"].keys() == {"spearman", "recall@1", "recall@8", "focus_gap_closed"}
    assert found["ranking"]["lens"]["focus_gap_closed"] is None  # without an oracle


def test_conditions_that_a_model_has_not_are_left_out() -> None:
    one = comparison(0)
    other = comparison(1, losses={name: values for name, values in one.losses.items() if name != "lens"})
    assert mean_of([one, other]).losses.keys() == {"full", "window"}


@pytest.mark.parametrize("changes", [{"documents": np.array([0, 1, 1, 2])}, {"documents": np.array([0, 1, 2])}])
def test_other_rows_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(DataError, match="can't be averaged"):
        mean_of([comparison(0), comparison(1, **changes)])


def test_without_utilities_nothing_is_ranked() -> None:
    assert summarize_comparison([comparison(0, utilities=None)], WITHIN_SEQUENCE, [1])["ranking"] == {}


@pytest.mark.parametrize("conditions", [WITHIN_SEQUENCE, LONG_HISTORY])
def test_a_catalogue_names_each_condition_once_and_compares_with_what_it_has(conditions: tuple[Condition, ...]) -> None:
    all_names = names(conditions)
    assert len(set(all_names)) == len(all_names)
    for each in conditions:
        assert set(each.against) <= set(all_names) - {each.name}
        assert len(each.reads) > 8
    assert pairs(conditions, ["window", "gists"]) == []
    assert set(pairs(conditions, all_names)) >= {("oracle_bound", "oracle"), ("lens", "random")}


def test_policies_are_all_that_choose() -> None:
    assert POLICIES == (
        "random", "recency", "bm25", "ngram", "raw_attention", "teacher_attention", "lens", "oracle", "oracle_bound",
    )  # fmt: skip
