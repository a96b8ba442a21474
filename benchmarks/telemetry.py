"""What telemetry costs a training step, and how fast events go: into the file, and through each provider into a real server.

    .ci/servers                                        # once: the servers
    uv run python benchmarks/telemetry.py emit         [--events 20000] [--rounds 9]
    uv run --with opentelemetry-exporter-otlp-proto-http python benchmarks/telemetry.py deliver otel prometheus
    uv run python benchmarks/telemetry.py step         [--pairs 9] [--ranks 1] [--telemetry otel --telemetry prometheus]
    uv run python benchmarks/telemetry.py end          [--rounds 9]

`emit`: events a second of `Emitter.emit` into its file, as a ratio to writing the same record by `json.dumps` and `os.write`.
`deliver`: events a second from a run's event file through a provider, all of them flushed, as a ratio to a script of the same
client library that reads the same file line by line, sends the same values to the same server, and counts nothing.
`step`: seconds of a step of `tiny` with providers in front of real servers, as a ratio to one without, and what the process
for telemetry takes; `telemetry_step.py` says how.
`end`: seconds from the last event of a run to the end of its process, by what its collector does.

Contenders alternate within each round; a line gives medians, and lowest and highest ratio beside it. A provider is added by an
entry in `PEERS`; those of OpenSearch and W&B are in `telemetry_stores.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import telemetry_step  # beside this file, as the next
import telemetry_stores as stores

from mccore import plugins
from mccore.api import TelemetrySpec
from mccore.config import Choice, RunConfig
from mccore.events import Event, EventWriter, read_events
from mccore.runs.rundir import RunDir
from mccore.telemetry.delivery import Delivery, State
from mccore.telemetry.emitter import Emitter
from mccore.telemetry.relay import Files

ROOT = Path(__file__).parents[1]
METRICS = {
    "loss": 3.2, "token_loss": 3.1, "grad_norm": 1.2, "lr_multiplier": 1.0, "tokens_total": 1e6, "flops_total": 1e12,
    "tokens_per_second": 8000.0, "step_duration": 0.25, "data_wait": 0.001, "mfu": 0.4, "epoch": 0.5, "memory_used": 1e9,
    "lens_loss": 0.2, "lod_loss/1": 3.3,
}  # fmt: skip


def event_of(number: int) -> Event:
    """A run's mix: steps, a refocus at every tenth, an alert at every five-hundredth."""
    at: dict[str, Any] = {"stage": "base", "step": number, "tokens": number * 512}
    if number % 500 == 499:
        return Event("alert", time.time(), data={"metric": "mfu", "value": 0.1, "since": 30.0, "advice": "look"}, **at)
    if number % 10 == 9:
        metrics = {"controller_duration": 0.004, "swap_rate": 0.1, "residency": 0.98, "dwell": 4.0}
        data = {"session": "s", "allocator": "greedy", "refocus": number, "history": number * 512, "editable": 200}
        return Event("focus_allocator", time.time(), metrics=metrics, data=data, **at)
    values = {name: value * random.uniform(0.9, 1.1) for name, value in METRICS.items()}
    return Event("step", time.time(), metrics=values, data={"steps": 10_000}, **at)


def write_events(directory: Path, count: int) -> Path:
    with EventWriter(directory / "rank0.jsonl") as writer:
        writer.write(Event("run.start", time.time(), data={"resumed": False}))
        writer.write(Event("stage.start", time.time(), stage="base", data={"world_size": 1}))
        for number in range(count):
            writer.write(event_of(number))
    return directory / "rank0.jsonl"


def line(name: str, ours: list[float], peers: list[float], unit: str) -> str:
    ratios = [one / other for one, other in zip(ours, peers, strict=True)]
    return (
        f"{name:28} {median(ours):10,.4g} {unit}  peer {median(peers):10,.4g} {unit}"
        f"  ratio {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} rounds)"
    )


# --- emit -------------------------------------------------------------------------------------------------------------


