"""Every way in which a node or the way to it can fail: what is lost is counted, what isn't is there once."""

from __future__ import annotations

import base64
import contextlib
import resource
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from mccore_telemetry.opensearch import OpenSearchOptions, OpenSearchTelemetry
from mccore_telemetry.opensearch.dead_letters import read_dead_letters
from pydantic import ValidationError

from mccore.api import EventsLost, TelemetrySpec
from mccore.config import RunConfig
from mccore.errors import ConfigError
from mccore.events import Event
from tests.support.opensearch_node import OpenSearchNode

from .conftest import LARGEST_REQUEST, steps
from .proxy import Proxy, bulk_answers, busy_for, loses_answers

pytestmark = pytest.mark.servers

Open = Callable[..., OpenSearchTelemetry]
Stored = Callable[[], list[dict[str, Any]]]

SECRET = "hunter2-is-a-secret"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests try again at once: pauses are the business of test_batches."""
    monkeypatch.setattr("mccore_telemetry.shared.batches.Backoff.ready", True)


def unsent(tmp_path: Path) -> list[int | None]:
    """Steps in the file of events that weren't sent."""
    return [event.step for event, _ in read_dead_letters(tmp_path / "telemetry/opensearch-rank0-unsent.jsonl")]


def stored_steps(stored: Stored) -> list[int]:
    return [document["step"] for document in stored()]


def test_down_from_the_start_and_never_up(proxy: Proxy, open_provider: Open, tmp_path: Path) -> None:
    proxy.down()
    provider = open_provider(proxy.url)
    for event in steps(50):
        provider.record(event)
    with pytest.raises(ConnectionError, match="refused"):
        provider.flush()
    with pytest.raises(EventsLost, match="50 of them are in") as caught:
        provider.close()
    assert caught.value.count == 50
    assert unsent(tmp_path) == list(range(50))


def test_down_from_the_start_and_up_later(proxy: Proxy, open_provider: Open, stored: Stored) -> None:
    proxy.down()
    provider = open_provider(proxy.url)
    for event in steps(50):
        provider.record(event)
    with pytest.raises(ConnectionError):
        provider.flush()
    proxy.up()
    provider.flush()
    provider.close()
    assert stored_steps(stored) == list(range(50))


def test_dies_midway_and_comes_back(proxy: Proxy, open_provider: Open, stored: Stored, tmp_path: Path) -> None:
    provider = open_provider(proxy.url, batch_events=10)
    for event in steps(25):
        provider.record(event)
    proxy.down()
    for event in steps(20, 25):
        provider.record(event)
    with pytest.raises(ConnectionError):
        provider.flush()
    proxy.up()
    for event in steps(15, 45):
        provider.record(event)
    provider.close()
    assert stored_steps(stored) == list(range(60))
    assert unsent(tmp_path) == []


def test_an_outage_longer_than_memory_loses_the_oldest_and_says_how_many(
    proxy: Proxy, open_provider: Open, stored: Stored, tmp_path: Path
) -> None:
    provider = open_provider(proxy.url, batch_events=10, waiting_events=50)
    proxy.down()
    lost = 0
    for event in steps(120):
        try:
            provider.record(event)
        except EventsLost as loss:
            lost += loss.count
    proxy.up()
    provider.close()
    assert lost == 120 - len(stored())
    assert stored_steps(stored) == list(range(lost, 120))
    assert unsent(tmp_path) == list(range(lost))


def test_what_the_file_has_can_be_sent_later(proxy: Proxy, open_provider: Open, stored: Stored, tmp_path: Path) -> None:
    proxy.down()
    first = open_provider(proxy.url)
    for event in steps(30):
        first.record(event)
    with pytest.raises(EventsLost):
        first.close()
    proxy.up()
    later = open_provider(proxy.url)
    for event, why in read_dead_letters(tmp_path / "telemetry/opensearch-rank0-unsent.jsonl"):
        assert "refused" in why
        later.record(event)
    for event in steps(30):
        later.record(event)
    later.close()
    assert stored_steps(stored) == list(range(30))


