"""Events: the file format, the schema, crash-safe writing, tailing."""

from __future__ import annotations

import errno
import inspect
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mccore.errors import RunError
from mccore.events import (
    EVENT_TYPES,
    METRICS,
    Event,
    EventTail,
    EventWriter,
    check_event,
    finite,
    last_metrics,
    metric,
    read_events,
)
from mccore.events.event import _read_slowly
from mccore.events.metrics import _ROWS
from mccore.events.page import render_page

text = st.text(st.characters(), max_size=20)  # lone surrogates included
numbers = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**60), 2**60)


class TestFormat:
    @given(
        st.floats(0, 4e9),
        st.integers(0, 64),
        st.none() | st.integers(0, 2**60),
        st.dictionaries(st.sampled_from(sorted(METRICS)), st.floats(allow_nan=False, allow_infinity=False)),
        st.dictionaries(st.sampled_from(["prompt", "text"]), st.text(st.characters(exclude_categories=["Cs"]))),
    )
    def test_round_trip(self, moment, rank, step, metrics, data):
        event = Event("step", round(moment, 6), rank, "base", step, None, metrics, data)
        assert Event.from_json(event.to_json()) == event

    @given(st.dictionaries(text, numbers | text | st.lists(numbers)))
    def test_any_data_is_one_line_of_standard_json(self, tmp_path_factory, data):
        path = tmp_path_factory.mktemp("events") / "rank0.jsonl"
        with EventWriter(path) as writer:
            writer.emit("stage.end", results=data)
        lines = path.read_bytes().splitlines()
        assert len(lines) == 1

        def refuse(constant):
            raise AssertionError(constant)

        json.loads(lines[0].decode("utf-8"), parse_constant=refuse)

    def test_numbers_that_arent_finite(self):
        event = Event("step", 1.0, metrics={"loss": math.nan}, data={"plan": {"a": [math.inf]}})
        again = Event.from_json(event.to_json())
        assert math.isnan(again.metrics["loss"])
        assert again.data == {"plan": {"a": [None]}}
        assert finite({1: (math.nan, 2)}) == {"1": [None, 2]}

    @pytest.mark.parametrize(
        "line",
        ["", "null", "[]", "{}", '{"type":1}', '{"type":"step","metrics":[1]}', '{"type":"step","data":[1]}',
         '{"type":"step","time":"x"}', '{"type":"step","metrics":{"loss":"x"}}'],
    )  # fmt: skip
    def test_what_isnt_an_event(self, line):
        with pytest.raises((ValueError, TypeError)):
            Event.from_json(line)

    def test_fields_of_a_newer_version_are_left_out(self):
        assert Event.from_json('{"type":"step","time":1,"v":9,"colour":"red"}').v == 9

    @given(st.data())
    def test_the_quick_reader_gives_what_the_slow_one_gives(self, data):
        """Odd values in every field: both refuse a line, or both give the same event."""
        odd = st.sampled_from(
            ["null", "true", "1", "-1", "-0", "1.0", "1e400", "1e-400", "9223372036854775807", "9223372036854775808",
             "1" * 30, "NaN", '"x"', '"\\ud800"', '"\\ud83d\\ude00"', "[]", "{}", '{"loss":1}', '{"loss":null}',
             '{"loss":true}', '{"steps":3}', '{"steps":"3"}', '{"steps":1.5}', '{"steps":3,"steps":4}', '{"plan":[NaN]}']
        )  # fmt: skip
        fields = st.sampled_from([*Event.__struct_fields__, "colour"])
        chosen = data.draw(st.lists(st.tuples(fields, odd), max_size=5))
        line = "{" + ",".join(f'"{name}":{value}' for name, value in [("type", '"step"'), ("time", "1"), *chosen]) + "}"

        def outcome(read):
            try:
                return repr(read(line.encode()))  # NaN isn't equal to itself
            except ValueError:
                return "refused"

        assert outcome(Event.from_json) == outcome(_read_slowly)

    @given(
        st.recursive(
            st.none() | st.booleans() | numbers | text,
            lambda inner: st.lists(inner) | st.dictionaries(text, inner),
            max_leaves=8,
        )
    )
    def test_the_quick_writer_says_what_the_slow_one_says(self, value):
        event = Event("eval", 1.0, metrics={"loss": 1.5}, data={"details": {"x": value}})
        slow = json.loads(json.dumps(finite(value)))
        assert json.loads(event.to_bytes())["data"]["details"]["x"] == slow

    @pytest.mark.parametrize("value", [np.float64(1.5), 2**70, {1: 2}, (1, 2), "\ud800"])
    def test_values_that_the_quick_writer_leaves_to_the_slow_one(self, value):
        event = Event("eval", 1.0, metrics={"loss": np.float64(2.5)}, data={"details": {"x": value}})
        again = json.loads(event.to_bytes())
        assert again["metrics"]["loss"] == 2.5
        assert again["data"]["details"]["x"] == json.loads(json.dumps(value))


