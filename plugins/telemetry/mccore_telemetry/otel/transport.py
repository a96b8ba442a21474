"""OTLP on the wire: one request, one answer, and what the answer means for what was sent.

The SDK's exporters aren't used: their answer is success or failure, and they try again, wait and drop by themselves. Here it
has to be known whether a batch may be sent again (and when), is too large, or is lost, and how many items of an accepted
one were rejected after all (`partial_success`). What they send is what this sends: the encoders are theirs.
Rules: opentelemetry.io/docs/specs/otlp.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from typing import Protocol as Shape

from pydantic import SecretStr

from mccore.errors import ConfigError
from mccore_telemetry.shared.secrets import redact

Protocol = Literal["http/protobuf", "grpc"]
Signal = Literal["traces", "metrics", "logs"]
SIGNALS: tuple[Signal, ...] = ("traces", "metrics", "logs")

_SERVICES = {"traces": "trace.v1.TraceService", "metrics": "metrics.v1.MetricsService", "logs": "logs.v1.LogsService"}
_TRY_AGAIN_STATUS = (429, 502, 503, 504)
_TRY_AGAIN_CODES = (
    "CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS",
)  # fmt: skip
_LONGEST_MESSAGE = 300


@dataclass(frozen=True)
class Target:
    """Where one signal goes, and with what."""

    signal: Signal
    url: str
    headers: Mapping[str, SecretStr] = field(default_factory=dict)
    certificate: str = ""
    client_certificate: str = ""
    client_key: str = ""
    compression: str = ""
    protocol: Protocol = "http/protobuf"
    seconds: float = 10.0
    """What a request may take."""


class Refused(Exception):
    """A request that wasn't taken. `again`: it may be sent again, after `pause` seconds where the other side named a pause;
    `too_large`: half of it may be taken."""

    def __init__(self, why: str, *, again: bool = False, too_large: bool = False, pause: float = 0.0) -> None:
        super().__init__(why)
        self.again = again
        self.too_large = too_large
        self.pause = pause


class Transport(Shape):
    """A connection for one signal."""

    def send(self, body: bytes, seconds: float) -> bytes:
        """Send a request and wait for the answer no longer than that. Raises Refused."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def connect(target: Target) -> Transport:
    """A transport; nothing is sent yet. Raises ConfigError for certificates that can't be read."""
    for name in ("certificate", "client_certificate", "client_key"):
        path = getattr(target, name)
        if path and not os.access(path, os.R_OK):
            raise ConfigError(f"can't read the OpenTelemetry {name.replace('_', ' ')} {path}", hint="give a PEM file")
    return GrpcTransport(target) if target.protocol == "grpc" else HttpTransport(target)


class HttpTransport:
    """OTLP/HTTP with protobuf."""

    def __init__(self, target: Target) -> None:
        import requests

        self._target = target
        self._session = requests.Session()
        self._session.auth = lambda request: request  # else a .netrc replaces the headers' credentials
        self._session.headers.update({name: value.get_secret_value() for name, value in target.headers.items()})
        self._session.headers["Content-Type"] = "application/x-protobuf"
        # Given with every request: REQUESTS_CA_BUNDLE goes over what a session says.
        self._verify: bool | str = target.certificate or True
        if target.client_certificate:
            self._session.cert = (target.client_certificate, target.client_key or target.client_certificate)

    def send(self, body: bytes, seconds: float) -> bytes:
        """Send a request and wait for the answer no longer than that. Raises Refused."""
        import requests

        headers = {}
        if self._target.compression == "gzip":
            import gzip

            body, headers = gzip.compress(body, 5), {"Content-Encoding": "gzip"}
        try:
            answer = self._session.post(
                self._target.url,
                data=body,
                headers=headers,
                timeout=seconds,
                allow_redirects=False,
                verify=self._verify,
            )
        except requests.RequestException as error:
            raise Refused(self._said(_root(error)), again=True) from None
        if answer.status_code == 200:
            return answer.content
        said = f"{answer.status_code} {answer.reason}"
        text = _message(answer.content, answer.headers.get("Content-Type", ""))
        raise Refused(
            self._said(f"{said}: {text}" if text else said),
            again=answer.status_code in _TRY_AGAIN_STATUS,
            too_large=answer.status_code == 413,
            pause=_seconds(answer.headers.get("Retry-After", "")),
        )

    def close(self) -> None:
        """Let go of connections."""
        self._session.close()

    def _said(self, text: str) -> str:
        return f"{self._target.url}: {redact(text, self._target.headers.values())}"