def test_a_node_that_never_answers_ends_with_the_patience(
    proxy: Proxy, open_provider: Open, stream: str, tmp_path: Path
) -> None:
    def silent(path: str, body: bytes, forward: Any) -> None:
        proxy.released.wait(60)

    proxy.fault = silent
    spec = TelemetrySpec("a-run", tmp_path, 0, RunConfig(), run_id="5" * 32, patience_seconds=0.5)
    provider = OpenSearchTelemetry(OpenSearchOptions(url=proxy.url, stream=stream), spec)
    for event in steps(40):
        provider.record(event)
    begun = time.monotonic()
    with pytest.raises(EventsLost, match="timed out") as caught:
        provider.close()
    assert time.monotonic() - begun < 10  # of 60; how close to 0.5 is no test's business
    assert caught.value.count == 40
    assert unsent(tmp_path) == list(range(40))


def test_a_slow_node_gets_everything(proxy: Proxy, open_provider: Open, stored: Stored) -> None:
    def slow(path: str, body: bytes, forward: Callable[[bytes], Any]) -> Any:
        threading.Event().wait(2.0)
        return forward(body)

    provider = open_provider(proxy.url, batch_events=10)
    provider.flush()
    for event in steps(10):
        provider.record(event)
    proxy.fault = slow
    for event in steps(10, 10):
        provider.record(event)
    provider.flush()
    proxy.fault = lambda path, body, forward: forward(body)
    provider.close()
    assert stored_steps(stored) == list(range(20))


@pytest.mark.parametrize("status", [401, 403, 429, 500, 502, 503, 504])
def test_a_refused_request_is_sent_again(proxy: Proxy, open_provider: Open, stored: Stored, status: int) -> None:
    proxy.fault = bulk_answers(status, times=3)
    provider = open_provider(proxy.url, batch_events=10)
    for event in steps(10):
        provider.record(event)
    for _ in range(2):  # the first request was that of the full batch
        with pytest.raises(ConnectionError, match=f"{status}: said {status}"):
            provider.flush()
    provider.flush()
    provider.close()
    assert stored_steps(stored) == list(range(10))


@pytest.mark.parametrize("status", [401, 500])
def test_a_node_that_goes_on_refusing_loses_all_and_says_so(
    proxy: Proxy, open_provider: Open, tmp_path: Path, status: int
) -> None:
    proxy.fault = bulk_answers(status)
    provider = open_provider(proxy.url)
    for event in steps(30):
        provider.record(event)
    with pytest.raises(EventsLost, match=str(status)) as caught:
        provider.close()
    assert caught.value.count == 30
    assert unsent(tmp_path) == list(range(30))


@pytest.mark.parametrize("status", [429, 503])
def test_single_documents_that_a_busy_node_refuses_are_sent_again(
    proxy: Proxy, open_provider: Open, stored: Stored, status: int
) -> None:
    proxy.fault = busy_for(3, times=2, status=status)
    provider = open_provider(proxy.url)
    for event in steps(30):
        provider.record(event)
    for waiting in (10, 4):
        with pytest.raises(ConnectionError, match=f"{status}: queue is full .{waiting} events wait"):
            provider.flush()
    provider.flush()
    provider.close()
    assert stored_steps(stored) == list(range(30))
    assert proxy.bulks() == 3


def test_answers_that_are_lost_make_nothing_twice(proxy: Proxy, open_provider: Open, stored: Stored) -> None:
    proxy.fault = loses_answers(2)
    provider = open_provider(proxy.url)
    for event in steps(30):
        provider.record(event)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            provider.flush()
    provider.flush()
    provider.close()
    assert proxy.bulks() == 3
    assert stored_steps(stored) == list(range(30))


def test_requests_that_are_too_large_are_halved(node: str, open_provider: Open, stored: Stored, tmp_path: Path) -> None:
    provider = open_provider(node)
    for event in steps(900):
        provider.record(event)
    provider.record(Event("sample", 1_790_000_100.0, step=900, data={"text": "x" * (LARGEST_REQUEST + 1)}))
    provider.record(steps(1, 901)[0])
    with pytest.raises(EventsLost, match="413: larger than the node takes") as caught:
        provider.flush()
    assert caught.value.count == 1
    provider.close()
    assert unsent(tmp_path) == [900]
    assert stored_steps(stored) == [*range(900), 901]


def test_a_node_that_is_killed_and_starts_again_has_everything_once(
    running_node: OpenSearchNode, open_provider: Open, stored: Stored
) -> None:
    provider = open_provider(running_node.url, batch_events=50)
    for event in steps(220):
        provider.record(event)
    running_node.kill()
    for event in steps(100, 220):
        provider.record(event)
    with pytest.raises(ConnectionError):
        provider.flush()
    running_node.start()
    for _ in range(20):  # a node that has just started may be slower than a request may take
        with contextlib.suppress(ConnectionError):
            provider.flush()
            break
    provider.close()
    assert stored_steps(stored) == list(range(320))


