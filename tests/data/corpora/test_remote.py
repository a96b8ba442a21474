"""Corpora on the hub, read from the files that come."""

from __future__ import annotations

import pytest

from mccore.data.corpora.catalogue import open_corpus
from mccore.data.hub import address
from mccore.data.hub.address import HubAddress, Shards
from mccore.errors import DataError
from tests.support.hub import hub, parquet

__all__ = ["hub"]

TEXTS = [f"the {n}th document" for n in range(40)]


@pytest.fixture
def climbmix(hub, monkeypatch):
    """Three shards to train on and the last one, of ten documents each."""
    shards = Shards(HubAddress("karpathy/climbmix-400b-shuffle"), "shard_{:05d}.parquet", 3)
    monkeypatch.setitem(address.NAMED, "climbmix", shards)
    files = {f"shard_{n:05d}.parquet": parquet(text=TEXTS[10 * n : 10 * n + 10]) for n in range(4)}
    hub.add(shards.address.repository, files)
    return hub


def test_shards_come_when_they_are_read(climbmix, tmp_path):
    corpus = open_corpus("climbmix", cache_dir=tmp_path, shards=2)
    assert climbmix.sent == []
    manifest = corpus.manifest()
    assert (manifest["files"], manifest["held_out"], manifest["name"]) == (3, 1, "climbmix")
    assert climbmix.sent == [], "what it holds is known before it is here"
    assert "3 files" in corpus.describe()
    assert "0 of them on this machine" in corpus.describe()
    assert [document.text for document in corpus.documents("val")] == TEXTS[30:]
    assert [sent.path for sent in climbmix.sent] == ["shard_00003.parquet"]
    train = list(corpus.documents("train"))
    assert [document.text for document in train] == TEXTS[:20]
    assert train[11].id == "shard_00001.parquet:1"
    again = open_corpus("climbmix", cache_dir=tmp_path, shards=2)
    assert list(again.documents("train")) == train
    assert again.manifest() == manifest
    assert len(climbmix.sent) == 3


def test_fetching_ahead(climbmix, tmp_path):
    corpus = open_corpus("climbmix", cache_dir=tmp_path, shards=3)
    seen: list[tuple[int, int]] = []
    corpus.fetch(lambda done, total: seen.append((done, total)), size=1)
    assert sorted({sent.path for sent in climbmix.sent}) == ["shard_00000.parquet", "shard_00003.parquet"]
    corpus.fetch(lambda done, total: seen.append((done, total)))
    assert len(climbmix.sent) == 4
    assert seen[-1][0] == seen[-1][1] == corpus.manifest()["bytes"]
    open_corpus("stdlib").fetch(lambda done, total: seen.append((0, 0)))  # is here


def test_a_run_goes_on_with_the_commit_it_began_with(climbmix, tmp_path):
    manifest = open_corpus("climbmix", cache_dir=tmp_path, shards=1).manifest()
    climbmix.add("karpathy/climbmix-400b-shuffle", {f"shard_{n:05d}.parquet": parquet(text=["new"]) for n in range(4)})
    assert open_corpus("climbmix", cache_dir=tmp_path, shards=1).manifest() == manifest


def test_a_data_set_of_ones_own(hub, tmp_path):
    rows = [{"body": text} for text in TEXTS]
    import json

    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    hub.add("someone/text", {"train.jsonl": content})
    corpus = open_corpus("hf:someone/text#body", cache_dir=tmp_path)
    train, val = ([document.text for document in corpus.documents(split)] for split in ("train", "val"))
    assert sorted(train + val) == sorted(TEXTS), "split by content, as local files are"
    assert train
    assert val
    assert len(hub.sent) == 1


def test_its_own_validation_split_is_held_out(hub, tmp_path):
    hub.add(
        "someone/text",
        {"data/train-0.parquet": parquet(text=TEXTS[:30]), "data/validation-0.parquet": parquet(text=TEXTS[30:])},
    )
    corpus = open_corpus("hf:someone/text", cache_dir=tmp_path)
    assert [document.text for document in corpus.documents("val")] == TEXTS[30:]
    assert [document.text for document in corpus.documents("train")] == TEXTS[:30]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"data/test-0.parquet": parquet(text=["a"])}, "has no split 'train'; it has test"),
        ({"train.csv": b"text\na\n"}, "train.csv isn't parquet or JSON Lines"),
        ({"notes.xyz": b"a"}, "hf:someone/text: .*"),
    ],
)
def test_what_cannot_be_read(hub, tmp_path, files, message):
    hub.add("someone/text", files)
    with pytest.raises(DataError, match=message):
        open_corpus("hf:someone/text", cache_dir=tmp_path)
