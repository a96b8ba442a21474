"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from mccore.serve.exchanges import Exchange
from mccore.serve.ledger.dialogues import Dialogues
from mccore.serve.link import WorkerLink

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class ServingFigures:
    """Counters of requests and tokens, times, and what the worker has to do now."""

    def __init__(self, link: WorkerLink, dialogues: Dialogues) -> None:
        self._registry = CollectorRegistry()
        common = {"registry": self._registry, "namespace": "mccore_serve"}
        self.requests = Counter("requests", "requests by endpoint and status", ("endpoint", "status"), **common)
        self.tokens = Counter("tokens", "tokens by what became of them", ("kind",), **common)
        self.seconds = Histogram("request_seconds", "time of a request", ("endpoint",), buckets=_SECONDS, **common)
        self.first = Histogram("first_token_seconds", "time until an answer began", buckets=_SECONDS, **common)
        self._registry.register(_Now(link, dialogues))

    def answered(self, exchange: Exchange) -> None:
        """An exchange is over."""
        figures = exchange.figures
        self.tokens.labels("read").inc(max(0, figures.prompt_tokens - figures.cached_tokens))
        self.tokens.labels("kept").inc(figures.cached_tokens)
        self.tokens.labels("written").inc(figures.new_tokens)
        if figures.first_token_seconds is not None:
            self.first.observe(figures.first_token_seconds)

    def page(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Now(Collector):
    """What is going on at the moment that somebody asks."""

    def __init__(self, link: WorkerLink, dialogues: Dialogues) -> None:
        self._link, self._dialogues = link, dialogues

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges."""
        counts = self._link.counts
        now = {
            "ready": (float(self._link.state == "ready"), "whether the model is there"),
            "jobs": (self._link.jobs, "requests that the model works on or that wait for it"),
            "reading": (counts.get("reading", 0), "of them those that read"),
            "waiting": (counts.get("waiting", 0), "of them those that wait to answer"),
            "running": (counts.get("running", 0), "of them those that answer"),
            "sessions": (len(self._dialogues.by_id), "conversations"),
            "sessions_open": (counts.get("open", 0), "of them those in memory"),
            "cache_bytes": (counts.get("bytes", 0), "bytes of keys and values"),
            "restarts": (self._link.restarts, "times that the model's process died"),
        }
        for name, (value, meaning) in now.items():
            yield GaugeMetricFamily(f"mccore_serve_{name}", meaning, float(value))
