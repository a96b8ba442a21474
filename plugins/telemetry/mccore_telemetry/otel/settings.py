"""Where OpenTelemetry data goes: options first, then the standard `OTEL_EXPORTER_OTLP_*` variables, then `MC_OTEL_*`.

What the variables mean is the specification's (opentelemetry.io/docs/specs/otel/protocol/exporter); a time-out is in
seconds, as everywhere in Python. Nothing of what they hold is written anywhere.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Literal, cast
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr

from mccore.api import Options
from mccore.errors import ConfigError
from mccore_telemetry.otel.transport import SIGNALS, Protocol, Signal, Target
from mccore_telemetry.shared.secrets import Url, Variable

_log = logging.getLogger(__name__)
_PORTS = {"http/protobuf": 4318, "grpc": 4317}
_HEADER = re.compile(r"[a-z0-9_.-]+")  # what HTTP and gRPC both take as a name
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_COMPRESSIONS = ("", "none", "gzip")


class OtelOptions(Options):
    """Where traces, metrics and logs go; what is left empty is taken from the standard variables."""

    endpoint: Url = Field(
        "", description="address of the collector, without /v1/traces; empty is what the variables say"
    )
    protocol: Literal["", "http/protobuf", "grpc"] = Field(
        "", description="protocol, http/protobuf where nothing else says"
    )
    headers_variable: Variable = Field(
        "OTEL_EXPORTER_OTLP_HEADERS", description="environment variable with headers (name=value,...), for credentials"
    )
    certificate: str = Field("", description="file of the authority that signed the collector's certificate")
    client_certificate: str = Field("", description="file of our own certificate, for mutual TLS")
    client_key: str = Field("", description="file of our own certificate's key")
    compression: Literal["", "none", "gzip"] = Field("", description="compression of requests")
    timeout_seconds: float = Field(0.0, ge=0, description="what a request may take; 0 is what the variables say, or 10")
    traces: bool = Field(True, description="send spans")
    metrics: bool = Field(True, description="send metrics")
    logs: bool = Field(True, description="send log records")


def signals(options: OtelOptions) -> tuple[Signal, ...]:
    """The signals that are sent: not those whose OTEL_..._EXPORTER is none.

    Raises ConfigError where OTEL_SDK_DISABLED turns all off: else everything would count as sent, and nothing be.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        raise ConfigError("OTEL_SDK_DISABLED is true, so nothing is sent", hint="unset it, or choose another provider")
    return tuple(
        signal
        for signal in SIGNALS
        if getattr(options, signal) and os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower() != "none"
    )


def protocol(options: OtelOptions, signal: Signal | None = None) -> Protocol:
    """How to speak. Raises ConfigError for a protocol that isn't spoken here."""
    named = options.protocol or _variable("PROTOCOL", signal) or "http/protobuf"
    if named not in _PORTS:
        raise ConfigError(
            f"{_name('PROTOCOL', signal)} is {named!r}, which isn't spoken here", hint="use http/protobuf or grpc"
        )
    return cast(Protocol, named)


def timeout_seconds(options: OtelOptions, signal: Signal | None = None) -> float:
    """What a request may take. Raises ConfigError for a variable that is no number."""
    if options.timeout_seconds:
        return options.timeout_seconds
    try:
        seconds = float(_variable("TIMEOUT", signal) or 10.0)
    except ValueError:
        raise ConfigError(f"{_name('TIMEOUT', signal)} is no number of seconds", hint="correct or unset it") from None
    return seconds if 0 < seconds < 3600 else 10.0


def insecure(signal: Signal) -> bool:
    """Whether an address without a scheme means no TLS. Raises ConfigError for what MC_OTEL_INSECURE can't be."""
    if said := _variable("INSECURE", signal):
        if said.lower() not in ("true", "false"):  # false, says the specification, with a warning
            _log.warning(
                "%s is %r, which is neither true nor false: it counts as false", _name("INSECURE", signal), said
            )
        return said.lower() == "true"
    ours = os.environ.get("MC_OTEL_INSECURE", "").strip().lower()
    if ours and ours not in _WORDS:
        raise ConfigError(f"MC_OTEL_INSECURE is {ours!r}", hint="set it to true or false, or unset it")
    return _WORDS.get(ours, False)


