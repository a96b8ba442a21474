"""`mccore data`: fetching, listing, checking and removing what is on the hub."""

from __future__ import annotations

import json

import pytest

from mccore.cli import main
from mccore.data.hub import address
from mccore.data.hub.address import HubAddress, Shards
from tests.support.hub import hub, parquet

__all__ = ["hub"]

NAME = "karpathy/climbmix-400b-shuffle"


@pytest.fixture(autouse=True)
def climbmix(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setitem(address.NAMED, "climbmix", Shards(HubAddress(NAME), "shard_{:05d}.parquet", 2))
    hub.add(NAME, {f"shard_{n:05d}.parquet": parquet(text=[f"text {n}"]) for n in range(3)})
    return hub


def test_the_life_of_a_data_set(climbmix, capsys, tmp_path):
    assert main(["data", "list"]) == 0
    assert "nothing of the hub is in" in capsys.readouterr().out
    assert main(["data", "get", "climbmix", "--shards", "1"]) == 0
    assert "climbmix: 2 files, " in capsys.readouterr().out
    assert main(["data", "get", "climbmix", "--shards", "1"]) == 0
    assert "all there already" in capsys.readouterr().out
    assert len(climbmix.sent) == 2
    assert main(["data", "list", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["files"], found["complete"]) == (f"hf:{NAME}", 3, 2)
    assert main(["data", "list"]) == 0
    assert "2 of 3 files" in capsys.readouterr().out
    assert main(["data", "rm", "climbmix"]) == 0
    assert f"{NAME}: " in capsys.readouterr().out
    assert main(["data", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_damage_is_named_and_mended(climbmix, capsys, tmp_path):
    main(["data", "get", "climbmix"])
    assert main(["data", "verify"]) == 0
    assert "as the hub lists them" in capsys.readouterr().out
    (damaged,) = (tmp_path / "base").rglob("*shard_00001.parquet")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert main(["data", "verify", "climbmix"]) == 1
    assert "shard_00001.parquet is damaged" in capsys.readouterr().out
    assert main(["data", "verify", "--remove"]) == 0
    main(["data", "get", "climbmix"])
    assert main(["data", "verify"]) == 0
    assert climbmix.bytes_of("shard_00001.parquet") == 2 * damaged.stat().st_size


def test_a_newer_commit_is_taken_when_asked_for(climbmix, capsys):
    main(["data", "get", "climbmix"])
    commit = climbmix.add(NAME, {f"shard_{n:05d}.parquet": parquet(text=[f"newer {n}"]) for n in range(3)})
    main(["data", "get", "climbmix"])
    assert len(climbmix.sent) == 3
    main(["data", "get", "climbmix", "--update"])
    assert len(climbmix.sent) == 6
    capsys.readouterr()
    main(["data", "list"])
    assert commit[:12] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["get"], 2, "Missing argument"),
        (["get", "climb"], 2, "'climb' names no data set of the hub"),
        (["get", "hf:no/body"], 2, "hf:no/body isn't on http"),
        (["rm"], 2, "say what to remove"),
        (["rm", "climbmix", "--all"], 2, "say what to remove"),
        (["rm", "climbmix"], 2, "nothing of climbmix is in"),
        (["verify", "hf:a/b"], 2, "nothing of hf:a/b is in"),
    ],
)
def test_what_is_refused(capsys, arguments, code, message):
    assert main(["data", *arguments]) == code
    assert message in capsys.readouterr().err