class TestSchema:
    def test_unknown_types_metrics_and_data(self):
        with pytest.raises(ValueError, match="unknown event type"):
            check_event(Event("nonsense", 0.0))
        with pytest.raises(ValueError, match="not in METRICS"):
            check_event(Event("step", 0.0, metrics={"nonsense": 1.0}))
        with pytest.raises(ValueError, match="carries no metrics"):
            check_event(Event("sample", 0.0, metrics={"loss": 1.0}))
        with pytest.raises(ValueError, match="unknown data"):
            check_event(Event("step", 0.0, data={"nonsense": 1}))

    @pytest.mark.parametrize(
        ("type", "data"),
        [
            ("run.start", {"pid": "1"}),
            ("run.start", {"pid": True}),
            ("run.start", {"pid": 1.0}),
            ("run.start", {"resumed": 1}),
            ("run.start", {"stages": "base"}),
            ("run.end", {"message": 3}),
            ("checkpoint", {"seconds": "1"}),
            ("checkpoint", {"seconds": 2**1001}),
            ("eval", {"details": []}),
        ],
    )
    def test_data_of_another_kind(self, type, data):
        with pytest.raises(ValueError, match="not of kind"):
            check_event(Event(type, 0.0, data=data))

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_number_need_not_be_finite(self, value):
        check_event(Event("checkpoint", 0.0, data={"seconds": value}))

    def test_any_field_may_be_unknown(self):
        for kind in EVENT_TYPES.values():
            check_event(Event(kind.name, 0.0))
            check_event(Event(kind.name, 0.0, data=dict.fromkeys(kind.data)))

    def test_a_cut_and_a_refocus_go_through_the_file(self, tmp_path):
        with EventWriter(tmp_path / "rank0.jsonl") as writer:
            writer.emit("working_context_snapshot", history=320, entries=72, block_size=32, runs=[(1, 8), (0, 64)])
            writer.emit(
                "focus_allocator",
                metrics={"swap_rate": 0.1, "residency": 0.95, "dwell": 4.0, "dwell/p95": 9.0, "thrash": 0.0},
                expand=[(1, 2)],
                collapse=[(1, 7)],
                scores={"min": -0.5, "max": 0.5},
            )
        cut, refocus = read_events(tmp_path)
        assert cut.data["runs"] == [[1, 8], [0, 64]]
        assert refocus.data["expand"] == [[1, 2]]
        assert refocus.metrics["dwell/p95"] == 9.0

    def test_the_page_is_what_the_code_says(self):
        page = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
        assert page == render_page(), "write it again: python -m mccore.events.page > docs/events.md"
        for name in (*EVENT_TYPES, *METRICS):
            assert f"`{name}`" in page

    def test_a_family_shares_its_definition(self):
        assert metric("lod_loss/2") is METRICS["lod_loss"]
        with pytest.raises(KeyError):
            metric("nonsense/2")

    def test_every_type_and_metric_is_described(self):
        assert len(METRICS) == len(_ROWS)
        assert all(
            kind.description and all(field.meaning for field in kind.data.values()) for kind in EVENT_TYPES.values()
        )
        # `emit` takes data by name, beside its own parameters.
        own = set(inspect.signature(EventWriter.emit).parameters)
        assert not [kind.name for kind in EVENT_TYPES.values() if own & set(kind.data)]
        assert all(row.definition and row.unit for row in METRICS.values())


