"""What is asked of the hub, through `huggingface_hub` and `datasets`, and what its answers mean to a person.

`HF_TOKEN`, `HF_ENDPOINT` (a mirror) and `HF_HUB_OFFLINE` hold as everywhere. The libraries are imported when the network is
needed: what is on this machine already is used without them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from mccore.data.hub.address import HubAddress
from mccore.data.hub.listing import HubFile, Listing
from mccore.errors import DataError, MccoreError

_LATER = (408, 425, 429, 500, 502, 503, 504)  # what may be gone the next time
_SHOWN = 300  # characters of a library's message


class HubUnavailable(DataError):
    """The hub doesn't answer, or not now: the same may work later. `retry_after` is what it asks for, in seconds."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


def offline() -> bool:
    """Whether the network isn't to be used."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE")


def endpoint() -> str:
    """The hub's address, or that of the mirror in HF_ENDPOINT."""
    return (os.environ.get("HF_ENDPOINT", "").strip() or "https://huggingface.co").rstrip("/")


def look_up(address: HubAddress) -> Listing:
    """What a data set holds now. Raises HubUnavailable without the network, DataError for what doesn't exist."""
    _check_online(address)
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with _explained(address):
        api = HfApi(endpoint=endpoint())
        commit = api.dataset_info(address.repository, revision=address.revision).sha
        if not commit:
            raise DataError(f"{endpoint()} tells no commit of {address}", hint="use another mirror in HF_ENDPOINT")
        tree = api.list_repo_tree(address.repository, repo_type="dataset", revision=commit, recursive=True)
        files = {
            entry.path: HubFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
            for entry in tree
            if isinstance(entry, RepoFile)
        }
    return Listing(address.repository, address.revision, commit, files)


def find_splits(address: HubAddress, commit: str) -> dict[str, list[str]]:
    """The files of each split of a configuration, as `datasets` finds them: from the card, else from their names.

    Raises HubUnavailable without the network, DataError where there is no such configuration.
    """
    _check_online(address)
    import datasets

    datasets.disable_progress_bars()
    try:
        with _explained(address):
            builder = datasets.load_dataset_builder(address.repository, address.config or None, revision=commit)
        found = builder.config.data_files or {}
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError, FileNotFoundError) as error:
        raise DataError(
            f"{address}: {_first_line(error)}",
            hint="name a configuration (hf:OWNER/NAME/CONFIG), or try @refs/convert/parquet, the hub's own copy as parquet",
        ) from error
    prefix = f"hf://datasets/{address.repository}@{commit}/"
    return {str(split): [str(path).removeprefix(prefix) for path in paths] for split, paths in found.items()}


def _check_online(address: HubAddress) -> None:
    if offline():
        raise HubUnavailable(
            f"{address} isn't on this machine, and HF_HUB_OFFLINE is set",
            hint=f"unset it, or run `mccore data get {address}` where there is a network",
        )


@contextlib.contextmanager
def open_file(listing: Listing, file: HubFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """(first byte, the bytes from there): from `start` on where the server knows ranges, else from 0.

    Raises HubUnavailable for what may work later, DataError for the rest.
    """
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(listing.repository, file.path, repo_type="dataset", revision=listing.commit, endpoint=endpoint())
    headers = build_hf_headers(library_name="mccore") | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with (
        _explained(f"{listing.repository}/{file.path}"),
        get_session().stream("GET", url, headers=headers, timeout=30.0, follow_redirects=True) as answer,
    ):
        if answer.status_code >= 400:
            _raise_for_status(f"{listing.repository}/{file.path}", answer)
        yield (start if answer.status_code == 206 else 0), answer.iter_bytes()


def _raise_for_status(what: object, answer: Any) -> None:
    status, wait = answer.status_code, answer.headers.get("Retry-After", "")
    if status in _LATER:
        busy = "asks to wait (429)" if status == 429 else f"answers {status}"
        raise HubUnavailable(
            f"{what}: {endpoint()} {busy}",
            hint="try again later; what has come is kept"
            + ("; with HF_TOKEN more is allowed" if status == 429 else ""),
            retry_after=float(wait) if wait.isdecimal() else None,
        )
    if status in (401, 403):
        raise DataError(f"{what} isn't open to you ({status})", hint=_ACCESS)
    raise DataError(
        f"{what}: {endpoint()} answers {status}", hint="check its name; `mccore data get --update` asks anew"
    )


_ACCESS = "check its name; for private and gated data set HF_TOKEN and accept the terms on its page"


@contextlib.contextmanager
def _explained(what: object) -> Iterator[None]:
    """Turn what the libraries raise into what a person can act on."""
    import httpx2
    from huggingface_hub.errors import (
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except MccoreError:
        raise
    except RevisionNotFoundError as error:
        raise DataError(f"{what} has no such revision", hint="name a branch, a tag or a commit after @") from error
    except RepositoryNotFoundError as error:
        raise DataError(f"{what} isn't on {endpoint()}, or not open to you", hint=_ACCESS) from error
    except HfHubHTTPError as error:
        _raise_for_status(what, error.response)
    except (httpx2.TransportError, OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        raise HubUnavailable(
            f"{what}: {endpoint()} can't be reached: {_first_line(error)}",
            hint="check the network, or name a mirror in HF_ENDPOINT; what has come is kept",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_SHOWN]
