"""How data sets are named."""

from __future__ import annotations

import pytest

from mccore.data.hub.address import NAMED, HubAddress, is_remote, parse_address
from mccore.errors import DataError


@pytest.mark.parametrize(
    ("spec", "address"),
    [
        ("hf:a/b", HubAddress("a/b")),
        ("hf:a/b#body", HubAddress("a/b", field="body")),
        ("hf:a/b/en@v1.0#body", HubAddress("a/b", "en", "v1.0", "body")),
        ("hf:a/b@refs/convert/parquet", HubAddress("a/b", revision="refs/convert/parquet")),
        ("climbmix", HubAddress("karpathy/climbmix-400b-shuffle")),
    ],
)
def test_addresses(spec: str, address: HubAddress) -> None:
    assert is_remote(spec)
    assert parse_address(spec) == address
    assert parse_address(str(address)) == HubAddress(address.repository, address.config, address.revision)


@pytest.mark.parametrize("spec", ["hf:", "hf:a", "hf:a/b/c/d", "hf:../b", "hf:a/b#", "hf:/b", "a/b"])
def test_what_names_no_data_set(spec: str) -> None:
    with pytest.raises(DataError, match="names no data set") as caught:
        parse_address(spec)
    assert "hf:OWNER/NAME" in str(caught.value.hint)


def test_a_revision_that_cannot_be() -> None:
    with pytest.raises(DataError, match="no revision"):
        parse_address("hf:a/b@../main")


def test_the_held_out_shard_is_the_same_however_many_are_taken() -> None:
    shards = NAMED["climbmix"]
    train, val = shards.names(3)
    assert train == ["shard_00000.parquet", "shard_00001.parquet", "shard_00002.parquet"]
    assert val == ["shard_06542.parquet"]
    assert shards.names(0)[1] == val
    assert len(shards.names(0)[0]) == 6542
    assert len(shards.names(99_999)[0]) == 6542