def emit(arguments: argparse.Namespace) -> None:
    ours, peers = [], []
    events = [event_of(number) for number in range(arguments.events)]
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            with Emitter(EventWriter(Path(folder) / "rank0.jsonl")) as emitter:
                began = time.perf_counter()
                for event in events:
                    emitter.emit(Event.now(event.type, event.metrics, event.data, stage="base", step=event.step))
                ours.append(len(events) / (time.perf_counter() - began))
            file = os.open(Path(folder) / "peer.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            began = time.perf_counter()
            for event in events:
                record = {"type": event.type, "time": time.time(), "step": event.step, "metrics": event.metrics}
                os.write(file, (json.dumps(record | {"data": event.data}) + "\n").encode())
            peers.append(len(events) / (time.perf_counter() - began))
            os.close(file)
    print(line("emit", ours, peers, "events/s"))


# --- deliver ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A provider's server and the bare client of its library. `server` gives the provider's options for it."""

    server: Callable[[Path], AbstractContextManager[dict[str, Any]]]
    send: Callable[[Path, dict[str, Any]], None]


def deliver(arguments: argparse.Namespace) -> None:
    for name in arguments.providers:
        peer = PEERS[name]
        ours: list[float] = []
        peers: list[float] = []
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            options = stack.enter_context(peer.server(folder))
            path = write_events(folder / "events", arguments.events)
            for number in range(arguments.rounds):
                for contender in (0, 1) if number % 2 else (1, 0):
                    if contender:
                        seconds, lost = relayed(name, options, folder / f"run{number}", path.parent)
                        assert not lost, f"{lost} events were lost: the comparison is none"
                        ours.append(arguments.events / seconds)
                    else:
                        began = time.perf_counter()
                        peer.send(path, options)
                        peers.append(arguments.events / (time.perf_counter() - began))
        print(line(f"deliver {name}", ours, peers, "events/s"))


def relayed(name: str, options: dict[str, Any], directory: Path, events: Path) -> tuple[float, int]:
    """Seconds that a provider takes for all events of a directory, to its last flush, and how many it lost."""
    directory.mkdir()
    states: list[State] = []
    choice = Choice(name=name, options=options)
    spec = TelemetrySpec("bench", directory, 0, RunConfig(), run_id=os.urandom(16).hex(), patience_seconds=60.0)
    provider = plugins.build("telemetry", choice, spec)
    began = time.perf_counter()
    delivery = Delivery(name, provider, Files(events, {}), states.append, patience_seconds=60.0)
    deadline = time.monotonic() + 600.0
    delivery.close_soon(deadline)
    delivery.finish(deadline)
    return time.perf_counter() - began, max((state.lost for state in states), default=0)


@contextlib.contextmanager
def collector(folder: Path) -> Iterator[dict[str, Any]]:
    """A real OpenTelemetry collector that throws away what it has decoded."""
    port = free_port()
    pipeline = {"receivers": ["otlp"], "exporters": ["debug"]}
    config = {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{port}"}}}},
        "exporters": {"debug": {"verbosity": "basic"}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "error"}},
            "pipelines": dict.fromkeys(("traces", "metrics", "logs"), pipeline),
        },
    }
    (folder / "collector.yaml").write_text(json.dumps(config))
    with started([program("collector"), "--config", str(folder / "collector.yaml")], port):
        yield {"endpoint": f"http://127.0.0.1:{port}", "protocol": "http/protobuf"}


def send_otel(path: Path, options: dict[str, Any]) -> None:
    """The SDK with its own exporters, batching and threads, as its documentation sets them up."""
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    base = options["endpoint"]
    traces = TracerProvider(shutdown_on_exit=False)
    # The queue's default drops spans that come faster than they are sent.
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{base}/v1/traces"), max_queue_size=1 << 17))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{base}/v1/metrics"), 5000)
    meters = MeterProvider([reader], shutdown_on_exit=False)
    logs = LoggerProvider(shutdown_on_exit=False)
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(f"{base}/v1/logs")))
    tracer, meter, logger = traces.get_tracer("bench"), meters.get_meter("bench"), logs.get_logger("bench")
    instruments: dict[str, Any] = {}
    for text in path.open():
        event = json.loads(text)
        at = {"stage": event["stage"] or "", "rank": event["rank"]}
        for name, value in event["metrics"].items():
            if name not in instruments:
                make = meter.create_histogram if name.endswith("duration") else meter.create_gauge
                instruments[name] = make(name.replace("/", "."))
            record = instruments[name].record if name.endswith("duration") else instruments[name].set
            record(value, at)
        when = int(event["time"] * 1e9)
        if event["type"] == "focus_allocator":
            span = tracer.start_span("refocus", attributes=event["data"] | event["metrics"], start_time=when)
            span.end(when)
        elif event["type"] == "alert":
            logger.emit(LogRecord(timestamp=when, severity_number=SeverityNumber.WARN, body=str(event["data"])))
    for provider in (traces, meters, logs):
        provider.shutdown()


