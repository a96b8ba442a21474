"""Stages over a corpus on the hub: what they fetch, and when."""

from __future__ import annotations

import pytest

from mccore.data.hub import address
from mccore.data.hub.address import HubAddress, Shards
from mccore.events import read_events
from mccore.runs.rundir import RunDir
from mccore.runtime.runtime import StopRequested
from tests.support.hub import Fault, StandInHub, hub, parquet

__all__ = ["hub"]

NAME = "karpathy/climbmix-400b-shuffle"
SHARDS = 4


@pytest.fixture
def remote_run(hub, monkeypatch, tmp_path, make_config) -> RunDir:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setitem(address.NAMED, "climbmix", Shards(HubAddress(NAME), "shard_{:05d}.parquet", SHARDS))
    texts = [[f"some words about the number {100 * n + row}" for row in range(30)] for n in range(SHARDS + 1)]
    hub.add(NAME, {f"shard_{n:05d}.parquet": parquet(text=rows) for n, rows in enumerate(texts)})
    stages = ["data", "tokenizer", "encode", "base"]
    config = make_config(data={"corpus": "climbmix"}, tokenizer={"max_chars": 300}).model_copy(
        update={"stages": tuple(stages)}
    )
    return RunDir.create(tmp_path / "base" / "runs", "remote", config)


def fetched(hub: StandInHub) -> list[str]:
    return sorted(sent.path for sent in hub.sent)


def test_each_stage_fetches_what_it_needs_and_nothing_comes_twice(hub, remote_run, in_process):
    found = in_process(remote_run, "data")
    assert fetched(hub) == [
        "shard_00000.parquet",
        f"shard_{SHARDS:05d}.parquet",
    ]  # the tokenizer's, and what is held out
    assert found["corpus"]["files"] == SHARDS + 1
    shown = [event for event in read_events(remote_run.events_dir) if event.type == "stage.progress"]
    assert shown[-1].data["unit"] == "bytes"
    hub.fail("shard_00002.parquet", Fault(status=404))  # in the background it isn't told
    in_process(remote_run, "tokenizer")
    encoded = in_process(remote_run, "encode")
    assert encoded["base"]["train"]["documents"] == 30 * SHARDS
    assert encoded["base"]["val"]["documents"] == 30
    in_process(remote_run, "encode")
    assert fetched(hub) == [f"shard_{n:05d}.parquet" for n in range(SHARDS + 1)]


def test_a_stop_while_fetching_ends_the_stage(hub, remote_run, in_process):
    remote_run.request_stop()
    with pytest.raises(StopRequested):
        in_process(remote_run, "data")


def test_the_rest_comes_while_the_tokenizer_trains(hub, remote_run, in_process, monkeypatch):
    from mccore.data.tokenizer.tokenizer import Tokenizer

    in_process(remote_run, "data")
    train = Tokenizer.train

    def slow(texts, vocab_size):
        trained = train(texts, vocab_size)
        for _ in range(1000):
            if len(hub.sent) == SHARDS + 1:
                break
            hub.wait(0.01)
        return trained

    monkeypatch.setattr(Tokenizer, "train", slow)
    in_process(remote_run, "tokenizer")
    assert len(hub.sent) == SHARDS + 1