class TestWriter:
    def test_a_line_torn_by_a_crash_is_ended(self, tmp_path):
        path = tmp_path / "rank0.jsonl"
        path.write_bytes(b'{"type":"step","ti')
        with EventWriter(path) as writer:
            writer.emit("step", step=1)
        assert [event.step for event in read_events(tmp_path)] == [1]

    def test_the_reserve_goes_with_the_writer(self, tmp_path):
        with EventWriter(tmp_path / "rank0.jsonl"):
            assert (tmp_path / ".rank0.jsonl.reserve").stat().st_size == 65536
        assert [path.name for path in tmp_path.iterdir()] == ["rank0.jsonl"]

    def test_an_event_outside_the_schema_isnt_written(self, tmp_path):
        with EventWriter(tmp_path / "rank0.jsonl") as writer, pytest.raises(ValueError, match="unknown"):
            writer.emit("nonsense")
        assert read_events(tmp_path) == []

    def test_a_place_that_cant_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match="can't write events"):
            EventWriter(tmp_path / "file" / "rank0.jsonl")

    @pytest.mark.parametrize("call", ["write", "fsync"])
    def test_a_disk_without_even_the_reserve(self, tmp_path, monkeypatch, call):
        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with EventWriter(tmp_path / "rank0.jsonl") as writer:
            monkeypatch.setattr(os, call, full)
            with pytest.raises(RunError, match="can't write events") as caught:
                writer.emit("step", step=1, durable=True)
        assert "full" in caught.value.hint


class TestTail:
    def test_each_poll_returns_what_is_new_in_the_order_of_time(self, tmp_path):
        tail = EventTail(tmp_path)
        assert tail.poll() == []
        with EventWriter(tmp_path / "rank0.jsonl") as one, EventWriter(tmp_path / "rank1.jsonl", rank=1) as two:
            one.write(Event("step", 3.0, step=3))
            two.write(Event("step", 2.0, 1, step=2))
            assert [event.step for event in tail.poll()] == [2, 3]
            assert tail.poll() == []
            one.write(Event("step", 4.0, step=4))
            assert [event.step for event in tail.poll()] == [4]

    def test_a_line_in_the_making_waits(self, tmp_path):
        path = tmp_path / "rank0.jsonl"
        line = Event("step", 1.0, step=7).to_json().encode()
        path.write_bytes(line[:20])
        tail = EventTail(tmp_path)
        assert tail.poll() == []
        with open(path, "ab") as file:
            file.write(line[20:] + b"\n")
        assert [event.step for event in tail.poll()] == [7]

    def test_skip_passes_over_what_there_is(self, tmp_path):
        with EventWriter(tmp_path / "rank0.jsonl") as writer:
            writer.emit("step", step=1)
            tail = EventTail(tmp_path)
            tail.skip()
            writer.emit("step", step=2)
        assert [event.step for event in tail.drain()] == [2]

    @given(st.lists(st.sampled_from([b"junk", b"", b'{"type":"step","step":1}']), max_size=30), st.integers(1, 60))
    def test_junk_is_counted_and_hides_nothing(self, tmp_path_factory, lines, chunk):
        directory = tmp_path_factory.mktemp("events")
        (directory / "rank0.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        tail = EventTail(directory, chunk_bytes=chunk)
        assert len(list(tail.drain())) == sum(line.startswith(b"{") for line in lines)
        assert tail.skipped == lines.count(b"junk")

    def test_a_replaced_file_is_read_again(self, tmp_path):
        path = tmp_path / "rank0.jsonl"
        path.write_text((Event("step", 1.0, step=1).to_json() + "\n") * 3)
        tail = EventTail(tmp_path)
        assert len(tail.poll()) == 3
        path.write_text(Event("step", 1.0, step=9).to_json() + "\n")
        assert [event.step for event in tail.poll()] == [9]


def test_last_metrics():
    events = [Event("step", 1.0, metrics={"loss": 3.0, "mfu": 0.1}), Event("step", 2.0, metrics={"loss": 2.0})]
    assert last_metrics(events) == {"loss": 2.0, "mfu": 0.1}
