"""The token store: what goes in comes out, complete or absent, damage is noticed."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mccore.data.batches.store import (
    STORE_VERSION,
    Encoded,
    build_store,
    encode_documents,
    ensure_store,
    open_store,
    store_path,
)
from mccore.errors import DataError

DOCUMENTS = [Encoded("a", [1, 2, 3]), Encoded("b\n«", [4]), Encoded("c", [5, 6])]
KEY = {"corpus": "test"}


def _build(path: Path, vocab_size: int = 300):
    return build_store(path, KEY, vocab_size, {"train": DOCUMENTS, "val": DOCUMENTS[:1]})


def test_round_trip(tmp_path: Path) -> None:
    _build(tmp_path / "store")
    store = open_store(tmp_path / "store", checksums=True)
    split = store.split("train")
    assert split.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert split.offsets.tolist() == [0, 3, 4, 6]
    assert split.lengths.tolist() == [3, 1, 2]
    assert split.ids() == ["a", "b\n«", "c"]
    assert split.mask is None
    assert store.key == KEY
    assert store.split("val").documents == 1


@pytest.mark.parametrize(("vocab_size", "size"), [(65_536, 2), (65_537, 4)])
def test_ids_take_two_bytes_where_they_fit(tmp_path: Path, vocab_size: int, size: int) -> None:
    top = vocab_size - 1
    store = build_store(tmp_path / "s", KEY, vocab_size, {"train": [Encoded("a", [0, top])]})
    tokens = store.split("train").tokens
    assert tokens.tolist() == [0, top]
    assert tokens.dtype.itemsize == size


def test_masks_are_kept(tmp_path: Path) -> None:
    store = build_store(tmp_path / "s", KEY, 10, {"train": [Encoded("a", [1, 2], [0, 1]), Encoded("b", [3], [1])]})
    mask = store.split("train").mask
    assert mask is not None
    assert mask.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([Encoded("a", [300])], "outside the vocabulary"),
        ([Encoded("a", [-1])], "outside the vocabulary"),
        ([Encoded("a", [1], [1]), Encoded("b", [1])], "has no mask"),
        ([Encoded("a", [1]), Encoded("b", [1], [1])], "those before it have none"),
        ([Encoded("a", [1, 2], [1])], "1 entries for 2 tokens"),
    ],
)
def test_bad_documents_are_refused_and_leave_nothing(tmp_path: Path, documents: list[Encoded], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_store(tmp_path / "s", KEY, 300, {"train": documents})
    assert list(tmp_path.iterdir()) == []


def test_a_failure_of_the_source_leaves_nothing(tmp_path: Path) -> None:
    def documents() -> Iterator[Encoded]:
        yield DOCUMENTS[0]
        raise DataError("the source broke")

    with pytest.raises(DataError, match="the source broke"):
        build_store(tmp_path / "s", KEY, 300, {"train": documents()})
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_more_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DataError, match="can't write the token store"):
            build_store(tmp_path / "s", KEY, 300, {"train": [Encoded("a", np.zeros(10**6, dtype=np.int64))]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["train.tokens", "train.offsets", "val.ids"])
def test_truncation_is_noticed_at_once(tmp_path: Path, name: str) -> None:
    _build(tmp_path / "s")
    path = tmp_path / "s" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="bytes instead of") as raised:
        open_store(tmp_path / "s")
    assert "encode stage" in str(raised.value.hint)


def test_a_flipped_bit_is_noticed_by_checksum(tmp_path: Path) -> None:
    _build(tmp_path / "s")
    path = tmp_path / "s" / "train.tokens"
    data = bytearray(path.read_bytes())
    data[2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="checksum"):
        open_store(tmp_path / "s", checksums=True)


@pytest.mark.parametrize("header", ["", "[]", "{}", json.dumps({"version": STORE_VERSION + 1})])
def test_a_strange_header_is_refused(tmp_path: Path, header: str) -> None:
    _build(tmp_path / "s")
    (tmp_path / "s" / "header.json").write_text(header)
    with pytest.raises(DataError):
        open_store(tmp_path / "s")


def test_a_damaged_store_is_built_again_and_a_good_one_kept(tmp_path: Path) -> None:
    built = 0

    def splits() -> dict[str, list[Encoded]]:
        nonlocal built
        built += 1
        return {"train": DOCUMENTS}

    path = tmp_path / "s"
    assert ensure_store(path, KEY, 300, splits)[1] is False
    assert ensure_store(path, KEY, 300, splits)[1] is True
    (path / "train.tokens").write_bytes(b"")
    store, found = ensure_store(path, KEY, 300, splits)
    assert (found, built) == (False, 2)
    assert store.split("train").tokens.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_store_built_meanwhile_by_another_process_is_taken(tmp_path: Path) -> None:
    def splits() -> Iterator[Encoded]:
        _build(tmp_path / "s")
        yield Encoded("mine", [9])

    store = build_store(tmp_path / "s", KEY, 300, {"train": splits()})
    assert store.split("train").ids() == ["a", "b\n«", "c"]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_the_place_depends_on_the_key(tmp_path: Path) -> None:
    first = store_path(tmp_path, {"corpus": "a", "tokenizer": "b"})
    assert first == store_path(tmp_path, {"tokenizer": "b", "corpus": "a"})
    assert first != store_path(tmp_path, {"corpus": "a", "tokenizer": "c"})


def test_an_empty_split_is_an_error_only_when_asked_for(tmp_path: Path) -> None:
    store = build_store(tmp_path / "s", KEY, 300, {"train": DOCUMENTS, "val": []})
    with pytest.raises(DataError, match="no val documents"):
        store.split("val")
    with pytest.raises(DataError, match="no test documents"):
        store.split("test")


def test_documents_are_encoded_in_order() -> None:
    heard: list[int] = []
    texts = [(f"id{n}", "x" * n) for n in range(50)]

    def encode(batch: list[str]) -> tuple[np.ndarray, np.ndarray]:
        lengths = [len(text) + 1 for text in batch]
        tokens = np.concatenate([[99] + [7] * (length - 1) for length in lengths]).astype(np.int32)
        return tokens, np.cumsum([0, *lengths])

    encoded = list(encode_documents(texts, encode, progress=heard.append))
    assert [document.id for document in encoded] == [name for name, _ in texts]
    assert all(list(document.tokens) == [99] + [7] * n for n, document in enumerate(encoded))
    assert heard == [50]
    long = [(str(n), "x" * 2**20) for n in range(5)]
    assert [len(document.tokens) for document in encode_documents(long, encode, progress=heard.append)] == [
        2**20 + 1
    ] * 5
    assert heard == [50, 2, 4, 5]
