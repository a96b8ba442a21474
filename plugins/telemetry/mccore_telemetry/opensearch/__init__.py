"""Send events into an OpenSearch data stream, each a document that is stored once however often it is sent.

What can't be sent waits in memory while the node is away, then goes to a file in the run's directory. That file and the run's
own event file hold whatever the node lacks, and sending a run again fills the gaps.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, TypeAdapter, ValidationError, model_validator

from mccore.api import EventsLost, Extension, Options, TelemetryProvider, TelemetrySpec
from mccore.errors import ConfigError
from mccore.events import Event
from mccore.hookspecs import hookimpl
from mccore_telemetry.opensearch.bulk import DataStream, Outcome
from mccore_telemetry.opensearch.dead_letters import DeadLetters
from mccore_telemetry.opensearch.schema import Document, Source, document
from mccore_telemetry.shared.batches import Backlog, Backoff
from mccore_telemetry.shared.secrets import Url, Variable, basic_authentication, read_secret, redact

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

_log = logging.getLogger(__name__)
_URL_VARIABLE = "MCCORE_OPENSEARCH_URL"
_DEFAULT_URL = "http://127.0.0.1:9200"
_CLOSING = 0.8  # of the patience for sending what is left; the rest is for keeping what couldn't be sent


def _check_file(value: str) -> str:
    if value and not Path(value).expanduser().is_file():
        raise ValueError(f"there is no file {value}")
    return value


File = Annotated[str, AfterValidator(_check_file)]


class OpenSearchOptions(Options):
    """Where the data stream is and who may write to it."""

    url: Url = Field("", description=f"address of the node; empty: {_URL_VARIABLE}, or {_DEFAULT_URL}")
    stream: str = Field("mccore-events", pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$", description="name of the data stream")
    create: bool = Field(True, description="make the index template and the data stream, or add fields they lack")
    user: str = Field("", description="user for basic authentication")
    password_variable: Variable = Field("MCCORE_OPENSEARCH_PASSWORD", description="variable that has the password")
    api_key_variable: Variable = Field("MCCORE_OPENSEARCH_API_KEY", description="variable that has an API key")
    ca_file: File = Field("", description="certificates of authorities to trust; empty: those of the certifi package")
    client_certificate: File = Field("", description="certificate that this side shows")
    client_key: File = Field("", description="key of that certificate")
    verify: bool = Field(True, description="whether the node's certificate must be valid")
    timeout_seconds: float = Field(5.0, gt=0, le=300, description="what one request may take")
    batch_events: int = Field(1000, ge=1, le=20_000, description="documents of one request")
    waiting_events: int = Field(20_000, ge=1, description="events kept in memory while the node can't be reached")
    dead_letter_mib: int = Field(64, ge=0, description="size of the file for events that couldn't be sent")

    @model_validator(mode="after")
    def _key_has_certificate(self) -> OpenSearchOptions:
        if self.client_key and not self.client_certificate:
            raise ValueError("client_key needs client_certificate")
        return self


class OpenSearchTelemetry:
    """Sends batches; see the module."""

    def __init__(self, options: OpenSearchOptions, spec: TelemetrySpec) -> None:
        self._options = options
        self._patience = spec.patience_seconds
        self._source = Source(spec.run, spec.run_id, spec.service)
        password, api_key = read_secret(options.password_variable), read_secret(options.api_key_variable)
        self._secrets = [password, api_key, basic_authentication(options.user, password) if password else None]
        self._url = options.url or _url_of_environment() or _DEFAULT_URL
        self._client = connect(options, self._url, password, api_key)
        self._stream = DataStream(self._client, options.stream, create=options.create, documents=options.batch_events)
        self._waiting: Backlog[Document] = Backlog(options.waiting_events)
        self._backoff = Backoff()
        self._failing = False
        self._trouble = ""
        self._letters = DeadLetters(
            spec.files / f"opensearch-rank{spec.rank}-unsent.jsonl", options.dead_letter_mib << 20
        )

    def record(self, event: Event) -> None:
        """Take one event; a full batch is sent. Raises EventsLost for those the node refuses, or that can't wait any longer."""
        lost = 0
        if len(self._waiting) >= self._options.waiting_events:
            lost = self._give_up(self._waiting.take(max(1, self._options.waiting_events // 10)), self._trouble)
        self._waiting.add(document(event, self._source))
        if len(self._waiting) >= self._options.batch_events and self._backoff.ready:
            lost += self._send()
        self._report(lost)

    def flush(self) -> None:
        """Send what waits. Raises ConnectionError while that can't be done and EventsLost for what the node refuses."""
        lost = 0
        self._failing = not self._backoff.ready
        while len(self._waiting) and not self._failing:
            lost += self._send()
        self._report(lost)
        if len(self._waiting):
            raise ConnectionError(f"{self._trouble} ({len(self._waiting):,} events wait)")

    def close(self) -> None:
        """Send what waits within the run's patience; the rest goes to the file, and EventsLost says how many those are."""
        deadline = time.monotonic() + _CLOSING * self._patience
        lost = 0
        rest = self._waiting.take(len(self._waiting))
        if rest:
            outcome = self._deliver(rest, deadline)
            lost = self._refuse(outcome) + self._give_up(outcome.retry, self._redact(outcome.why))
        self._client.close()
        self._report(lost)

    def _send(self) -> int:
        """Send one batch, put back what must wait, and return how many the node won't ever take."""
        batch = self._waiting.take(self._options.batch_events)
        outcome = self._deliver(batch)
        lost = self._refuse(outcome)
        self._failing = bool(outcome.retry)
        if self._failing:
            self._trouble = self._redact(outcome.why)
            self._waiting.give_back(outcome.retry)
            self._backoff.failed()
        else:
            self._backoff.succeeded()
        return lost

    def _deliver(self, documents: Sequence[Document], deadline: float = float("inf")) -> Outcome:
        """What came of documents. A fault of this code gives them up, counted and told as what it is: others may pass."""
        try:
            return self._stream.send(documents, self._options.timeout_seconds, deadline)
        except Exception as fault:
            _log.exception("documents couldn't be sent")
            why = f"a fault of mccore itself ({type(fault).__name__}: {fault})"
            return Outcome(refused=[(document, why) for document in documents])

    def _refuse(self, outcome: Outcome) -> int:
        for refused, why in outcome.refused:
            self._give_up([refused], self._redact(why))
        return len(outcome.refused)

    def _give_up(self, documents: Sequence[Document], why: str) -> int:
        if documents:
            self._trouble = why
            self._letters.add([document.event for document in documents], why)
        return len(documents)

    def _report(self, lost: int) -> None:
        if lost:
            raise EventsLost(lost, f"{self._url}: {self._trouble}; {self._letters.describe()}")

    def _redact(self, text: str) -> str:
        return redact(text, self._secrets)


def _url_of_environment() -> str:
    try:
        return TypeAdapter(Url).validate_python(os.environ.get(_URL_VARIABLE, "").strip())
    except ValidationError as error:  # whose own text shows the value, a password in it included
        raise ConfigError(f"{_URL_VARIABLE}: {error.errors()[0]['msg']}") from None


def connect(options: OpenSearchOptions, url: str, password: SecretStr | None, api_key: SecretStr | None) -> OpenSearch:
    """A client that tries once and prints nothing: pauses and reports are the provider's."""
    with _absent("aiohttp"):
        from opensearchpy import OpenSearch

    # Without a handler the client's warnings about every failed request would go to standard error.
    logging.getLogger("opensearch").addHandler(logging.NullHandler())
    settings: dict[str, Any] = {}
    if api_key:
        settings["headers"] = {"Authorization": f"ApiKey {api_key.get_secret_value()}"}
    elif options.user:
        settings["http_auth"] = (options.user, password.get_secret_value() if password else "")
    if url.startswith("https:"):
        settings |= {"verify_certs": options.verify, "ssl_show_warn": False}
        for name, value in (
            ("ca_certs", options.ca_file),
            ("client_cert", options.client_certificate),
            ("client_key", options.client_key),
        ):
            if value:
                settings[name] = str(Path(value).expanduser())
    return OpenSearch(hosts=[url], max_retries=0, retry_on_timeout=False, pool_maxsize=1, **settings)


@contextlib.contextmanager
def _absent(package: str) -> Iterator[None]:
    """Import as if a package weren't installed, unless it is loaded already.

    Where there is aiohttp, opensearch-py loads it and an asynchronous client that nothing here uses: 10 MB of the process.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # what the import system takes for a package that isn't there
    try:
        yield
    finally:
        sys.modules.pop(package, None)


@hookimpl
def mccore_telemetry_provider() -> Extension[TelemetryProvider]:
    return Extension(
        build=OpenSearchTelemetry,
        options=OpenSearchOptions,
        summary="send events into an OpenSearch data stream",
    )
