"""Let Prometheus scrape a run, or push to a Pushgateway for runs that are over before anyone would scrape them.

Names follow `shared.names`; every series has the labels `run` and `rank`, and where they apply `stage`, `part` and
`condition`. The address that is really served is in the run's directory, `telemetry/prometheus-rank0.json`, in the format
of Prometheus' `file_sd_configs`; `targets` has the file once more where Prometheus looks for such files.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import platform
import socket
import ssl
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, OpenerDirector, Request, build_opener

from prometheus_client import CollectorRegistry, push_to_gateway, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from pydantic import Field, model_validator

from mccore.api import Extension, Options, TelemetryProvider, TelemetrySpec, write_atomic
from mccore.errors import ConfigError, RunError
from mccore.events import Event
from mccore.hookspecs import hookimpl
from mccore_telemetry.shared.batches import Backoff
from mccore_telemetry.shared.names import prometheus_name
from mccore_telemetry.shared.secrets import Url, Variable, basic_authentication, read_secret, redact
from mccore_telemetry.shared.values import SECONDS, Labels, Values, by_metric

_log = logging.getLogger(__name__)
_PORTS = 20  # tried one after another where the first is taken


class PrometheusOptions(Options):
    """How Prometheus gets at the metrics."""

    mode: Literal["serve", "push"] = Field("serve", description="serve an address to scrape, or push to a gateway")
    address: str = Field("127.0.0.1", description="address to serve at; 0.0.0.0 is every one of this machine")
    port: int = Field(
        9464, ge=0, le=65535, description="port to serve at, or the next free one of twenty; 0 is any free one"
    )
    targets: str = Field("", description="directory of files with addresses, watched by Prometheus (file_sd_configs)")
    certificate: str = Field("", description="file of a certificate (PEM), to serve over TLS")
    key: str = Field("", description="file of the certificate's key")
    client_ca: str = Field("", description="file of the authority that certificates of scrapers must be signed by")
    gateway: Url = Field("http://127.0.0.1:9091", description="address of the Pushgateway")
    gateway_ca: str = Field("", description="file of the authority that signed the gateway's certificate")
    job: str = Field("mccore", min_length=1, description="job that is pushed as")
    user: str = Field("", description="user at the gateway")
    password_variable: Variable = Field(
        "PROMETHEUS_PASSWORD", description="environment variable that holds the password of `user`"
    )

    @model_validator(mode="after")
    def _complete(self) -> PrometheusOptions:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key go together: give both or neither")
        if self.client_ca and not self.certificate:
            raise ValueError("client_ca takes a certificate and a key")
        return self


class PrometheusTelemetry:
    """Keeps the newest values; what is asked for is put into words when it is asked for."""

    def __init__(self, options: PrometheusOptions, spec: TelemetrySpec) -> None:
        self._values = Values()
        self._registry = CollectorRegistry()  # never the client's global one, which belongs to the program
        self._registry.register(_RunCollector(self._values, spec))
        self._way: _Server | _Gateway
        if options.mode == "serve":
            self._way = _Server(options, spec, self._registry)
        else:
            self._way = _Gateway(options, spec, self._registry)

    def record(self, event: Event) -> None:
        """Take over the event's values; no one is waited for."""
        self._values.record(event)

    def flush(self) -> None:
        """Push, where that is the way."""
        self._way.flush()

    def close(self) -> None:
        """Push for the last time, or stop to serve."""
        self._way.close()


class _RunCollector(Collector):
    """Puts the values of a run into families of samples."""

    def __init__(self, values: Values, spec: TelemetrySpec) -> None:
        self._values = values
        self._constant = {"run": spec.run}
        self._rank = str(spec.rank)
        self._infos = {
            "mccore_build": {"version": metadata.version("mccore"), "python": platform.python_version()},
            "mccore_run": {
                "run": spec.run,
                "service": f"megacontext-{spec.service}",
                "recipe": spec.config.recipe or "",
            },
        }
        if spec.commit:
            self._infos["mccore_build"]["commit"] = spec.commit
        if spec.run_id:
            self._infos["mccore_run"]["run_id"] = spec.run_id

    def collect(self) -> Iterator[Family]:
        """Everything there is now."""
        yield InfoMetricFamily("mccore_build", "what is running", value=self._infos["mccore_build"])
        yield InfoMetricFamily("mccore_run", "which run this is", value=self._infos["mccore_run"])
        for samples in by_metric(self._values.samples()).values():
            row = samples[0].row
            name = prometheus_name(row)
            kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
            family: Family = kind(name, row.definition)
            for sample in samples:
                family.add_sample(name, self._labels(sample.labels), sample.value)
            yield family
        yield from self._histograms()

    def _histograms(self) -> Iterator[Family]:
        families: dict[str, HistogramMetricFamily] = {}
        for row, key, histogram in self._values.histograms():
            name = prometheus_name(row)
            family = families.setdefault(name, HistogramMetricFamily(name, row.definition))
            labels = self._labels(key)
            below = 0
            for bound, count in zip((*SECONDS, math.inf), histogram.counts, strict=True):
                below += count
                family.add_sample(f"{name}_bucket", {**labels, "le": _bound(bound)}, below)
            family.add_sample(f"{name}_count", labels, below)
            family.add_sample(f"{name}_sum", labels, histogram.sum)
        yield from families.values()

    def _labels(self, key: Labels) -> dict[str, str]:
        return {**self._constant, "rank": self._rank, **dict(key)}


def _bound(bound: float) -> str:
    return "+Inf" if bound == math.inf else repr(bound)


