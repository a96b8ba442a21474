"""One real node for all tests of this folder, and a provider per test with a data stream of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mccore_telemetry.opensearch import OpenSearchOptions, OpenSearchTelemetry, connect

from mccore.api import TelemetrySpec
from mccore.config import RunConfig
from mccore.events import Event
from tests.support.opensearch_node import OpenSearchNode, Unavailable, opensearch_node

from .proxy import Proxy

_streams = itertools.count()


LARGEST_REQUEST = 100_000
"""Bytes that the node takes in one request; larger ones it answers with 413."""


@pytest.fixture(scope="session")
def running_node() -> Iterator[OpenSearchNode]:
    """A real node; tests are skipped where there is none, and say why."""
    try:
        # Only the first compiler: the node starts sooner, and nothing here runs long enough for the second.
        with opensearch_node({"http.max_content_length": f"{LARGEST_REQUEST}b"}, "-XX:TieredStopAtLevel=1") as running:
            yield running
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def node(running_node: OpenSearchNode) -> str:
    """The address of the real node."""
    return running_node.url


@pytest.fixture
def stream() -> str:
    """The name of a data stream that nobody else uses."""
    return f"test-{os.getpid()}-{next(_streams)}"


@pytest.fixture
def stored(node: str, stream: str) -> Callable[..., list[dict[str, Any]]]:
    """`stored()`: the documents of the stream as the real node has them, oldest first."""

    def read() -> list[dict[str, Any]]:
        client = connect(OpenSearchOptions(), node, None, None)
        client.indices.refresh(index=stream)
        body = {"size": 10_000, "sort": [{"time": "asc"}, {"step": "asc"}]}
        hits = client.search(index=stream, body=body)["hits"]["hits"]
        client.close()
        return [hit["_source"] for hit in hits]

    return read


@pytest.fixture
def proxy(node: str) -> Iterator[Proxy]:
    """A way to the node with faults."""
    proxy = Proxy(node)
    yield proxy
    proxy.close()


@pytest.fixture
def open_provider(stream: str, tmp_path: Path) -> Callable[..., OpenSearchTelemetry]:
    """`open_provider(url, **options)`: a provider of a run in tmp_path."""

    def make(url: str, **options: Any) -> OpenSearchTelemetry:
        chosen = OpenSearchOptions(**{"url": url, "stream": stream, "timeout_seconds": 30.0, **options})
        return OpenSearchTelemetry(chosen, patient_spec(tmp_path))

    return make


def patient_spec(directory: Path, rank: int = 0) -> TelemetrySpec:
    """A spec under which a slow machine decides nothing."""
    return TelemetrySpec("a-run", directory, rank, RunConfig(), run_id="5" * 32, patience_seconds=60.0)


def steps(count: int, first: int = 0) -> list[Event]:
    """Events of training steps with two metrics."""
    return [
        Event(
            "step",
            1_790_000_000.0 + number / 1000,
            stage="base",
            step=number,
            tokens=number * 1024,
            metrics={"loss": 10.0 / (number + 1), "tokens_total": number * 1024.0},
            data={"steps": 100_000},
        )
        for number in range(first, first + count)
    ]
