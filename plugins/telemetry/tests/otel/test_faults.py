"""Every way in which a collector or the way to it can fail: what is lost is counted, what isn't arrives once."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

import pytest
import trustme
from google.rpc.status_pb2 import Status
from mccore_telemetry.shared.identity import event_id

from mccore.api import EventsLost
from mccore.events import Event

from ..collectors import Answer, ToldCollector, attributes
from ..events import BEGAN, RUN_ID, run_events, step
from .conftest import events_lost, provider_of


def test_one_that_never_answers_is_left_at_the_deadline(tmp_path: Path, told: ToldCollector) -> None:
    told.answer = Answer(silent=True)
    provider = provider_of(told.address, tmp_path)
    for event in run_events():
        provider.record(event)
    began = time.monotonic()
    count, why = events_lost(provider, closing=True)
    assert time.monotonic() - began < 5.0  # one deadline for all signals: three of them take 7 s
    assert count == len(run_events())
    assert "timed out" in why


def test_a_slow_one_still_gets_all_signals_at_the_end(tmp_path: Path, told: ToldCollector) -> None:
    told.answer = Answer(seconds=1.0)
    provider = provider_of(told.address, tmp_path)
    for event in run_events():
        provider.record(event)
    provider.close()
    assert sorted(told.requests) == ["logs", "metrics", "traces"]
    assert len(told.received.spans) == 6


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_what_is_refused_for_good_is_lost_and_counted(tmp_path: Path, told: ToldCollector, status: int) -> None:
    told.answer = Answer(status)
    provider = provider_of(told.address, tmp_path)
    for event in run_events():
        provider.record(event)
    count, why = events_lost(provider)
    spans_and_logs = [event for event in run_events() if event.type not in ("stage.start", "step")]
    assert count == len(spans_and_logs)
    assert f"{status}" in why
    told.answer = Answer()
    provider.record(step(2))
    provider.close()
    assert float(told.received.points("mccore.train.loss")[-1]["asDouble"]) == step(2).metrics["loss"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Status(message="too many labels").SerializeToString(), "400 Bad Request: too many labels"),
        (b"<", "400 Bad Request"),
    ],
)
def test_the_words_of_a_refusal_are_told_where_there_are_any(
    tmp_path: Path, told: ToldCollector, content: bytes, said: str
) -> None:
    told.answer = Answer(400, headers={"Content-Type": "application/x-protobuf"}, content=content)
    provider = provider_of(told.address, tmp_path, metrics=False, logs=False)
    provider.record(Event("checkpoint", BEGAN, stage="base", data={"seconds": 0.1}))
    assert events_lost(provider)[1].endswith(said)


@pytest.mark.parametrize("status", [429, 503])
def test_what_may_be_sent_again_is_and_not_before_it_is_wanted(
    tmp_path: Path, told: ToldCollector, status: int
) -> None:
    told.answer = Answer(status, headers={"Retry-After": "60"})
    provider = provider_of(told.address, tmp_path)
    for event in run_events():
        provider.record(event)
    with pytest.raises(OSError, match=str(status)):
        provider.flush()
    asked = len(told.requests)
    with pytest.raises(OSError, match=str(status)):
        provider.flush()
    assert len(told.requests) == asked, "it isn't asked again within the time it named"
    told.answer = Answer()
    provider.close()
    assert len({span["spanId"] for span in told.received.spans}) == len(told.received.spans) == 6


def test_what_was_taken_though_nobody_said_so_can_be_told_from_others_when_it_comes_again(
    tmp_path: Path, told: ToldCollector
) -> None:
    told.answer = Answer(lost=True)
    provider = provider_of(told.address, tmp_path)
    for event in run_events():
        provider.record(event)
    with pytest.raises(OSError, match="closed connection"):
        provider.flush()
    told.answer = Answer()
    provider.close()
    spans = {span["spanId"] for span in told.received.spans}
    records = {attributes(log)["log.record.uid"] for log in told.received.logs}
    assert (len(told.received.spans), len(spans)) == (12, 6)
    assert (len(told.received.logs), len(records)) == (10, 5)
    # The id is the event's, so it is the same for whoever sends the run again.
    said = ("run.start", "alert", "stage.end", "run.end")
    assert records == {event_id(event, RUN_ID) for event in run_events() if event.type in said}


def test_what_is_too_large_is_sent_in_pieces_and_one_that_still_is_is_lost(tmp_path: Path, told: ToldCollector) -> None:
    provider = provider_of(told.address, tmp_path, metrics=False)
    told.limit_bytes = 2500
    for number in range(20):
        provider.record(Event("checkpoint", BEGAN + number, stage="base", data={"path": f"{number}", "seconds": 0.1}))
    provider.record(Event("checkpoint", BEGAN + 20, stage="base", data={"path": "x" * 5000, "seconds": 0.1}))
    count, why = events_lost(provider)
    assert (count, "413" in why) == (1, True)
    paths = [attributes(span)["mccore.path"] for span in told.received.spans]
    assert sorted(paths, key=int) == [str(number) for number in range(20)]


def test_items_that_were_rejected_are_lost_and_the_reason_is_told(tmp_path: Path, told: ToldCollector) -> None:
    told.answer = Answer(rejected=2)
    provider = provider_of(told.address, tmp_path, metrics=False, logs=False)
    for number in range(5):
        provider.record(Event("checkpoint", BEGAN + number, stage="base", data={"seconds": 0.1}))
    assert events_lost(provider) == (2, "2 of 5 were rejected: too late")


def test_a_wrong_certificate_is_refused_and_the_right_one_is_not(tmp_path: Path) -> None:
    ours, others = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.issue_cert("127.0.0.1").configure_cert(context)
    for name, authority in (("ours", ours), ("others", others)):
        authority.cert_pem.write_to_path(tmp_path / f"{name}.pem")
    with ToldCollector(context) as told:
        wrong = provider_of(told.address, tmp_path, certificate=str(tmp_path / "others.pem"))
        wrong.record(step())
        with pytest.raises(OSError, match="certificate verify failed"):
            wrong.flush()
        right = provider_of(told.address, tmp_path, certificate=str(tmp_path / "ours.pem"))
        right.record(step())
        right.close()
        assert told.received.points("mccore.train.loss")


def test_a_backlog_that_is_full_loses_the_oldest(tmp_path: Path, told: ToldCollector) -> None:
    from mccore_telemetry.otel import outbox

    told.answer = Answer(503)
    provider = provider_of(told.address, tmp_path, metrics=False, logs=False)
    for _ in range(outbox.BACKLOG + 3):
        try:
            provider.record(Event("checkpoint", BEGAN, stage="base", data={"seconds": 0.1}))
        except OSError:
            continue
    lost = events_lost(provider)[0]
    assert 1 <= lost <= 3


def test_a_port_that_speaks_something_else_is_a_fault_like_any_other(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        provider = provider_of(f"http://127.0.0.1:{server.getsockname()[1]}", tmp_path, timeout_seconds=0.2)
        provider.record(step())
        with pytest.raises(OSError, match="timed out"):
            provider.flush()


def test_a_page_that_answers_instead_of_a_collector_counts_as_lost(tmp_path: Path, told: ToldCollector) -> None:
    told.answer = Answer(content=b"<html><body>It works!</body></html>")
    provider = provider_of(told.address, tmp_path)
    for event in run_events():
        provider.record(event)
    lost = 0
    for end in (provider.flush, provider.close):
        with pytest.raises((EventsLost, OSError), match="something else than a collector") as caught:
            end()
        lost += getattr(caught.value, "count", 0)
    assert lost == len(run_events())  # each once, though every signal lost it
