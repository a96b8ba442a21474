"""Bulk requests to one data stream, and what came of every document.

The client's own helper isn't used: it retries a connection without a pause, documents that were refused with 429 only in one
of its modes, those with 503 never, and doesn't say which document failed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mccore_telemetry.opensearch import answers
from mccore_telemetry.opensearch.answers import ForeignAnswer
from mccore_telemetry.opensearch.schema import Document, index_template

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

_ANSWER = "errors,items.create.status,items.create.error.type,items.create.error.reason"
_AGAIN = (429, 500, 502, 503, 504)
_IDS_A_SEARCH = 500
_SKEW_SECONDS = 300.0  # how much later than this machine's the node's clock may be


@dataclass
class Outcome:
    """What came of documents: `delivered` are in the data stream, `retry` may be sent again, `refused` never."""

    delivered: int = 0
    retry: list[Document] = field(default_factory=list)
    refused: list[tuple[Document, str]] = field(default_factory=list)
    why: str = ""
    """Why there is something in `retry`."""


class DataStream:
    """The data stream `name` on a node, made with its index template where it isn't there."""

    def __init__(
        self, client: OpenSearch, name: str, *, create: bool = True, documents: int = 1000, bytes: int = 5 << 20
    ) -> None:
        self.name = name
        self._client = client
        self._create = create
        self._documents = documents
        self._bytes = bytes
        self._ready = False
        self._doubtful = True  # whether what comes next may be in the stream already
        self._begun = 0.0  # since when the present index is written to; 0 for a stream of one index
        self._refreshed = False

    def send(self, documents: Sequence[Document], timeout: float, deadline: float = float("inf")) -> Outcome:
        """Send documents in as many requests as it takes, each of `timeout` seconds at most, none after `deadline`.

        A document that was sent before isn't stored twice. After the first request that fails the rest is left for another
        try.
        """
        from opensearchpy.exceptions import OpenSearchException

        outcome = Outcome()
        chunks = deque(self._chunks(documents))
        while chunks:
            chunk = chunks.popleft()
            seconds = min(timeout, deadline - time.monotonic())
            try:
                if seconds <= 0:
                    raise TimeoutError("there was no time left to send it")
                self._prepare(seconds)
                chunk = self._without_known(chunk, seconds, outcome)
                self._request(chunk, seconds, outcome)
            except (OpenSearchException, OSError, ForeignAnswer) as error:
                if getattr(error, "status_code", None) == 413:
                    chunks.extendleft(reversed(self._smaller(chunk, outcome)))
                    continue
                self._doubtful = True  # the answer may be lost, not the documents
                outcome.retry += chunk
                outcome.retry += [document for rest in chunks for document in rest]
                outcome.why = say(error)
                break
        return outcome

    # --- requests -----------------------------------------------------------------------------------------------------

    def _chunks(self, documents: Sequence[Document]) -> Iterator[list[Document]]:
        chunk: list[Document] = []
        size = 0
        for document in documents:
            if chunk and (len(chunk) == self._documents or size + len(document.lines) > self._bytes):
                yield chunk
                chunk, size = [], 0
            chunk.append(document)
            size += len(document.lines)
        if chunk:
            yield chunk

    def _smaller(self, chunk: list[Document], outcome: Outcome) -> list[list[Document]]:
        """Halves of a request that was too large for the node. A single document of that size is refused."""
        size = sum(len(document.lines) for document in chunk)
        if len(chunk) == 1:
            outcome.refused.append((chunk[0], f"413: larger than the node takes ({size:,} bytes)"))
            return []
        self._bytes = min(self._bytes, max(size // 2, 1))
        return [chunk[: len(chunk) // 2], chunk[len(chunk) // 2 :]]

    def _request(self, chunk: list[Document], seconds: float, outcome: Outcome) -> None:
        if not chunk:
            return
        answer = self._ask(
            self._client.bulk,
            body=b"".join(document.lines for document in chunk),
            index=self.name,
            params={"filter_path": _ANSWER, "request_timeout": seconds},
        )
        refusals = answers.refusals(answer, len(chunk))
        for place, document in enumerate(chunk):
            if place not in refusals:
                outcome.delivered += 1
                continue
            status, reason = refusals[place]
            if status in _AGAIN:
                outcome.retry.append(document)
                outcome.why = f"{status}: {reason}"
            else:
                outcome.refused.append((document, f"{status}: {reason}"))

    def _ask(self, request: Callable[..., Any], **arguments: Any) -> Any:
        """What the client makes of a request's answer. Raises as the client does, and ForeignAnswer where it stumbles itself."""
        try:
            return request(**arguments)
        except (AttributeError, UnicodeDecodeError) as error:
            # opensearch-py 3 asks the JSON of a refusal for its `error` even where that is a list, and reads all as UTF-8.
            raise ForeignAnswer(f"an answer that isn't OpenSearch's ({type(error).__name__}: {error})") from error

    # --- the stream itself --------------------------------------------------------------------------------------------

    def _prepare(self, seconds: float) -> None:
        """Make sure of the template and the stream, then see which indices it has, once and again after every doubt."""
        if not self._ready:
            if self._create:
                self._ensure_template(seconds)
                self._ensure_stream(seconds)
            self._ready = True
        if self._doubtful:
            self._begun = self._write_index_begun(seconds)
            self._doubtful = self._refreshed = False

    def _ensure_template(self, seconds: float) -> None:
        """Put the template, or add to the one that is there the fields it lacks: its settings are the operators' own."""
        params = {"request_timeout": seconds}
        wanted = index_template(self.name)
        answer = self._found(self._client.indices.get_index_template, name=self.name, params=params)
        if answer is not None:
            ours = wanted["template"]["mappings"]
            wanted, present = answers.index_template(answer)
            if not answers.add_missing(present, ours):
                return
        self._ask(self._client.indices.put_index_template, name=self.name, body=wanted, params=params)

    def _ensure_stream(self, seconds: float) -> None:
        params = {"request_timeout": seconds}
        answer = self._found(self._client.indices.get_mapping, index=self.name, params=params)
        if not answer:
            self._create_stream(params)
            return
        present = answers.newest_mappings(answer)
        if answers.add_missing(present, index_template(self.name)["template"]["mappings"]):
            properties = {"properties": present["properties"]}
            self._ask(self._client.indices.put_mapping, index=self.name, body=properties, params=params)

    def _create_stream(self, params: Mapping[str, Any]) -> None:
        from opensearchpy.exceptions import RequestError

        try:
            self._ask(self._client.indices.create_data_stream, name=self.name, params=params)
        except RequestError as error:
            if error.error != "resource_already_exists_exception":  # another rank was first
                raise

    def _found(self, request: Callable[..., Any], **arguments: Any) -> Any:
        """The answer to a request for what may not be there; None where it isn't."""
        from opensearchpy.exceptions import NotFoundError

        try:
            return self._ask(request, **arguments)
        except NotFoundError:
            return None

    # --- nothing twice ------------------------------------------------------------------------------------------------

    def _write_index_begun(self, seconds: float) -> float:
        """When the index that is written to was made, in seconds since 1970; 0 where the stream has no older ones.

        An id is refused only by the index that has it, so after a rollover older documents must be looked for.
        """
        from opensearchpy.exceptions import AuthorizationException

        params = {"request_timeout": seconds}
        try:
            indices = answers.indices(self._ask(self._client.indices.get_data_stream, name=self.name, params=params))
            if len(indices) < 2:
                return 0.0
            settings = self._ask(self._client.indices.get_settings, index=indices[-1], params=params)
        except AuthorizationException:  # a key that may only write
            return 0.0
        return answers.creation_time(settings, indices[-1])

    def _without_known(self, chunk: list[Document], seconds: float, outcome: Outcome) -> list[Document]:
        old = [document.id for document in chunk if document.event.time < self._begun + _SKEW_SECONDS]
        if not self._begun or not old:
            return chunk
        if not self._refreshed:
            self._ask(self._client.indices.refresh, index=self.name, params={"request_timeout": seconds})
            self._refreshed = True
        known: set[str] = set()
        for first in range(0, len(old), _IDS_A_SEARCH):
            ids = old[first : first + _IDS_A_SEARCH]
            body = {"query": {"ids": {"values": ids}}, "_source": False, "size": len(ids)}
            answer = self._ask(self._client.search, index=self.name, body=body, params={"request_timeout": seconds})
            known |= answers.found_ids(answer)
        outcome.delivered += len([document for document in chunk if document.id in known])
        return [document for document in chunk if document.id not in known]


def say(error: Exception) -> str:
    """One line of what the node, or the way to it, said."""
    status = getattr(error, "status_code", None)
    if isinstance(error, ForeignAnswer):
        return str(error)
    if status is None:
        return f"{type(error).__name__}: {error}"
    if not isinstance(status, int):
        return f"{type(error).__name__}: {error.args[1] if len(error.args) > 1 else error}"
    reason = _reason(error)
    hints = {401: "the user, password or key isn't accepted", 403: "the user or key may not do this"}
    return f"{status}: {reason}" + (f" ({hints[status]})" if status in hints else "")


def _reason(error: Any) -> str:
    info = error.info if len(error.args) > 2 else None
    told = info.get("error") if isinstance(info, dict) else None
    if isinstance(told, dict):
        return str(told.get("reason") or told.get("type"))
    return str(told or (info if isinstance(info, str) else "") or error.error)[:300]
