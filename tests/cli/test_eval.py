"""`mccore eval context` on a run that was trained here: what is measured, printed and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mccore.cli import main
from mccore.config import RunConfig
from mccore.report.suite import NAME
from mccore.report.write import write_report
from mccore.runs.rundir import RunDir
from mccore.stages.memory.histories import HistoryChoices
from mccore.stages.memory.suite import PLANS, SuitePlan
from tests.support.small_run import BATCH, base_dir, in_process, make_config, new_run, one_thread, sources

__all__ = ["base_dir", "in_process", "make_config", "new_run", "one_thread", "sources"]

MEGACONTEXT = {
    "enabled": True, "block_size": 4, "horizon": 3, "recent_tokens": 8, "expanded_blocks": 1, "refocus_interval": 2,
    "gistnet": {"layers": 1}, "lens": {"layers": 1, "queries": 4}, "search": {"span_tokens": 8, "query_tokens": 4},
}  # fmt: skip
FAR = (
    *("--history", 120, "--horizon", 4, "--wc-length", 48, "--refocus-interval", 4, "--recent-tokens", 8, "--spans", 1),
    *("--every", 10, "--rows", 6),
)


@pytest.fixture(scope="module")
def runs(
    new_run: Callable[..., RunDir], make_config: Callable[..., RunConfig], in_process: Callable[..., Any]
) -> dict[str, RunDir]:
    """Two seeds with MegaContext and a run without, of six steps each."""
    base = {"tokens": 6 * BATCH, "eval_every_tokens": 0, "sample_every_tokens": 0}
    found = {}
    for name, seed in (("mc", 7), ("other", 8), ("plain", 7)):
        config = make_config(base=base, **({} if name == "plain" else {"megacontext": MEGACONTEXT}))
        found[name] = new_run(name, config.model_copy(update={"seed": seed}))
        in_process(found[name], "encode")
        in_process(found[name], "base")
    return found


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evaluate(runs: dict[str, RunDir], capfd: pytest.CaptureFixture[str]) -> Command:
    def run(*args: object) -> tuple[int, str, str]:
        capfd.readouterr()
        return main(["eval", "context", *map(str, args)]), *capfd.readouterr()

    return run


def test_within_the_sequence_length(evaluate: Command, runs: dict[str, RunDir]) -> None:
    events = {path: path.read_bytes() for path in runs["mc"].events_dir.iterdir()}
    code, said, _ = evaluate("mc", "other", "--rows", 12, "--json")
    assert code == 0
    found = json.loads(said)
    assert (found["runs"], found["rows"], found["horizon"]) == (["mc", "other"], 12, 3)
    for name in (
        "full",
        "window",
        "gists",
        "gists_mean",
        "random",
        "recency",
        "bm25",
        "lens",
        "oracle",
        "oracle_bound",
    ):
        assert found["nll"][name]["mean"] > 0
        assert found["nll"][name]["n"] == found["documents"] <= 12
    gap = found["differences"]["oracle_bound - oracle"]
    assert gap["mean"] == pytest.approx(np.mean(gap["runs"]))
    assert gap["mean"] == pytest.approx(found["nll"]["oracle_bound"]["mean"] - found["nll"]["oracle"]["mean"])
    assert {part["condition"] for part in found["by_distance"]} >= {"gists", "lens"}
    assert found["ranking"]["lens"].keys() == {"spearman", "recall@1", "recall@2", "recall@8", "focus_gap_closed"}
    assert {path: path.read_bytes() for path in runs["mc"].events_dir.iterdir()} == events  # nothing is written


def test_far_behind_in_documents_beside_a_twin(evaluate: Command, tmp_path: Path) -> None:
    out = tmp_path / "losses.npz"
    code, said, _ = evaluate("mc", *FAR, "--twin", "plain", "--also", "oracle", "--out", out, "--json")
    assert code == 0
    found = json.loads(said)
    assert (found["history"], found["horizon"], found["rows"]) == (120, 4, 6)
    assert found["entries"] <= 44
    assert {"context", "window", "twin", "nothing_found", "bm25", "lens", "oracle"} <= found["nll"].keys()
    assert "full" not in found["nll"]
    assert found["ranking"]["ngram"]["spearman"] is None or -1 <= found["ranking"]["ngram"]["spearman"] <= 1
    with np.load(out) as kept:
        assert kept["mc/context"].shape == (6, 4)
        assert kept["mc/context"].mean() == pytest.approx(found["nll"]["context"]["mean"])
        assert len(kept["documents"]) == 6


def test_what_a_person_reads(evaluate: Command) -> None:
    code, said, _ = evaluate("mc", "--rows", 8)
    assert code == 0
    assert "mc: 8 rows" in said
    for text in (
        "condition",
        "gists_zeroed",
        "lens - oracle" if "lens - oracle" in said else "lens - random",
        "spearman",
    ):
        assert text in said
    assert "delta NLL by tokens back" in said
    assert "LOD1" in said
    code, said, _ = evaluate("mc", *FAR, "--condition", "tail")
    assert code == 0
    assert "histories of 120 tokens" in said
    assert "context - tail" in said
    assert "bm25" not in said


SUITE = ("mc", "--suite", "short", "--wc-length", 128, "--recent-tokens", 8, "--spans", 1, "--refocus-interval", 48)


@pytest.fixture
def small_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    histories = HistoryChoices(150, horizon=8, every=40, per_document=2, fit_rows=2)
    monkeypatch.setitem(PLANS, "short", SuitePlan((2048,), 1, 1, histories, 2, (2, 256), (256, 512), 48))


@pytest.mark.usefixtures("small_suite")
def test_a_suite_is_kept_and_the_report_tells_it(evaluate: Command, runs: dict[str, RunDir]) -> None:
    code, said, _ = evaluate(*SUITE, "--twin", "plain", "--json")
    assert code == 0
    (found,) = json.loads(said)
    assert found == runs["mc"].read_result(NAME)
    assert (found["suite"], found["twin"], found["entries"]) == ("short", "plain", 128)
    assert {"window", "sink_window", "twin", "context"} <= found["histories"]["nll"].keys()
    rows = found["recall"]["by_size"]
    assert {(row["size"], row["n"]) for row in rows} == {(2048, 1)}
    assert {row["condition"] for row in rows} >= {"context", "window", "sink_window", "random", "bm25", "oracle"}
    assert [cost["tokens"] for cost in found["costs"]["histories"]] == [256, 512]
    assert [entry["what"] for entry in found["missing"]] == ["identifiers"]  # these texts have no names
    page = write_report(runs["mc"]).markdown.read_text(encoding="utf-8")
    assert "suite short" in page
    assert "(context_recall.png)" in page


@pytest.mark.usefixtures("small_suite")
def test_a_suite_in_words_and_of_other_sizes(evaluate: Command) -> None:
    code, said, _ = evaluate(*SUITE, "--size", 1600)
    assert code == 0
    assert "| needle multi-key | 1,600 | 1 |" in said
    assert "mccore report mc" in said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nobody",), "nobody"),
        (("plain",), "trained without MegaContext"),
        (("mc", "--spans", 3), "--spans has an effect with --history only"),
        (("mc", *FAR, "--twin", "plain", "--twin", "plain"), "2 twins for 1 runs"),
        (("mc", *FAR, "--condition", "everything"), "no condition 'everything'"),
        (("mc", "--history", 10**6), "no document has the"),
        (("mc", "--suite", "short", "--history", 10**6), "a suite has histories of its own"),
        (("mc", "--suite", "short", "--every", 10), "--every has no effect with --suite"),
        (("mc", "--suite", "short", "--rows", 10), "--rows and --out have no effect"),
        (("mc", "--size", 2048), "--size has an effect with --suite only"),
        (("plain", "--suite", "short"), "trained without MegaContext"),
    ],
)
def test_refusals(evaluate: Command, args: tuple[object, ...], message: str) -> None:
    code, _, said = evaluate(*args)
    assert code != 0
    assert message in said
    assert "hint" in said
    assert "Traceback" not in said