class TestTls:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def secure(self, node: str, authority: trustme.CA) -> Iterator[Proxy]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        proxy = Proxy(node, tls=context)
        yield proxy
        proxy.close()

    def test_a_certificate_of_a_known_authority_is_good(
        self, secure: Proxy, authority: trustme.CA, open_provider: Open, stored: Stored, tmp_path: Path
    ) -> None:
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        provider = open_provider(secure.url, ca_file=str(tmp_path / "ca.pem"))
        for event in steps(5):
            provider.record(event)
        provider.close()
        assert stored_steps(stored) == list(range(5))

    @pytest.mark.parametrize("ca", ["default", "wrong"])
    def test_a_wrong_certificate_is_refused(self, secure: Proxy, open_provider: Open, tmp_path: Path, ca: str) -> None:
        trustme.CA().cert_pem.write_to_path(str(tmp_path / "wrong.pem"))
        provider = open_provider(secure.url, ca_file="" if ca == "default" else str(tmp_path / "wrong.pem"))
        provider.record(steps(1)[0])
        with pytest.raises(EventsLost, match="certificate verify failed") as caught:
            provider.close()
        assert caught.value.count == 1
        assert secure.requests == []  # not a word before the certificate was seen

    def test_it_can_be_accepted_all_the_same(self, secure: Proxy, open_provider: Open, stored: Stored) -> None:
        provider = open_provider(secure.url, verify=False)
        provider.record(steps(1)[0])
        provider.close()
        assert stored_steps(stored) == [0]

    def test_a_file_that_is_missing_is_told_at_the_start(self) -> None:
        with pytest.raises(ValidationError, match="there is no file /nowhere"):
            OpenSearchOptions(ca_file="/nowhere")


class TestSecrets:
    def test_user_and_password_are_sent_and_never_told(
        self, proxy: Proxy, open_provider: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MCCORE_OPENSEARCH_PASSWORD", SECRET)
        proxy.fault = lambda path, body, forward: (401, f'{{"error": "wrong: {SECRET}"}}'.encode())
        provider = open_provider(proxy.url, user="me")
        provider.record(steps(1)[0])
        with pytest.raises(ConnectionError) as kept:
            provider.flush()
        with pytest.raises(EventsLost) as lost:
            provider.close()
        expected = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
        assert {name.lower(): value for name, value in proxy.headers[0].items()}["authorization"] == expected
        for said in (str(kept.value), str(lost.value), *(path.read_text() for path in tmp_path.rglob("*.jsonl"))):
            assert "401" in said
            assert SECRET not in said

    def test_an_api_key_goes_first(self, proxy: Proxy, open_provider: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MCCORE_OPENSEARCH_API_KEY", SECRET)
        provider = open_provider(proxy.url, user="me")
        provider.record(steps(1)[0])
        provider.close()
        assert {name.lower(): value for name, value in proxy.headers[0].items()}["authorization"] == f"ApiKey {SECRET}"

    def test_the_address_of_the_environment_is_used_and_checked(
        self, proxy: Proxy, open_provider: Open, stored: Stored, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MCCORE_OPENSEARCH_URL", proxy.url)
        provider = open_provider("")
        provider.record(steps(1)[0])
        provider.close()
        assert stored_steps(stored) == [0]
        monkeypatch.setenv("MCCORE_OPENSEARCH_URL", f"http://me:{SECRET}@host:9200")
        with pytest.raises(ConfigError, match="MCCORE_OPENSEARCH_URL") as caught:
            open_provider("")
        assert SECRET not in str(caught.value)


class TestFullDisk:
    @pytest.fixture
    def small_files(self) -> Iterator[None]:
        """No file may grow beyond 3,000 bytes: the same error path as that of a disk without room."""
        import signal

        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)

    @pytest.mark.usefixtures("small_files")
    def test_losses_are_counted_all_the_same(self, proxy: Proxy, open_provider: Open, tmp_path: Path) -> None:
        proxy.down()
        provider = open_provider(proxy.url)
        for event in steps(50):
            provider.record(event)
        with pytest.raises(EventsLost, match="are in the run's event file only") as caught:
            provider.close()
        assert caught.value.count == 50
        kept = unsent(tmp_path)
        assert 0 < len(kept) < 50
        assert kept == list(range(len(kept)))
        assert f"{50 - len(kept)} are in" in str(caught.value)