class _Server:
    """An address to scrape."""

    def __init__(self, options: PrometheusOptions, spec: TelemetrySpec, registry: CollectorRegistry) -> None:
        tls: dict[str, Any] = {}
        if options.certificate:
            tls = {"certfile": options.certificate, "keyfile": options.key}
        if options.client_ca:
            tls |= {"client_cafile": options.client_ca, "client_auth_required": True}

        def start(port: int) -> None:
            try:
                self._server, self._thread = start_http_server(port, options.address, registry, **tls)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
                    raise ConfigError(
                        f"can't serve metrics at {options.address}: that is no address of this machine",
                        hint="127.0.0.1 serves this machine, 0.0.0.0 every network it is in",
                    ) from None
                if error.errno is not None or not tls:
                    raise
                raise ConfigError(
                    f"can't serve over TLS: {error}", hint="look at certificate, key and client_ca"
                ) from None

        _first_free(start, options.port)
        port = int(self._server.server_port)
        if options.port and port != options.port:
            _log.warning("port %d is taken: metrics are served at port %d", options.port, port)
        host = socket.gethostname() if options.address in ("", "0.0.0.0", "::") else options.address
        host = f"[{host}]" if ":" in host else host
        self._files = [spec.files / f"prometheus-rank{spec.rank}.json"]
        if options.targets:
            # Chats and servers of a run go on beside its training, each with an address of its own.
            whose = spec.run if spec.service == "train" else f"{spec.run}-{spec.service}-{os.getpid()}"
            self._files.append(Path(options.targets).expanduser() / f"{whose}-rank{spec.rank}.json")
        try:
            self._write(f"{host}:{port}", "https" if tls else "http")
        except RunError as error:
            self.close()
            raise ConfigError(
                error.message,
                hint="telemetry.prometheus.options.targets is a directory that the run may write to",
            ) from None

    def flush(self) -> None:
        """What is scraped is put together then."""

    def close(self) -> None:
        """Free the port; the files that name it go too."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for file in self._files:
            with contextlib.suppress(OSError):  # what wasn't written isn't there
                file.unlink()

    def _write(self, target: str, scheme: str) -> None:
        labels = {"__scheme__": scheme, "__meta_mccore_pid": str(os.getpid())}
        text = json.dumps([{"targets": [target], "labels": labels}]) + "\n"
        for file in self._files:
            write_atomic(file, text)  # Prometheus may look at any moment


def _first_free(start: Callable[[int], None], first: int) -> None:
    """Start at a port, or at the next free one."""
    last = min(first + _PORTS - 1, 65535) if first else 0
    for port in range(first, last + 1):
        try:
            return start(port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == last:
                raise
    raise AssertionError("a range of ports has a last one")


class _Gateway:
    """A Pushgateway, which keeps what was pushed last until the next push."""

    def __init__(self, options: PrometheusOptions, spec: TelemetrySpec, registry: CollectorRegistry) -> None:
        self._options = options
        self._registry = registry
        # A gateway writes its group's labels over those of the series, so `rank` can't be one of them.
        self._group = {"run": spec.run, "instance": f"rank{spec.rank}"}
        self._seconds = spec.patience_seconds
        self._backoff = Backoff()
        self._trouble = ""
        self._password = read_secret(options.password_variable) if options.user else None
        self._pair = basic_authentication(options.user, self._password) if self._password else None
        if options.user and self._password is None:
            raise ConfigError(
                f"user {options.user!r} has no password",
                hint=f"set {options.password_variable or 'telemetry.prometheus.options.password_variable'}",
            )
        try:
            context = ssl.create_default_context(cafile=options.gateway_ca or None)
        except OSError as error:  # no such file, or no certificate in it
            raise ConfigError(f"can't read gateway_ca: {error}", hint="give a PEM file") from error
        self._opener = build_opener(HTTPSHandler(context=context))

    def flush(self) -> None:
        """Push, unless the gateway has just failed."""
        if not self._backoff.ready:
            raise OSError(self._trouble)
        self._push()

    def close(self) -> None:
        """Push what the run came to."""
        with contextlib.closing(self._opener):
            self._push()

    def _push(self) -> None:
        try:
            push_to_gateway(
                self._options.gateway, self._options.job, self._registry, self._group, self._seconds, self._handler
            )
        except OSError as error:
            self._backoff.failed()
            self._trouble = redact(f"{self._options.gateway}: {_reason(error)}", [self._password, self._pair])
            raise OSError(self._trouble) from None
        self._backoff.succeeded()

    def _handler(
        self, url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        return lambda: _send(self._opener, self._request(url, method, headers, data), timeout)

    def _request(self, url: str, method: str, headers: list[tuple[str, str]], data: bytes) -> Request:
        request = Request(url, data, method=method)
        for name, value in headers:
            request.add_header(name, value)
        if self._pair is not None:
            request.add_unredirected_header("Authorization", f"Basic {self._pair.get_secret_value()}")
        return request


def _send(opener: OpenerDirector, request: Request, timeout: float | None) -> None:
    with opener.open(request, timeout=timeout) as response:
        response.read()


def _reason(error: OSError) -> str:
    """What the gateway said, or why it couldn't be asked."""
    if isinstance(error, HTTPError):
        said = error.read(300).decode(errors="replace").strip()
        return f"{error.code} {error.reason}" + (f": {said}" if said else "")
    return str(getattr(error, "reason", error)) or type(error).__name__


@hookimpl
def mccore_telemetry_provider() -> Extension[TelemetryProvider]:
    return Extension(build=PrometheusTelemetry, options=PrometheusOptions, summary="metrics for Prometheus to scrape")
