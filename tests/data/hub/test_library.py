"""What of the hub is on this machine, and what the hub is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mccore.data.hub.address import HubAddress, parse_address
from mccore.data.hub.client import HubUnavailable
from mccore.data.hub.download import Patience
from mccore.data.hub.library import Library
from mccore.errors import DataError
from tests.support.hub import Fault, parquet

ADDRESS = HubAddress("someone/text")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "hub", patience=Patience(first_wait=0.001, attempts=1))


def ignore(done: int, total: int) -> None:
    """Nobody watches."""


def test_a_listing_is_asked_for_once_and_holds_offline(hub, library, monkeypatch):
    commit = hub.add(ADDRESS.repository, {"a.bin": b"one"})
    assert library.listing(ADDRESS).commit == commit
    hub.add(ADDRESS.repository, {"a.bin": b"two"})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert library.listing(ADDRESS).commit == commit
    with pytest.raises(HubUnavailable, match="HF_HUB_OFFLINE is set") as caught:
        library.listing(ADDRESS, update=True)
    assert "mccore data get hf:someone/text" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("address", "fault", "message"),
    [
        (HubAddress("someone/nothing"), Fault(), "hf:someone/nothing isn't on http"),
        (HubAddress("someone/text", revision="v9"), Fault(), "hf:someone/text@v9 has no such revision"),
        (ADDRESS, Fault(status=503), "answers 503"),
    ],
)
def test_what_the_hub_refuses(hub, library, address, fault, message):
    hub.add(ADDRESS.repository, {"a.bin": b"one"})
    hub.fail("api/someone/text", *[fault] * 9)
    with pytest.raises(DataError, match=message):
        library.listing(address)
    assert not list(library.root.rglob("*.json"))


def test_without_a_hub(library, hub, monkeypatch):
    hub.close()
    with pytest.raises(HubUnavailable, match="can't be reached"):
        library.listing(ADDRESS)


def test_a_private_data_set_needs_its_token(hub, library, monkeypatch):
    hub.add(ADDRESS.repository, {"a.bin": b"one"}, token="hf_secret")
    with pytest.raises(DataError, match="not open to you") as caught:
        library.listing(ADDRESS)
    assert "HF_TOKEN" in str(caught.value.hint)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    listing = library.listing(ADDRESS)
    library.get(listing, list(listing.files.values()), ignore)
    assert library.has(listing, listing.files["a.bin"])


def test_splits_are_those_that_the_card_names(hub, library):
    card = b"""---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: validation
    path: main/held-*
- config_name: other
  data_files: other/*
---
"""
    rows = parquet(text=["a"])
    hub.add(
        ADDRESS.repository,
        {"README.md": card, "main/train-0.parquet": rows, "main/held-0.parquet": rows, "other/x.parquet": rows},
    )
    listing = library.listing(parse_address("hf:someone/text/main"), splits=True)
    assert listing.splits == {"train": ["main/train-0.parquet"], "validation": ["main/held-0.parquet"]}
    asked = len(hub.asked)
    assert library.listing(parse_address("hf:someone/text/main"), splits=True) == listing
    assert len(hub.asked) == asked
    with pytest.raises(DataError, match=r"(?s)'mian' not found.*main.*other") as caught:
        library.listing(parse_address("hf:someone/text/mian"), splits=True)
    assert "refs/convert/parquet" in str(caught.value.hint)


def test_damage_is_found_and_taken_away(hub, library):
    hub.add(ADDRESS.repository, {"a.bin": b"one", "b.bin": b"two", "c.bin": b"six"})
    listing = library.listing(ADDRESS)
    files = list(listing.files.values())
    library.get(listing, files, ignore)
    library.path_of(listing, files[0]).write_bytes(b"onE")
    library.path_of(listing, files[2]).write_bytes(b"si")
    assert list(library.damaged(listing, ignore)) == [files[0], files[2]]
    library.discard(listing, files[0])
    assert [library.has(listing, file) for file in files] == [False, True, True]


def test_what_is_kept(hub, library):
    hub.add(ADDRESS.repository, {"a.bin": b"one", "b.bin": b"second"})
    listing = library.listing(ADDRESS)
    library.get(listing, [listing.files["a.bin"]], ignore)
    (kept,) = library.kept()
    assert (kept.address, kept.complete, kept.bytes, kept.partial) == (ADDRESS, 1, 3, 0)
    assert library.remove(ADDRESS.repository) > 3
    assert library.kept() == []
    assert library.remove(ADDRESS.repository) == 0


def test_a_damaged_listing_is_asked_for_again(hub, library):
    hub.add(ADDRESS.repository, {"a.bin": b"one"})
    listing = library.listing(ADDRESS)
    (path,) = library.root.rglob("*.json")
    path.write_text('{"repository": 3}')
    assert library.kept() == []
    assert library.listing(ADDRESS) == listing
