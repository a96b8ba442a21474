"""`mccore bench context`: figures that follow from what was done, for any history, tree and allocator."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mccore.cli import main
from mccore.cli.bench import Sizes
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.model import GPT
from tests.cli.chat.test_command import make_run as make_plain_run
from tests.cli.chat.test_sessions import make_run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Tokenizer, random_gpt: Callable[..., GPT]) -> Path:
    root = tmp_path_factory.mktemp("base")
    make_run(root, "mc", random_gpt(), byte_tokenizer)
    make_plain_run(root, "plain", random_gpt(), byte_tokenizer)
    (root / "text.txt").write_text("some words that come again and again " * 30)
    return root


@pytest.fixture
def bench(base: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(base))

    def run(*args: object) -> tuple[int, str, str]:
        capfd.readouterr()
        text = ("--text", str(base / "text.txt"))
        return main(["bench", "context", *text, "--device", "cpu", *map(str, args)]), *capfd.readouterr()

    return run


def test_every_history_is_measured(bench: Command, tmp_path: Path) -> None:
    code, said, _ = bench("mc", "--history", "3k,1k", "--tokens", "70", "--json")
    assert code == 0
    found = json.loads(said)
    assert (found["run"], found["tree"], found["wc_length"], found["refocus_interval"]) == ("mc", "ram", 96, 8)
    assert (found["round_tokens"], found["rounds"]) == (32, 3)
    assert [each["tokens"] for each in found["histories"]] == [1000, 3000]
    for each in found["histories"]:
        assert each["refocuses"] == 3 * 32 // 8
        assert each["entries_per_token"] >= 1
        assert 0 < each["token_ms"]["median"] <= each["token_ms"]["p95"]
        assert each["controller_ms"]["median"] < each["refocus_token_ms"]["median"]
        rows = sum(each["tokens"] // 4**level * (4 if level == 0 else 32 * 4) for level in range(9))
        assert each["tree_bytes"] == pytest.approx(rows, rel=0.01)
        assert each["tree_bytes_per_token"] == each["tree_bytes"] / each["tokens"]
        for ratio in (each["to_plain"], each["to_plain_cpu"]):
            assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    assert found["plain_ms"]["mean"] > 0
    assert found["longest_to_shortest"]["median"] > 0
    assert found["longest_to_shortest_cpu"]["median"] > 0
    assert found["peak_rss"] > 2**20


def test_the_table_for_people(bench: Command, tmp_path: Path) -> None:
    options = [
        "--tree",
        "disk",
        "--scratch",
        tmp_path,
        "--allocator",
        "greedy",
        "--kv-policy",
        "reuse",
        "--wc-length",
        "120",
    ]
    code, said, _ = bench("mc", "--history", "1k", "--tokens", "8", "--refocus-interval", "10", *options)
    assert code == 0
    assert "allocator greedy, search none, tree disk" in said
    assert "Working Context of 120 entries" in said
    assert "keys reuse" in said
    assert "1 rounds of 40 generated tokens each" in said
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_a_search_is_measured_too(bench: Command) -> None:
    options = ("mc", "--history", "1k", "--tokens", "8", "--allocator", "spans", "--wc-length", "192")
    code, said, err = bench(*options, "--search", "ngram", "--json")
    assert code == 0
    found = json.loads(said)
    assert (found["allocator"], found["search"]) == ("spans", "ngram")
    assert found["histories"][0]["refocuses"] > 0
    assert "nothing is searched" not in err
    code, said, err = bench(*options)
    assert "allocator spans, search none, tree ram" in said
    assert "nothing is searched" in err
    code, _, err = bench(*options[:5], "--search", "ngram")
    assert code == 2
    assert "the allocator 'greedy' doesn't show what a search finds" in err


def test_a_history_that_fits_is_measured_too(bench: Command) -> None:
    code, said, _ = bench("mc", "--history", "5", "--tokens", "1", "--json")
    (cost,) = json.loads(said)["histories"]
    assert code == 0
    assert (cost["refocuses"], cost["controller_ms"], cost["max_lod"]) == (0, None, 0)
    assert bench("mc", "--history", "5", "--tokens", "1")[0] == 0


def test_a_history_repeats_the_text_when_it_has_to(base: Path, byte_tokenizer: Tokenizer) -> None:
    from mccore.contexts.cost import _part, read_text

    text = read_text(byte_tokenizer, "", [base / "text.txt"], 10**6)
    assert byte_tokenizer.decode(text.tolist()) == "<|bos|>" + (base / "text.txt").read_text()
    part = _part(text, len(text) - 2, len(text) + 3)
    assert part.tolist() == [*text[-2:], *text[:3]]
    assert len(read_text(byte_tokenizer, "", [base / "text.txt"], 100)) == 100


def test_the_runs_own_corpus_is_the_default_text(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    from mccore.contexts.cost import read_text

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(50)))
    text = read_text(byte_tokenizer, f"jsonl:{tmp_path / 'rows.jsonl'}", [], 40)
    assert len(text) == 40
    assert text[0] == byte_tokenizer.bos_id
    assert np.sum(text == byte_tokenizer.bos_id) > 1


def test_sizes_are_written_as_people_write_them() -> None:
    convert = Sizes().convert
    assert convert("8k,64K, 1M,1.5m,7", None, None) == (8000, 64000, 10**6, 1_500_000, 7)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["nosuch"], 2, "there is no run 'nosuch'"),
        (["plain"], 2, "was trained without MegaContext"),
        (["mc", "--history", "8x"], 2, "'8x' is no number of tokens"),
        (["mc", "--history", "0"], 2, "'0' is no number of tokens"),
        (["mc", "--history", "1.5"], 2, "'1.5' is no number of tokens"),
        (["mc", "--history", "1k,"], 2, "'' is no number of tokens"),
        (["mc", "--wc-length", "8"], 1, "a Working Context of 8 entries is too small"),
        (["mc", "--wc-length", "16"], 1, "a Working Context of 16 entries is too small"),
        (["mc", "--history", "900G"], 1, "a history of 900000000064 tokens takes at least"),
        (["mc", "--tree", "nosuch"], 2, "nosuch"),
        (["mc", "--allocator", "nosuch"], 2, "nosuch"),
        (["mc", "--text", "/no/such"], 2, "there is no /no/such"),
    ],
)
def test_what_can_not_be_measured_is_said(bench: Command, args: list[str], code: int, message: str) -> None:
    found, _, said = bench("--tokens", "8", *args)
    assert message in said
    assert found == code


def test_a_history_without_room_is_refused(bench: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mccore.contexts import cost as context_bench

    monkeypatch.setattr(context_bench, "available_memory", lambda: 1000)
    code, _, said = bench("mc", "--history", "8k")
    assert code == 2
    assert "trees of 8,000 tokens take" in said
    assert "and memory has 1000 B left" in said
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr(context_bench.shutil, "disk_usage", lambda path: type("Usage", (), {"free": usage.f_bsize})())
    code, _, said = bench("mc", "--history", "8k", "--tree", "disk", "--scratch", tmp_path)
    assert code == 2
    assert f"the disk of {tmp_path} has" in said
