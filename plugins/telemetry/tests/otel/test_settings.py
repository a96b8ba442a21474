"""Where signals go: the specification's variables, in its words."""

from __future__ import annotations

import os

import pytest
from mccore_telemetry.otel.settings import OtelOptions, protocol, signals, target, timeout_seconds

from mccore.errors import ConfigError

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("OTEL_", "MC_OTEL_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variables", "options", "url"),
    [
        ({}, {}, "http://127.0.0.1:4318/v1/traces"),
        ({}, {"protocol": "grpc"}, "http://127.0.0.1:4317"),
        ({BASE: "http://h:1"}, {}, "http://h:1/v1/traces"),
        ({BASE: "http://h:1/col/"}, {}, "http://h:1/col/v1/traces"),
        ({BASE: "http://h:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t:2/x"}, {}, "http://t:2/x"),
        ({BASE: "http://h:1"}, {"endpoint": "http://o:3"}, "http://o:3/v1/traces"),
        ({"MC_OTEL_ENDPOINT": "http://m:1"}, {}, "http://m:1/v1/traces"),
        ({"MC_OTEL_ENDPOINT": "http://m:1", BASE: "http://h:1"}, {}, "http://h:1/v1/traces"),
        ({BASE: "h:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {}, "https://h:4317"),
        ({"MC_OTEL_ENDPOINT": "h:4317", "MC_OTEL_INSECURE": "1"}, {"protocol": "grpc"}, "http://h:4317"),
        ({"MC_OTEL_ENDPOINT": "h:4317", "MC_OTEL_INSECURE": "True"}, {"protocol": "grpc"}, "http://h:4317"),
        ({"MC_OTEL_ENDPOINT": "h:4317", "MC_OTEL_INSECURE": "no"}, {"protocol": "grpc"}, "https://h:4317"),
        ({BASE: "h:4317", "OTEL_EXPORTER_OTLP_INSECURE": "TRUE"}, {"protocol": "grpc"}, "http://h:4317"),
        ({BASE: "h:4317", "OTEL_EXPORTER_OTLP_INSECURE": "1"}, {"protocol": "grpc"}, "https://h:4317"),
        ({BASE: "HTTPS://h:4317"}, {"protocol": "grpc"}, "https://h:4317"),
        ({}, {"endpoint": "HTTPS://h:4317", "protocol": "grpc"}, "https://h:4317"),
    ],
)
def test_the_address_of_a_signal(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], options: dict[str, str], url: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert target(OtelOptions.model_validate(options), "traces").url == url


@pytest.mark.parametrize("address", ["http://", "ftp://h:1", "http://me:hunter2@h:1", "http://h:port"])
def test_an_address_that_is_none_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(BASE, address)
    with pytest.raises(ConfigError) as refused:
        target(OtelOptions(), "logs")
    assert BASE in refused.value.message
    assert "hunter2" not in refused.value.render()


def test_headers_of_a_signal_go_over_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "a=1,b=x%2Cy, C = Basic abc==")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "a=2")
    found = {name: value.get_secret_value() for name, value in target(OtelOptions(), "logs").headers.items()}
    assert found == {"a": "2", "b": "x,y", "c": "Basic abc=="}
    assert target(OtelOptions(), "traces").headers["a"].get_secret_value() == "1"


def test_headers_without_a_value_are_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "hunter2")
    with pytest.raises(ConfigError, match="holds no headers") as refused:
        target(OtelOptions(), "logs")
    assert "hunter2" not in refused.value.render()


def test_protocols_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (protocol(OtelOptions()), timeout_seconds(OtelOptions())) == ("http/protobuf", 10.0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert (protocol(OtelOptions()), timeout_seconds(OtelOptions())) == ("grpc", 3.0)
    assert protocol(OtelOptions(protocol="http/protobuf")) == "http/protobuf"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    with pytest.raises(ConfigError, match="http/json"):
        protocol(OtelOptions())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "GRPC")  # the SDK takes it for unsupported, too
    with pytest.raises(ConfigError, match="GRPC"):
        protocol(OtelOptions())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    with pytest.raises(ConfigError, match="no number"):
        timeout_seconds(OtelOptions())


def test_signals_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signals(OtelOptions(metrics=False)) == ("traces", "logs")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "None")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    assert signals(OtelOptions()) == ("traces", "metrics")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "TRUE")
    with pytest.raises(ConfigError, match="OTEL_SDK_DISABLED is true, so nothing is sent"):
        signals(OtelOptions())


@pytest.mark.parametrize(("text", "said"), [("GZIP", "gzip"), ("None", ""), ("", "")])
def test_compression_is_named_in_any_case(monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", text)
    assert target(OtelOptions(), "logs").compression == said


@pytest.mark.parametrize(("variable", "text"), [("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"), ("MC_OTEL_INSECURE", "ja")])
def test_a_word_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=f"{variable} is '{text}'"):
        target(OtelOptions(), "logs")


def test_what_a_signals_own_variables_say_holds_for_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "3")
    traces, logs = target(OtelOptions(), "traces"), target(OtelOptions(), "logs")
    assert (traces.protocol, traces.seconds, traces.url) == ("grpc", 3.0, "http://127.0.0.1:4317")
    assert (logs.protocol, logs.seconds, logs.url) == ("http/protobuf", 10.0, "http://127.0.0.1:4318/v1/logs")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        target(OtelOptions(), "traces")


@pytest.mark.parametrize("headers", ["key=hunter2%E2%82%AC", "a key=hunter2", "key:a=hunter2", "k\u00e9y=hunter2"])
def test_headers_that_no_client_sends_are_refused_at_once(monkeypatch: pytest.MonkeyPatch, headers: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    with pytest.raises(ConfigError, match="holds no headers") as refused:
        target(OtelOptions(), "logs")
    assert "hunter2" not in refused.value.render()
