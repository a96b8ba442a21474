"""Alerts: what stays outside its band, once; the same live and afterwards."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mccore.events import METRICS, Alert, AlertWatch, Event, check_event, find_alerts
from mccore.events.alerts import VALUES_IN_A_ROW, band_words, describe_alert

BANDED = {name: row for name, row in METRICS.items() if row.band is not None and name != "heartbeat"}


def step(time: float, stage: str = "base", rank: int = 0, **metrics: float) -> Event:
    return Event("step", time, rank, stage, int(time), int(time) * 512, metrics)


def outside(name: str) -> float:
    low, high = METRICS[name].band or (0, 0)
    return high + 1 if math.isfinite(high) else low - 1


def inside(name: str) -> float:
    low, high = METRICS[name].band or (0, 0)
    return high if math.isfinite(high) else low


def fires(alerts: list[Alert]) -> list[tuple[str, float, float]]:
    return [(alert.metric, alert.began, alert.fired) for alert in alerts]


# --- one metric ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BANDED)
def test_a_metric_that_stays_outside_is_an_alert_once(name: str) -> None:
    hold = METRICS[name].hold
    events = [step(100 + hold * part / 4, **{name: outside(name)}) for part in range(12)]
    assert fires(find_alerts(events)) == [(name, 100, 100 + hold)]


@pytest.mark.parametrize("name", BANDED)
def test_one_spike_is_none_however_rare_values_are(name: str) -> None:
    hold = METRICS[name].hold
    values = [outside(name) if at % 3 == 2 else inside(name) for at in range(12)]
    assert find_alerts([step(at * 2 * hold, **{name: value}) for at, value in enumerate(values)]) == []
    pairs = [outside(name) if at % 3 else inside(name) for at in range(12)]
    assert find_alerts([step(at * 2 * hold, **{name: value}) for at, value in enumerate(pairs)]) == []


def test_many_values_in_no_time_are_none_either() -> None:
    assert find_alerts([step(100 + at / 100, swap_rate=0.9) for at in range(1000)]) == []


def test_nan_and_infinity_say_nothing() -> None:
    bad = [math.nan, math.inf, -math.inf]
    assert find_alerts([step(at * 100, swap_rate=bad[at % 3]) for at in range(12)]) == []
    with_gaps = [0.9, math.nan, 0.9, math.nan, 0.9]
    (alert,) = find_alerts([step(at * 100, swap_rate=value) for at, value in enumerate(with_gaps)])
    assert (alert.began, alert.fired) == (0, 400), "what isn't known neither counts nor clears"


def test_an_alert_ends_and_comes_again() -> None:
    values = [0.9] * 4 + [0.1] + [0.9] * 4
    first, second = find_alerts([step(at * 100, swap_rate=value) for at, value in enumerate(values)])
    assert (first.began, first.fired, first.until) == (0, 200, 400)
    assert (second.began, second.fired, second.until) == (500, 700, None)


def test_a_band_is_of_the_metric_itself_and_of_rank_0() -> None:
    assert find_alerts([step(at * 100, **{"dwell/p95": 0.1}) for at in range(12)]) == []
    assert find_alerts([step(at * 100, rank=1, swap_rate=0.9) for at in range(12)]) == []


def test_what_an_evaluation_makes_bad_on_purpose_is_none() -> None:
    events = [
        Event("delta_nll", at * 1000, stage="base_eval", metrics={"delta_nll": 9.0}, data={"condition": "random"})
        for at in range(9)
    ]
    assert find_alerts(events) == []


def test_stages_and_starts_are_judged_apart() -> None:
    bad = {"swap_rate": 0.9}
    assert find_alerts([step(0, "base", **bad), step(100, "base", **bad), step(200, "mid", **bad)]) == []
    again = Event("stage.start", 150, stage="base")
    assert find_alerts([step(0, **bad), step(100, **bad), again, step(200, **bad)]) == []


# --- heartbeat -----------------------------------------------------------------------------------------------------------

START, END = Event("run.start", 0.0, data={"pid": 1}), Event("run.end", 5000.0, data={"outcome": "finished"})


def test_a_run_that_falls_silent_is_an_alert_live_and_afterwards() -> None:
    live = AlertWatch()
    live.feed(START)
    assert live.tick(899) == []
    (alert,) = live.tick(902)
    assert fires([alert]) == [("heartbeat", 0, 900)]
    assert live.tick(5000) == []
    live.feed(step(1500, loss=1.0))
    assert live.alerts[0].until == 1500
    assert find_alerts([START, step(1500, loss=1.0)]) == live.alerts
    assert find_alerts([START], now=902) == live.alerts
    assert find_alerts([START], now=899) == []


def test_what_is_said_about_a_run_is_no_sign_of_life() -> None:
    said = [Event(kind, 890.0) for kind in ("alert", "telemetry")]
    assert fires(find_alerts([START, *said], now=902)) == [("heartbeat", 0, 900)]


def test_a_pause_between_two_starts_is_no_silence() -> None:
    events = [START, Event("run.end", 10.0), Event("run.start", 9000.0), Event("run.end", 9010.0)]
    assert find_alerts(events, now=99999) == []
    assert find_alerts([START, Event("run.start", 9000.0), Event("run.end", 9010.0)]) == []


# --- live and afterwards -------------------------------------------------------------------------------------------------

VALUES = st.sampled_from([0.1, 0.9, 0.0, 0.95, math.nan, math.inf])
GAPS = st.sampled_from([0.0, 0.5, 30.0, 61.0, 130.0, 650.0, 899.0, 905.0, 2000.0])
STEPS = st.builds(
    lambda gap, stage, kind, rank, values: (gap, stage, kind, rank, values),
    GAPS,
    st.sampled_from(["base", "mid"]),
    st.sampled_from(["step", "step", "step", "focus_allocator", "stage.start", "run.start", "run.end", "checkpoint"]),
    st.sampled_from([0, 0, 1]),
    st.dictionaries(st.sampled_from(["swap_rate", "residency", "thrash"]), VALUES),
)


@given(st.lists(STEPS, max_size=60), st.lists(st.booleans(), min_size=60, max_size=60))
def test_live_and_afterwards_give_the_same_alerts(drawn: list[tuple], ticks: list[bool]) -> None:
    events, now = [Event("run.start", 0.0)], 0.0
    for gap, stage, kind, rank, values in drawn:
        now += gap
        events.append(Event(kind, now, rank, stage, 1, 512, values if kind in ("step", "focus_allocator") else {}))
    live = AlertWatch()
    fired = []
    for event, tick in zip(events, [*ticks, True], strict=False):
        if event.type != "run.start":  # before a start nobody watches
            fired += live.tick(event.time - 0.001)
            fired += live.tick(event.time) if tick else []
        fired += live.feed(event)
    after = find_alerts([Event.from_json(event.to_json()) for event in events])
    assert fires(fired) == fires(after)
    assert [alert.until for alert in live.alerts] == [alert.until for alert in after]
    for name in ("swap_rate", "residency", "thrash"):
        seen = sum(1 for event in events if name in event.metrics and math.isfinite(event.metrics[name]))
        assert sum(alert.metric == name for alert in after) <= seen // VALUES_IN_A_ROW


# --- words ---------------------------------------------------------------------------------------------------------------


def test_every_band_says_what_to_look_at_next() -> None:
    assert [name for name, row in METRICS.items() if (row.band is None) == bool(row.advice)] == []


def test_an_alert_is_an_event_and_one_line() -> None:
    (alert,) = find_alerts([step(at * 100, swap_rate=0.9) for at in range(3)])
    check_event(Event("alert", 1.0, data=alert.data()))
    assert describe_alert(alert.data()) == (
        f"swap_rate is 0.9, expected 0.05 to 0.2, for 200 s; look at {METRICS['swap_rate'].advice}"
    )
    silent = AlertWatch()
    silent.feed(START)
    (alert,) = silent.tick(1000)
    assert describe_alert(alert.data()).startswith("no event for 900 s; look at logs")
    assert describe_alert({"metric": "of a newer version"})


def test_bands_in_words() -> None:
    assert [band_words(band) for band in (None, [], [None, 0.1], (3, math.inf), [0, 1], [-math.inf, math.inf])] == [
        "", "", "at most 0.1", "at least 3", "0 to 1", ""
    ]  # fmt: skip