def compression(options: OtelOptions, signal: Signal) -> str:
    """`gzip`, or empty for none. Raises ConfigError for one that isn't spoken here."""
    named = options.compression or _variable("COMPRESSION", signal).lower()
    if named not in _COMPRESSIONS:
        raise ConfigError(
            f"{_name('COMPRESSION', signal)} is {named!r}, which isn't spoken here", hint="use gzip or none"
        )
    return "" if named == "none" else named


def target(options: OtelOptions, signal: Signal) -> Target:
    """Where one signal goes. Raises ConfigError for an address that is none."""
    return Target(
        signal,
        _url(options, signal, insecure(signal)),
        _headers(options, signal),
        options.certificate or _variable("CERTIFICATE", signal),
        options.client_certificate or _variable("CLIENT_CERTIFICATE", signal),
        options.client_key or _variable("CLIENT_KEY", signal),
        compression=compression(options, signal),
        protocol=protocol(options, signal),
        seconds=timeout_seconds(options, signal),
    )


def _url(options: OtelOptions, signal: Signal, insecure: bool) -> str:
    spoken = protocol(options, signal)
    base, source = options.endpoint, "telemetry.otel.options.endpoint"
    if not base:
        own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
        if exact := os.environ.get(own, "").strip():
            return _whole(exact, own, insecure)  # used as it is, says the specification
        for source in ("OTEL_EXPORTER_OTLP_ENDPOINT", "MC_OTEL_ENDPOINT"):
            if base := os.environ.get(source, "").strip():
                break
    base = _whole(base or f"http://127.0.0.1:{_PORTS[spoken]}", source, insecure)
    return base if spoken == "grpc" else f"{base.rstrip('/')}/v1/{signal}"


def _whole(address: str, source: str, insecure: bool) -> str:
    """An address with its scheme: gRPC's habit is to leave it out. Insecure means without TLS there, and nothing elsewhere."""
    if "://" not in address:
        address = f"{'http' if insecure else 'https'}://{address}"
    try:
        parts = urlsplit(address)
        if parts.scheme in ("http", "https") and parts.hostname and "@" not in address and parts.port != 0:
            return f"{parts.scheme}://{address.partition('://')[2]}"  # HTTPS is https to whoever looks for it
    except ValueError:
        pass
    raise ConfigError(
        f"{source} isn't an address", hint="write http://HOST:PORT; credentials go into OTEL_EXPORTER_OTLP_HEADERS"
    )


def _headers(options: OtelOptions, signal: Signal) -> Mapping[str, SecretStr]:
    """Headers of a signal over those of all, as W3C baggage writes them: `name=value,...` with values quoted for URLs."""
    found: dict[str, SecretStr] = {}
    for variable in (options.headers_variable, f"OTEL_EXPORTER_OTLP_{signal.upper()}_HEADERS"):
        for pair in os.environ.get(variable, "").split(",") if variable else ():
            name, equals, value = pair.partition("=")
            if not pair.strip():
                continue
            name, value = name.strip().lower(), unquote(value).strip()
            # More would pass here and fail in the client, at every request.
            if not equals or not _HEADER.fullmatch(name) or not (value.isascii() and value.isprintable()):
                raise ConfigError(f"{variable} holds no headers", hint="write name=value, more after a comma")
            found[name] = SecretStr(value)
    return found


def _variable(name: str, signal: Signal | None = None) -> str:
    """The value of a standard variable, a signal's own first."""
    return os.environ.get(_name(name, signal), "").strip()


def _name(name: str, signal: Signal | None) -> str:
    """The standard variable that holds, a signal's own where it is set."""
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}" if signal else ""
    return own if os.environ.get(own, "").strip() else f"OTEL_EXPORTER_OTLP_{name}"