class GrpcTransport:
    """OTLP over gRPC."""

    def __init__(self, target: Target) -> None:
        import grpc

        self._target = target
        scheme, _, rest = target.url.partition("://")
        self._place = rest.partition("/")[0]
        self._credentials: Any = None
        if scheme == "https":
            self._credentials = grpc.ssl_channel_credentials(
                root_certificates=_read(target.certificate),
                private_key=_read(target.client_key or target.client_certificate),
                certificate_chain=_read(target.client_certificate),
            )
        self._metadata = tuple((name.lower(), value.get_secret_value()) for name, value in target.headers.items())
        self._channel, self._call = self._open()

    def _open(self) -> tuple[Any, Any]:
        """A channel, which connects when it is first used, and the call of the signal's service."""
        import grpc

        gzip = self._target.compression == "gzip"
        compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
        # Channels to one place share a connection, and its pause after a failure, unless they are told not to.
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        if self._credentials is None:
            channel = grpc.insecure_channel(self._place, options=options, compression=compression)
        else:
            channel = grpc.secure_channel(self._place, self._credentials, options=options, compression=compression)
        service = _SERVICES[self._target.signal]
        return channel, channel.unary_unary(f"/opentelemetry.proto.collector.{service}/Export")

    def send(self, body: bytes, seconds: float) -> bytes:
        """Send a request and wait for the answer no longer than that. Raises Refused."""
        import grpc

        try:
            answer: bytes = self._call(body, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            code = error.code().name
            details = str(error.details() or "")
            pause = _retry_info(error)
            exhausted = code == "RESOURCE_EXHAUSTED"
            if code == "UNAVAILABLE":  # a channel that couldn't connect waits by itself, for up to two minutes
                self._channel.close()
                self._channel, self._call = self._open()
            raise Refused(
                f"{self._place}: {code}: {redact(details[:_LONGEST_MESSAGE], self._target.headers.values())}",
                again=code in _TRY_AGAIN_CODES or (exhausted and pause is not None),
                too_large=exhausted and pause is None,
                pause=pause or 0.0,
            ) from None
        return answer

    def close(self) -> None:
        """Let go of connections."""
        self._channel.close()


def _read(path: str) -> bytes | None:
    return Path(path).read_bytes() if path else None


def _root(error: BaseException) -> str:
    """The innermost cause of a library's error: the outer ones only repeat addresses."""
    seen: BaseException = error
    while (
        inner := next((one for one in seen.args if isinstance(one, BaseException)), None) or seen.__cause__
    ) is not None:
        seen = inner
    return (str(seen) or type(seen).__name__)[:_LONGEST_MESSAGE]


def _message(content: bytes, kind: str) -> str:
    """What an answer says: a google.rpc.Status, or text."""
    if kind.startswith("application/x-protobuf"):
        from google.protobuf.message import DecodeError
        from google.rpc.status_pb2 import Status

        try:
            return str(Status.FromString(content).message)[:_LONGEST_MESSAGE]
        except DecodeError:  # no protobuf after all
            return ""
    return " ".join(content[: 4 * _LONGEST_MESSAGE].decode(errors="replace").split())[:_LONGEST_MESSAGE]


def _seconds(value: str) -> float:
    """`Retry-After` as seconds; a date, which collectors don't send, as none."""
    return float(value) if value.strip().isdigit() else 0.0


def _retry_info(error: Any) -> float | None:
    """The pause that a gRPC error names, None where it names none."""
    from google.rpc.error_details_pb2 import RetryInfo
    from google.rpc.status_pb2 import Status

    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Unpack(info):
                    return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None
