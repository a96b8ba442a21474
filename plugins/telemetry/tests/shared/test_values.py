import math
import re

from mccore_telemetry.shared.names import otel_name, prometheus_name
from mccore_telemetry.shared.values import EXTRA, ROWS, SECONDS, Values, by_metric

from mccore.events import METRICS, Event

from ..events import BEGAN, every_metric, run_events, step


def values_of(values: Values, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    return {sample.labels: sample.value for sample in by_metric(values.samples(BEGAN)).get(name, [])}


def test_the_newest_value_of_every_series_counts() -> None:
    values = Values()
    for event in (step(1), step(2), step(1, rank=1, loss=9.0)):
        values.record(event)
    assert values_of(values, "loss") == {
        (("rank", "0"), ("stage", "base")): 3.8,
        (("rank", "1"), ("stage", "base")): 9.0,
    }


def test_every_metric_has_the_value_that_was_emitted() -> None:
    values = Values()
    event = every_metric()
    values.record(event)
    found = by_metric(values.samples())
    for name, row in METRICS.items():
        if row.kind == "histogram":
            assert name not in found
        elif name not in ("heartbeat", "val_loss"):  # one is an age, the other NaN
            assert event.metrics[name] in [sample.value for sample in found[name]], name
    assert math.isnan(values_of(values, "val_loss")[(("rank", "0"), ("stage", "base"))])
    assert values_of(values, "lod_loss")[(("part", "1"), ("rank", "0"), ("stage", "base"))] == -math.inf


def test_histograms_count_by_bound() -> None:
    values = Values()
    for seconds in (0.05, 0.051, 400.0, math.nan):
        values.record(step(step_duration=seconds))
    ((row, _, histogram),) = values.histograms()
    assert row.name == "step_duration"
    assert histogram.sum == 400.101
    assert sum(histogram.counts) == 3
    assert histogram.counts[SECONDS.index(0.05)] == 1, "a bound belongs to its bucket"
    assert histogram.counts[SECONDS.index(0.05) + 1] == 1
    assert histogram.counts[-1] == 1


def test_a_run_says_more_than_its_metrics() -> None:
    values = Values()
    for event in run_events():
        values.record(event)
    base = (("rank", "0"), ("stage", "base"))
    assert values_of(values, "stage_active")[base] == 0
    assert values_of(values, "stage_duration")[base] == 6.0
    assert values_of(values, "checkpoint_size")[base] == 1000
    alerts = values_of(values, "alerts_total")
    assert alerts.pop((("metric", "swap_rate"),)) == 1
    assert set(alerts.values()) == {0}, "no alert yet, and not no data"
    assert values_of(values, "run_active") == {(): 0}
    assert values_of(values, "last_success_timestamp") == {(): BEGAN + 8}
    assert values_of(values, "events_total")[(("type", "stage.start"),)] == 2


def test_the_heartbeat_is_the_age_of_the_newest_event() -> None:
    values = Values()
    values.record(Event("sample", 4e9))
    assert [sample.value for sample in values.samples(4e9 + 30) if sample.row.name == "heartbeat"] == [30.0]
    other = values.samples(4e9 + 30, newest=4e9 + 20)  # another rank of the run
    assert [sample.value for sample in other if sample.row.name == "heartbeat"] == [10.0]


def test_unmeasured_timings_and_sizes_are_left_out() -> None:
    values = Values()
    values.record(Event("checkpoint", BEGAN, stage="base", data={"bytes": None}))
    values.record(
        Event("mc_timing", BEGAN, stage="base", data={"total_ms": 12.0, "build_ms": None, "synchronised": True})
    )
    assert not values_of(values, "checkpoint_size")
    assert values_of(values, "timing") == {(("part", "total"), ("rank", "0"), ("stage", "base")): 0.012}


def test_no_two_names_meet() -> None:
    assert not set(EXTRA) & set(METRICS)
    for name_of in (otel_name, prometheus_name):
        assert len({re.sub(r"\W", "_", name_of(row)) for row in ROWS.values()}) == len(ROWS)
