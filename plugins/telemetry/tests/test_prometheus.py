"""The Prometheus provider in front of the real promtool, Prometheus and Pushgateway."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from mccore_telemetry.prometheus import PrometheusOptions, PrometheusTelemetry, mccore_telemetry_provider
from mccore_telemetry.shared.names import prometheus_name
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from mccore.api import Extension, Options, TelemetryProvider
from mccore.errors import ConfigError
from mccore.events import METRICS
from mccore.testing import TelemetryProviderSuite

from .events import every_metric, run_events, spec, step
from .servers import answers, binary, check_metrics, free_port, get, prometheus, query, running, wait_for


class TestPrometheus(TelemetryProviderSuite):
    def extension(self) -> Extension[TelemetryProvider]:
        return mccore_telemetry_provider()

    def options(self) -> Options:
        return PrometheusOptions(port=0)


@pytest.mark.servers
class TestPush(TelemetryProviderSuite):
    """The conformance suite, in front of a real Pushgateway."""

    port: int
    server: ExitStack

    @pytest.fixture(autouse=True)
    def _server(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        TestPush.log = tmp_path_factory.mktemp("gateway") / "log"
        TestPush.port = free_port()
        self.start()
        yield
        self.server.close()

    log: Path

    def start(self) -> None:
        TestPush.server = ExitStack()
        start_gateway(self.server, self.log, self.port)

    def extension(self) -> Extension[TelemetryProvider]:
        return mccore_telemetry_provider()

    def options(self) -> Options:
        return PrometheusOptions(mode="push", gateway=f"http://127.0.0.1:{self.port}")

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.server.close()
        try:
            yield
        finally:
            self.start()


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serve(cleanup: ExitStack, directory: Path, **changes: object) -> tuple[PrometheusTelemetry, str]:
    """A provider that serves, and its address."""
    options = {name: value for name, value in changes.items() if name in PrometheusOptions.model_fields}
    rest = {name: value for name, value in changes.items() if name not in options}
    who = spec(directory, **rest)
    provider = PrometheusTelemetry(PrometheusOptions.model_validate({"port": 0, **options}), who)
    cleanup.callback(provider.close)
    (target,) = json.loads((who.files / f"prometheus-rank{who.rank}.json").read_text())[0]["targets"]
    return provider, f"http://{target}/metrics"


def samples(page: str, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


def test_every_metric_is_served_with_its_value(tmp_path: Path, cleanup: ExitStack) -> None:
    provider, address = serve(cleanup, tmp_path)
    event = every_metric()
    provider.record(event)
    page = get(address)
    for name, row in METRICS.items():
        if name == "heartbeat":
            continue
        ending = "_sum" if row.kind == "histogram" else ""
        found = samples(page, prometheus_name(row) + ending)
        value = found[(("rank", "0"), ("run", "a-run"), ("stage", "base"))]
        assert value == event.metrics[name] or (math.isnan(value) and math.isnan(event.metrics[name])), name


@pytest.mark.servers
def test_promtool_has_no_objection(tmp_path: Path, cleanup: ExitStack) -> None:
    provider, address = serve(cleanup, tmp_path, commit="abc")
    for event in (*run_events(), every_metric()):
        provider.record(event)
    assert check_metrics(get(address)) == ""
    assert check_metrics("# TYPE bad_milliseconds gauge\nbad_milliseconds 1\n") != "", (
        "promtool objects to what is wrong"
    )


def test_bounds_are_cumulative_and_end_with_infinity(tmp_path: Path, cleanup: ExitStack) -> None:
    provider, address = serve(cleanup, tmp_path)
    for seconds in (0.0004, 0.15, 1000.0):
        provider.record(step(controller_duration=seconds))
    found = samples(get(address), "mccore_mc_controller_duration_seconds_bucket")
    by_bound = {dict(labels)["le"]: value for labels, value in found.items()}
    assert (by_bound["0.1"], by_bound["0.2"], by_bound["300.0"], by_bound["+Inf"]) == (1, 2, 2, 3)


def test_a_taken_port_gives_way_to_the_next_free_one(
    tmp_path: Path, cleanup: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    taken = cleanup.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    _, address = serve(cleanup, tmp_path, port=taken)
    assert f":{taken}/" not in address
    assert get(address)
    assert f"port {taken} is taken" in caplog.text


def test_two_ranks_serve_side_by_side(tmp_path: Path, cleanup: ExitStack) -> None:
    pages = [get(serve(cleanup, tmp_path, port=free_port(), rank=rank)[1]) for rank in range(2)]
    for rank, page in enumerate(pages):
        assert (("rank", str(rank)), ("run", "a-run")) in samples(page, "mccore_system_heartbeat_seconds")


def test_closing_frees_the_port_and_takes_the_address_away(tmp_path: Path) -> None:
    with ExitStack() as stack:
        _, address = serve(stack, tmp_path)
        port = int(address.rpartition(":")[2].partition("/")[0])
    assert not list((tmp_path / "telemetry").iterdir())
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("options", [{"certificate": "a.pem"}, {"client_ca": "a.pem"}, {"port": 70000}])
def test_options_that_cant_work_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PrometheusOptions.model_validate(options)


@pytest.mark.servers
def test_prometheus_finds_the_run_by_its_file_scrapes_it_and_fires_a_rule(tmp_path: Path, cleanup: ExitStack) -> None:
    rules = json.dumps(
        {"groups": [{"name": "mccore", "rules": [{"alert": "Swaps", "expr": "mccore_mc_swap_rate_ratio > 0.25"}]}]}
    )
    targets = tmp_path / "targets"
    providers = [serve(cleanup, tmp_path / name, run=name, targets=str(targets))[0] for name in ("one", "two")]
    providers[0].record(step(loss=math.nan, swap_rate=0.9, step_duration=0.05))
    providers[1].record(step(loss=math.inf, swap_rate=0.1))
    scrape = {"file_sd_configs": [{"files": [str(targets / "*.json")]}]}
    with prometheus(tmp_path / "server", scrape, rules) as server:
        found = wait_for(lambda: two if len(two := query(server, "mccore_train_loss_nats")) == 2 else None)
        assert {one["metric"]["run"]: one["value"][1] for one in found} == {"one": "NaN", "two": "+Inf"}
        (alert,) = wait_for(lambda: query(server, 'ALERTS{alertstate="firing"}'))
        assert (alert["metric"]["alertname"], alert["metric"]["run"]) == ("Swaps", "one")
        (median,) = query(server, "histogram_quantile(0.5, mccore_train_step_duration_seconds_bucket)")
        assert 0.025 < float(median["value"][1]) <= 0.05


def start_gateway(cleanup: ExitStack, log: Path, port: int = 0) -> str:
    port = port or free_port()
    # Debian's keeps what was pushed in a file of the machine.
    command = [binary("pushgateway"), f"--web.listen-address=127.0.0.1:{port}", "--persistence.file="]
    process = cleanup.enter_context(running(command, log))
    address = f"http://127.0.0.1:{port}"
    wait_for(lambda: answers(f"{address}/-/ready"), process=process)
    return address


@pytest.fixture
def gateway(tmp_path: Path, cleanup: ExitStack) -> str:
    return start_gateway(cleanup, tmp_path / "gateway.log")


@pytest.mark.servers
def test_a_gateway_keeps_what_was_pushed_last(tmp_path: Path, gateway: str) -> None:
    provider = PrometheusTelemetry(PrometheusOptions(mode="push", gateway=gateway), spec(tmp_path, run="a/run"))
    for event in run_events():
        provider.record(event)
    provider.flush()
    provider.record(step(9))
    provider.close()
    page = get(f"{gateway}/metrics")
    (series,) = samples(page, "mccore_train_loss_nats").items()
    assert dict(series[0]) == {"run": "a/run", "rank": "0", "stage": "base", "job": "mccore", "instance": "rank0"}
    assert series[1] == step(9).metrics["loss"]
    assert len(samples(page, "mccore_system_last_success_timestamp_seconds")) == 1
    assert not (tmp_path / "telemetry").exists(), "nothing is served"


@pytest.mark.servers
def test_what_a_gateway_refuses_is_raised_in_its_words(tmp_path: Path, gateway: str) -> None:
    provider = PrometheusTelemetry(PrometheusOptions(mode="push", gateway=f"{gateway}/nowhere"), spec(tmp_path))
    with pytest.raises(OSError, match="404 Not Found"):
        provider.flush()


def test_a_gateway_that_is_down_is_left_alone_for_a_while(tmp_path: Path) -> None:
    gateway = f"http://127.0.0.1:{free_port()}"
    provider = PrometheusTelemetry(PrometheusOptions(mode="push", gateway=gateway), spec(tmp_path))
    with pytest.raises(OSError, match="refused"):
        provider.flush()
    with socket.create_server(("127.0.0.1", int(gateway.rpartition(":")[2]))) as listening:
        listening.settimeout(0)
        with pytest.raises(OSError, match="refused"):
            provider.flush()
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_a_user_without_a_password_is_told_which_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWAY_PASSWORD", raising=False)
    options = PrometheusOptions(mode="push", user="me", password_variable="GATEWAY_PASSWORD")
    with pytest.raises(ConfigError, match="has no password") as refused:
        PrometheusTelemetry(options, spec(tmp_path))
    assert "GATEWAY_PASSWORD" in refused.value.render()


def test_a_chat_beside_a_run_has_a_target_of_its_own(tmp_path: Path) -> None:
    targets = tmp_path / "targets"
    with ExitStack() as run:
        serve(run, tmp_path / "run", targets=str(targets))
        before = {file.name: file.read_text() for file in targets.iterdir()}
        for service in ("chat", "serve"):
            with ExitStack() as beside:
                serve(beside, tmp_path / service, targets=str(targets), service=service)
                assert len(list(targets.iterdir())) == 2
        assert {file.name: file.read_text() for file in targets.iterdir()} == before


def test_a_directory_of_targets_that_cant_be_written_is_told_and_leaves_no_server(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    port = free_port()
    options = PrometheusOptions(port=port, targets=str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="file"):
        PrometheusTelemetry(options, spec(tmp_path))
    socket.create_server(("127.0.0.1", port)).close()