@contextlib.contextmanager
def scraper(folder: Path) -> Iterator[dict[str, Any]]:
    """A real Prometheus that scrapes the provider ten times a second."""
    port, served = free_port(), free_port()
    scrape = {"job_name": "bench", "static_configs": [{"targets": [f"127.0.0.1:{served}"]}]}
    config = {"global": {"scrape_interval": "100ms", "scrape_timeout": "100ms"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yaml").write_text(json.dumps(config))
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with started(command, port):
        yield {"port": served}


def send_prometheus(path: Path, options: dict[str, Any]) -> None:
    """The client library's own gauges and histograms, served by its own server."""
    from prometheus_client import CollectorRegistry, Gauge, Histogram, start_http_server

    registry = CollectorRegistry()
    server, thread = start_http_server(options["port"], "127.0.0.1", registry)
    instruments: dict[str, Any] = {}
    for text in path.open():
        event = json.loads(text)
        for name, value in event["metrics"].items():
            if name not in instruments:
                kind = Histogram if name.endswith("duration") else Gauge
                instruments[name] = kind(name.replace("/", "_"), name, ["run", "rank", "stage"], registry=registry)
            labelled = instruments[name].labels("bench", str(event["rank"]), event["stage"])
            (labelled.observe if name.endswith("duration") else labelled.set)(value)
    urllib.request.urlopen(f"http://127.0.0.1:{options['port']}/metrics").read()
    server.shutdown()
    server.server_close()
    thread.join()


PEERS = {
    "opensearch": Peer(stores.opensearch_server, stores.send_opensearch),
    "otel": Peer(collector, send_otel),
    "prometheus": Peer(scraper, send_prometheus),
    "wandb": Peer(stores.wandb_files, stores.send_wandb),
}


# --- step -------------------------------------------------------------------------------------------------------------


def step(arguments: argparse.Namespace) -> None:
    telemetry_step.step(arguments, PEERS, run_tiny)


# --- end --------------------------------------------------------------------------------------------------------------


def run_tiny(
    folder: Path, name: str, providers: dict[str, dict[str, Any]], settings: dict[str, str]
) -> subprocess.Popen[bytes]:
    flags = [flag for provider in providers for flag in ("--telemetry", provider)]
    for provider, values in providers.items():
        settings = settings | {f"telemetry.{provider}.options.{key}": str(value) for key, value in values.items()}
    flags += [flag for path, value in settings.items() for flag in ("--set", f"{path}={value}")]
    command = [sys.executable, "-m", "mccore", "run", "tiny", "--name", name, *flags]
    environment = {**os.environ, "MCCORE_BASE_DIR": str(folder)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def end(arguments: argparse.Namespace) -> None:
    """Seconds from a run's last event to the end of its process, by what its collector does."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        took: dict[str, list[float]] = {}
        for number in range(arguments.rounds):
            for name, server in (("none", None), ("refusing", None), ("silent", silent), ("answering", collector)):
                with ExitStack() as stack:
                    (folder / f"{name}{number}").mkdir()
                    options = {"endpoint": f"http://127.0.0.1:{free_port()}"}
                    if server is not None:
                        options = stack.enter_context(server(folder / f"{name}{number}"))
                    providers = {} if name == "none" else {"otel": options}
                    run_tiny(folder, f"{name}-{number}", providers, {"stages": '["data", "tokenizer"]'}).wait()
                    gone = time.time()
                events = read_events(RunDir(folder / "runs" / f"{name}-{number}").events_dir)
                took.setdefault(name, []).append(gone - [event.time for event in events if event.type == "run.end"][-1])
        for name, seconds in took.items():
            print(f"end, collector {name:10} {median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


@contextlib.contextmanager
def silent(folder: Path) -> Iterator[dict[str, Any]]:
    """A collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {"endpoint": f"http://127.0.0.1:{server.getsockname()[1]}"}


# --- servers ----------------------------------------------------------------------------------------------------------


def program(name: str) -> str:
    found = subprocess.run([ROOT / ".ci" / "servers", "--path", name], capture_output=True, text=True).stdout.strip()
    return found or sys.exit(f"{name} isn't here: run .ci/servers")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def started(command: list[str], port: int) -> Iterator[None]:
    """A server that listens at a port."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, f"{command[0]} didn't start"
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(required=True)
    for name, action in (("emit", emit), ("deliver", deliver), ("step", step), ("end", end)):
        command = commands.add_parser(name)
        command.set_defaults(action=action)
        command.add_argument("--events", type=int, default=20_000)
        command.add_argument("--rounds", type=int, default=9)
        if name == "deliver":
            command.add_argument("providers", nargs="+", choices=sorted(PEERS))
        if name == "step":
            command.add_argument("--pairs", type=int, default=9)
            command.add_argument("--window", type=int, default=12, help="steps")
            command.add_argument("--ranks", type=int, default=1, help="of one thread each")
            command.add_argument("--telemetry", action="append")
    arguments = parser.parse_args()
    arguments.action(arguments)


if __name__ == "__main__":
    main()
