"""The MegaContext section of a report: what a run measured, what left its band, what is missing and why."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from mccore.config import BaseConfig, LensConfig, MegaContextConfig, ModelConfig, RunConfig, TokenizerConfig
from mccore.events import METRICS, Event, EventWriter
from mccore.events.metrics import FIGURES, figures_of, metrics_of, panels_of
from mccore.report.evaluation import read_evaluation
from mccore.report.megacontext import describe_series
from mccore.report.pages.megacontext import render_megacontext
from mccore.report.plots.megacontext import draw_curves, draw_megacontext
from mccore.report.write import write_report
from mccore.runs.rundir import RunDir
from mccore.runs.series import (
    refocus_curves,
    step_metrics,
    training_series,
)
from mccore.scaling.derive import derive

STEPS = 40
TABLE = [
    {"condition": "window", "nll": 2.8, "stderr": 0.05, "delta": 0.0, "delta_stderr": 0.0, "gap_closed": None},
    {"condition": "LensNet", "nll": 2.6, "stderr": 0.05, "delta": -0.2, "delta_stderr": 0.01, "gap_closed": 0.625},
]
CONTEXT = {
    "table": TABLE,
    "focus": {"LensNet": {"spearman": 0.61, "recall@8": 0.72}, "recency": {"spearman": 0.1}},
    "by_distance": [{"condition": "LensNet", "from": 0, "to": 1024, "delta": 0.02, "stderr": 0.01, "tokens": 99},
                    {"condition": "LensNet", "from": 1024, "to": None, "delta": 0.08, "stderr": 0.01, "tokens": 9},
                    {"condition": "LensNet", "from": None, "to": None, "delta": 0.01, "stderr": 0.005, "tokens": 70}],
    "by_lod": [{"lod": 0, "delta": 0.01, "stderr": 0.01}, {"lod": 2, "delta": 0.2, "stderr": 0.02}],
    "differences": {"lens - recency": {"mean": -0.05, "stderr": 0.01, "n": 9}, "lens - window": {"mean": 1, "stderr": 1},
                    "lens - bm25": None},
    "sequences": 120,
}  # fmt: skip


def make_run(root: Path, **settings: Any) -> RunDir:
    mc = {"enabled": True, "block_size": 8, "horizon": 16, **settings}
    config = derive(
        RunConfig(
            recipe="tiny",
            stages=("base", "base_eval", "report"),
            model=ModelConfig(depth=2, head_dim=16, n_embd=32, max_seq_len=128),
            tokenizer=TokenizerConfig(vocab_size=512),
            base=BaseConfig(tokens=10_000, batch_tokens=512),
            megacontext=MegaContextConfig.model_validate(mc),
        )
    )
    return RunDir.create(root / "runs", "r1", config)


def train(writer: EventWriter, steps: int, **extra: float) -> None:
    writer.emit("stage.start", stage="base", world_size=1, resumed_step=None, plan={})
    for step in range(1, steps + 1):
        metrics = {
            "loss": 9.0 / step, "token_loss": 4.0 / step, "lod_loss/0": 5.0 / step, "lod_loss/1": 6.0 / step,
            "gist_loss": 6.0 / step, "delta_nll": 0.5 - step / 50, "adv_delta": 1.0 / step, "wc_length": 100.0 - step,
            "variants_total": 8.0 * step, "mfu": 0.3, **extra,
        }  # fmt: skip
        writer.emit("step", stage="base", step=step, tokens=512 * step, metrics=metrics, steps=STEPS)


def evaluate(run: RunDir, writer: EventWriter) -> None:
    writer.emit("stage.start", stage="base_eval", world_size=1, resumed_step=None, plan={})
    for refocus in range(1, 31):
        metrics = dict.fromkeys(metrics_of("refocus"), 0.5) | {"swap_rate": 0.1, "dwell": 4.0, "dwell/p95": 9.0}
        writer.emit("focus_allocator", stage="base_eval", session="s", refocus=refocus, metrics=metrics)
    runs = [(2, 3), (1, 4), (0, 40)]
    for _ in range(40):
        writer.emit("working_context_snapshot", stage="base_eval", entries=47, budget=64, block_size=8, runs=runs)
    writer.emit("mc_tree_snapshot", stage="base_eval", history=264, nodes=[264, 33, 4], bytes=20_480)
    writer.emit("mc_timing", stage="base", build_ms=3.0, total_ms=80.0, synchronised=True)
    writer.emit("mc_timing", stage="base", build_ms=5.0, total_ms=90.0, lens_loss_ms=None)
    base = {"step": 40, "val_loss": 2.75, "val_bpb": 1.0625, "tokens": 10, "bytes": 40, "samples": []}
    run.write_result("base_eval", {**base, "context": CONTEXT})


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    clock = itertools.count(0.0, 30.0)
    monkeypatch.setattr("time.time", lambda: next(clock))
    run = make_run(tmp_path, num_random_variants=4, lens=LensConfig(target="both"), distill_weight=0.1)
    with EventWriter(run.events_dir / "rank0.jsonl") as writer:
        lens = {
            "lens_loss": 0.05,
            "lens_gain": 0.4,
            "question_loss": 0.4,
            "preference_loss": 0.6,
            "preference_agreement": 0.7,
        }
        train(writer, STEPS, **lens, preference_corr=-0.7, distill_loss=0.1, host_syncs=1.0)
        writer.emit("delta_nll", stage="base", step=40, tokens=512 * 40, metrics={"delta_nll": 0.3}, horizon=16)
        result = {"step": 40, "steps": 40, "tokens": 512 * 40, "flops": 5e9, "val_loss": 2.75, "val_bpb": 1.125}
        run.write_result("base", result)
        evaluate(run, writer)
    return run


def read(run: RunDir) -> tuple[str, dict[str, Any], list[str]]:
    paths = write_report(run)
    return paths.markdown.read_text(), json.loads(paths.json.read_text()), [path.name for path in paths.plots]


def told(data: dict[str, Any]) -> dict[str, str]:
    return {entry["what"]: entry["why"] for entry in data["megacontext"]["missing"]}


def test_a_run_with_everything(finished: RunDir) -> None:
    text, data, plots = read(finished)
    drawn = [
        *(f"{figure}.png" for figure in figures_of("objective")),
        "mc_controller.png",
        "mc_focus_base_eval.png",
        "mc_where_base_eval.png",
        "mc_map_base_eval.png",
    ]
    assert plots[-len(drawn) :] == drawn
    for name in drawn:
        assert f"]({name})" in text
    for expected in (
        "| tree | blocks of 8, up to LOD2, `ram` |", "| GistNet, LensNet | transformer; learns both |",
        "| `token_loss` | 0.104 | nat |  |", "| `variants_total` | 320 | variant |  |",
        "| `delta_nll` | -0.27 | nat/token | at most 0.1 |",
        "| `delta_nll/evaluated` | **0.3** | nat/token | at most 0.1 |", "| base | 4 | 85 |",
        "| `swap_rate` | base_eval | 30 | 0.1 | 0.1 | 0.1 | 0.05 to 0.2 |",
        "| base_eval | tree | 264 tokens, 20.0 KiB | LOD0: 264, LOD1: 33, LOD2: 4 |",
        "| Working Context | 47 of 64 entries | LOD0: 40 for 40 tokens, LOD1: 4 for 32 tokens, LOD2: 3 for 192 tokens |",
        "| LensNet | 2.6000 ± 0.0500 | -0.2000 ± 0.0100 | -20.0 | 62% |",
        "| policy | spearman | recall@8 |", "| recency | 0.1 |  |", "Sequences 120.",
        "| lens - recency | -0.0500 ± 0.0100 | -5.0 |",
        "| tokens back | LensNet | tokens |", "| 0 to 1,023 | +0.0200 ± 0.0100 | 99 |",
        "| 1,024 and more | +0.0800 ± 0.0100 | 9 |", "| nowhere | +0.0100 ± 0.0050 | 70 |",
        "| shown as | delta NLL | tokens |", "| LOD2 | +0.2000 ± 0.0200 |",
        "| training loss (nat) | whole objective (nat) |", "| 0.1134 | 0.2552 |",
        "| **`mfu`** | base | 0.3 at step 11 | 0.4 to 1 | 1970-01-01 00:00:30 UTC | the end | data_wait",
        "| **`thrash`** | base_eval | 0.5 | 0 to 0.05 |",
    ):  # fmt: skip
        assert expected in text, expected
    assert told(data) == {"recon_loss": "megacontext.recon_weight is 0"}
    assert not [entry for entry in data["missing"] if entry["what"].startswith("MegaContext")]
    derived = data["megacontext"]["derived"]
    assert derived["flops_per_token"]["total"] > data["model"]["flops_per_token"]


def test_a_run_that_was_cut_short_says_what_it_lacks(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with EventWriter(run.events_dir / "rank0.jsonl") as writer:
        train(writer, 4)
    text, data, plots = read(run)
    missing = told(data)
    assert missing["lens_loss, lens_gain, question_loss"].startswith("LensNet is trained from 20% of a stage on")
    assert missing["preference_loss, preference_corr, preference_agreement"] == "megacontext.lens.target is attention"
    assert missing["evaluation of focus"] == "no stage that evaluates it was finished"
    assert "no refocus of a session was recorded" in missing[", ".join(metrics_of("refocus"))]
    assert "| MegaContext: evaluation of focus | no stage that evaluates it was finished |" in text
    assert "mc_loss.png" in plots
    assert "mc_lens.png" not in plots
    assert "mc_controller.png" not in plots


def test_a_run_that_never_trained(tmp_path: Path) -> None:
    text, data, plots = read(make_run(tmp_path))
    assert told(data)["curves of MegaContext training"] == "no step of base was recorded"
    assert plots == []
    assert "Training with it" not in text


@pytest.mark.parametrize(
    ("settings", "name", "why"),
    [
        ({"num_random_variants": 0}, "lod_loss", "num_random_variants is 0"),
        ({"lens": {"loss_weight": 0.0}}, "lens_loss", "lens.loss_weight is 0"),
        ({"lens": {"target": "preference"}, "num_random_variants": 4}, "lens_loss", "lens.target is preference"),
    ],
)
def test_what_is_switched_off_is_named_with_its_setting(tmp_path: Path, settings: Any, name: str, why: str) -> None:
    run = make_run(tmp_path, **settings)
    with EventWriter(run.events_dir / "rank0.jsonl") as writer:
        writer.emit("step", stage="base", step=1, tokens=512, metrics={"wc_length": 9.0, "loss": 1.0}, steps=1)
    found = {each: reason for names, reason in told(read(run)[1]).items() for each in names.split(", ")}
    assert why in found[name]


def test_a_plain_run_has_no_section(tmp_path: Path) -> None:
    run = make_run(tmp_path, enabled=False)
    with EventWriter(run.events_dir / "rank0.jsonl") as writer:
        metrics = {"loss": 3.0, "token_loss": 3.0, "mfu": 0.2}
        for step in range(1, 4):
            writer.write(Event("step", 200.0 * step, 0, "base", step, 512 * step, metrics, {"steps": 3}))
    text, data, plots = read(run)
    assert data["megacontext"] is None
    assert "## MegaContext\n\nNot part of this run." in text
    assert not [name for name in plots if name.startswith("mc_")]
    (alert,) = data["alerts"]
    assert (alert["metric"], alert["value"], alert["band"], alert["step"]) == ("mfu", 0.2, [0.4, 1.0], 3)
    assert (alert["began"], alert["seconds"], alert["until"]) == ("1970-01-01 00:03:20 UTC", 400.0, None)
    assert "| **`mfu`** | base | 0.2 at step 3 | 0.4 to 1 | 1970-01-01 00:03:20 UTC | the end | data_wait" in text


def test_every_metric_of_megacontext_has_its_panel() -> None:
    mine = [row for row in METRICS.values() if row.scope == "mc" or row.plain]
    assert [row.name for row in mine if row.group not in ("objective", "refocus")] == []
    panels = [
        panel for group in ("objective", "refocus") for figure in figures_of(group) for panel in panels_of(figure)
    ]
    assert sorted(name for panel in panels for name in panel.families) == sorted(row.name for row in mine)
    assert {panel.band for panel in panels if panel.band} == {row.name for row in mine if row.band is not None}


def test_pictures_and_panels_come_from_the_rows_alone() -> None:
    drawn = [row for row in METRICS.values() if row.figure]
    assert {row.figure for row in drawn} == set(FIGURES)
    assert [row.name for row in drawn if not row.axis or not row.group] == []
    beside = [row for row in drawn if sum(other.axis == row.axis and other.figure == row.figure for other in drawn) > 1]
    assert [row.name for row in beside if not (row.label or row.labels) and row.group != "training"] == []


# --- bands -------------------------------------------------------------------------------------------------------------


def points(*values: float) -> list[tuple[float, float]]:
    return [(float(place), value) for place, value in enumerate(values)]


def test_bands_by_hand() -> None:
    series = {"base": {"delta_nll": points(0.3, 0.2, math.nan, 0.05, 0.0), "variants_total": points(*range(1, 31))}}
    delta, total = describe_series(series)
    assert (delta["metric"], delta["points"], delta["first"], delta["end"], delta["outside"]) == (
        "delta_nll",
        4,
        0.3,
        0.0,
        0.5,
    )
    assert delta["band"] == [None, 0.1]
    assert delta["end_outside"] is False
    assert (total["end"], total["band"]) == (30, None)
    assert describe_series({"base": {"dwell/p95": points(0.1)}})[0]["band"] is None
    assert describe_series({"base": {"dwell": points(0.1)}})[0]["end_outside"] is True


def test_curves_of_steps_and_refocuses() -> None:
    step = Event("step", 0.0, stage="base", metrics={"lod_loss/1": 2.0, "loss": 1.0, "grad_norm": 3.0})
    assert step_metrics(step) == {"lod_loss/1": 2.0}
    assert training_series({"base": {"token_loss": points(1.0)}, "mid": {"wc_length": points(1.0)}}).keys() == {"mid"}
    events = [
        Event("focus_allocator", 0.0, stage="s", metrics={"swap_rate": 0.1, "dwell": math.nan}),
        Event("focus_allocator", 1.0, rank=1, stage="s", metrics={"swap_rate": 0.9}),
        Event("inference_update", 2.0, stage="s", metrics={"tokens_per_second": 5.0}),
        Event("focus_allocator", 3.0, stage="s", metrics={"swap_rate": 0.2, "dwell": 3.0}),
    ]
    training = [
        Event("focus_allocator", 9.0, stage="base", tokens=n, metrics={"thrash": n / 100}) for n in (1, 2, 3, 2)
    ]
    assert refocus_curves(training) == {"base": {"thrash": [(1.0, 0.01), (2.0, 0.02)]}}
    assert set(draw_megacontext({}, refocus_curves([*training, *events]), {}, {})) == {
        "mc_controller_training.png",
        "mc_controller.png",
    }
    assert refocus_curves(events) == {"s": {"swap_rate": [(1.0, 0.1), (2.0, 0.2)], "dwell": [(2.0, 3.0)]}}


@pytest.mark.parametrize(
    ("metric", "values", "low", "high"),
    [
        ("swap_rate", [0.01, 0.02], 0.0, 0.1),  # the band is far off: the curve keeps its scale
        ("swap_rate", [0.1, 0.15, 0.3], 0.0, 0.5),
        ("residency", [0.85, 0.95], 0.8, 1.2),
        ("thrash", [0.0], -0.1, 0.2),
    ],
)
def test_a_band_never_squeezes_the_curve(metric: str, values: list[float], low: float, high: float) -> None:
    axes = Figure().subplots()
    draw_curves(axes, {metric: points(*values)}, {metric: "k"}, metric)
    bottom, top = axes.get_ylim()
    assert low <= bottom <= min(values)
    assert max(values) <= top <= high
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any(label.startswith("expected") for label in labels)


# --- evaluations of any shape ------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["condition", "delta", "nll", "from", "lod", "mean", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["table", "focus", "differences", "by_distance", "by_lod", "note"]), json_values)
)
@settings(deadline=None, max_examples=150)
def test_an_evaluation_of_any_shape_is_worded(context: dict[str, Any]) -> None:
    found = read_evaluation(context)
    json.dumps(found, allow_nan=False)
    section = {
        "enabled": False, "settings": {}, "derived": None, "steps": [], "refocuses": [], "timing": {}, "trees": {},
        "contexts": {}, "evaluations": {"base_eval": found}, "missing": [],
    }  # fmt: skip
    assert "### Evaluation of focus, base_eval" in "\n".join(render_megacontext({"megacontext": section}))


def test_an_evaluation_with_holes_is_drawn() -> None:
    context = {
        "table": [
            {"condition": "a", "delta": 0.1},
            {"delta": math.inf},
            {"condition": "b", "delta": -1, "delta_stderr": None},
        ],
        "by_distance": [
            {"from": 0, "delta": 1.0},
            {"delta": 2.0},
            {"condition": "b", "from": 9, "to": 99, "delta": 0.1},
        ],
        "by_lod": [{"lod": 1}],
    }
    images = draw_megacontext({}, {}, {"e": read_evaluation(context)}, {})
    assert set(images) == {"mc_focus_e.png", "mc_where_e.png"}
    assert draw_megacontext({}, {}, {"e": read_evaluation({})}, {"s": [Event("working_context_snapshot", 0.0)]}) == {}
