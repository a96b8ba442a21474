"""What `fuzz_readers` gives to every reader: a sound file of its kind, mutated as values and spoilt as bytes."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mccore import plugins
from mccore.api import TreeSpec
from mccore.config import Choice, RunConfig
from mccore.contexts.check import check_context
from mccore.contexts.manifest import describe_context
from mccore.data.corpora.catalogue import open_corpus
from mccore.data.tokenizer.formats import read_tiktoken, read_tokenizer
from mccore.data.tokenizer.huggingface import NAME_OF_BYTE, read_huggingface
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import MccoreError
from mccore.events import Event, read_events
from mccore.generate.chat import read_conversation
from mccore.host.env import parse_settings
from mccore.host.json_file import parse_json
from mccore.megacontext.sessions.state import STATE, read_state
from mccore.report.collect import collect
from mccore.report.pages.summary import render_report
from mccore.runs.checkpoints import META_FILE, SUMS_FILE, file_sha256, list_checkpoints, read_meta
from mccore.runs.live.watch import RunWatch
from mccore.runs.rundir import RunDir, list_runs
from mccore.runs.stored_config import read_config
from mccore.runtime.inputs import check_input
from mccore.tasks.jsonl import read_conversations
from mccore.train.checkpoint.read import load_model, stored_shapes
from mccore.units import number

WRITTEN = Path(__file__).parent / "old_build"

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, float("inf"), float("nan"), -0.0, "", "x",
    "a\0b", "\ud83d", "/dev/zero", "../..", "x" * 10_000, [], {}, [[]], [None], {"": None}, [1] * 1000, "1e999", [[[[[]]]]],
)  # fmt: skip

SESSION: dict[str, Any] = {
    "format": "mccore session", "version": 1, "model": "m", "block_size": 4, "levels": 2, "stored": "torch.float32",
    "budget": 64, "kv_policy": "exact", "tokens": 20, "covered": 18, "cut": [[2, 1], [0, 2]], "age": [0, 1, 2],
    "recent": [[[[1, 0]], []]], "since": 0, "refocuses": 1, "seed": 0, "keys": "keys-0123456789ab.safetensors",
    "keys_sha256": "0" * 64, "base": {"path": "/x", "tokens": 4, "digest": "0" * 64}, "notes": {"run": "r", "context": {}},
}  # fmt: skip
CONVERSATIONS: tuple[Any, ...] = (
    {"system": "s", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 1}]},
    [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "assistant", "content": "a"}],
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"instruction": "q", "input": "i", "output": "a", "history": [["1", "2"]]},
    {"prompt": "q", "completion": "a"},
)
HUGGINGFACE: dict[str, Any] = {
    "version": "1.0", "truncation": None, "padding": None, "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
    "added_tokens": [{"id": 258, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False,
                      "normalized": False, "special": True}],
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "b+"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
    "post_processor": None, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
              "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
              "vocab": {name: id for id, name in enumerate((*NAME_OF_BYTE.values(), "ab", "abc"))},
              "merges": [["a", "b"], "ab c"]},
}  # fmt: skip


def mutate(value: Any, rng: random.Random) -> Any:
    """`value` with a place in it replaced, dropped, doubled or wrapped."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: mutate(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], *([mutate(value[at], rng)] * rng.choice((1, 1, 2, 0))), *value[at + 1 :]]
    if type(value) is int and rng.random() < 0.3:
        return value + rng.choice((-1, 1, 255, 2**32))
    return rng.choice(VALUES)


def spoil(data: bytes, rng: random.Random) -> bytes:
    """Some bytes of a file flipped, cut, doubled or nested."""
    kind = rng.randrange(6)
    at = rng.randrange(len(data) + 1)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(8))) + data[at:]
    if kind == 2:
        return data.replace(b"[", b"[" * rng.choice((50, 70, 3000)), 1)
    if kind == 3:
        return data.replace(b"0", b"9" * rng.choice((20, 400, 5000)), 1)
    if kind == 4 and data:
        at = rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    return data[:at] + data[at // 2 : at] + data[at:]


def text_of(value: Any, rng: random.Random) -> bytes:
    """A mutated value as JSON, itself spoilt now and then."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        value = mutate(value, rng)
    data = json.dumps(value).encode()
    return spoil(data, rng) if rng.random() < 0.3 else data


def expect(read: Callable[[], Any], kind: type[Exception] = MccoreError) -> None:
    """Let only an error of this kind, of readable length, come from a reader."""
    try:
        read()
    except kind as error:
        if len(str(error)) > 2100:
            raise AssertionError(f"an error of {len(str(error))} letters") from error


def _json(rng: random.Random, place: Path) -> None:
    expect(lambda: parse_json(spoil(json.dumps(SESSION).encode(), rng)), ValueError)


def _sessions(rng: random.Random, place: Path) -> None:
    (place / STATE).write_bytes(text_of(SESSION, rng))
    expect(lambda: read_state(place).model_dump_json())


def _contexts(rng: random.Random, place: Path) -> None:
    """A context with one of its files spoilt, as `context info` and `context verify` read it."""
    copy = place / "context"
    shutil.copytree(WRITTEN / "context", copy)
    path = rng.choice(
        [copy / STATE, copy / "tree" / "tree.json", *(path for path in copy.rglob("*") if path.is_file())]
    )
    if path.suffix == ".json":
        path.write_bytes(text_of(json.loads(path.read_bytes()), rng))
    else:
        path.write_bytes(spoil(path.read_bytes(), rng))
    expect(lambda: json.dumps(describe_context(copy).to_json()))
    expect(lambda: check_context(copy, _disk_trees, None).to_json())


def _disk_trees(spec: TreeSpec) -> Any:
    return plugins.build("tree", Choice(name="disk"), spec)


def _configs(rng: random.Random, place: Path) -> None:
    (place / "run.json").write_bytes(text_of(json.loads(RunConfig().to_json()), rng))
    expect(lambda: read_config(place / "run.json").to_json())


def _events(rng: random.Random, place: Path) -> None:
    line = rng.choice((WRITTEN / "runs/old/events/rank0.jsonl").read_bytes().splitlines())
    data = text_of(json.loads(line), rng)
    expect(lambda: [number(value) for value in Event.from_json(data).metrics.values()], ValueError)


def _runs(rng: random.Random, place: Path) -> None:
    """A whole run with an odd event, result or configuration, as `runs`, `runs show`, the monitor and the report read it."""
    run = RunDir(place / "old")
    for name in ("events", "results"):
        shutil.copytree(WRITTEN / "runs/old" / name, run.path / name)
    shutil.copy(WRITTEN / "runs/old/run.json", run.path)
    path = rng.choice([*run.path.rglob("*.json*")])
    if path.suffix == ".jsonl":
        lines = path.read_bytes().splitlines()
        for at in rng.sample(range(len(lines)), rng.choice((1, 5, 50))):
            lines[at] = text_of(json.loads(lines[at]), rng)
        path.write_bytes(b"\n".join(lines))
    else:
        path.write_bytes(text_of(json.loads(path.read_bytes()), rng))

    def watch() -> None:
        seen = RunWatch(run)
        seen.open()
        json.dumps(seen.to_json())

    expect(lambda: [(each.started, each.outcome()) for each in list_runs(place)])
    expect(watch)
    expect(lambda: render_report(collect(run, read_events(run.events_dir))))


def _results(rng: random.Random, place: Path) -> None:
    run = RunDir(place)
    run.write_result("base", {"loss": 1.0, "checkpoint": "x", "more": [{"a": None}]})
    path = run.result_path("base")
    path.write_bytes(text_of(json.loads(path.read_bytes()), rng))
    expect(lambda: run.read_result("base"))


def _inputs(rng: random.Random, place: Path) -> None:
    found = {"sha256": "0" * 64, "documents": 4, "name": "x", "files": ["y"]}
    (place / "inputs.json").write_bytes(text_of({"corpus": found, "mixture": found}, rng))
    expect(lambda: check_input(place, "corpus", found, record=True))


def _checkpoints(rng: random.Random, place: Path) -> None:
    path = place / "step_00000017"
    shutil.copytree(WRITTEN / "runs/old/checkpoints/sft/step_00000017", path)
    name = rng.choice([META_FILE, META_FILE, "index.json", "model.safetensors"])
    if name.endswith(".json"):
        (path / name).write_bytes(text_of(json.loads((path / name).read_bytes()), rng))
    else:
        content = (path / name).read_bytes()
        (path / name).write_bytes(spoil(content[:600], rng) + content[600:])
    names = [each.name for each in path.iterdir() if each.name != SUMS_FILE]
    sums = "".join(f"{file_sha256(path / each)}  {each}\n" for each in sorted(names)).encode()
    (path / SUMS_FILE).write_bytes(spoil(sums, rng) if rng.random() < 0.2 else sums)
    expect(lambda: read_meta(path))
    expect(lambda: list_checkpoints(place))
    expect(lambda: stored_shapes(path))
    expect(lambda: load_model(path))


def _conversations(rng: random.Random, place: Path) -> None:
    lines = [text_of(rng.choice(CONVERSATIONS), rng) for _ in range(4)]
    path = place / "c.jsonl"
    path.write_bytes(rng.choice((b"\n", b"\r\n", b"\r")).join(lines))
    for strict in (True, False):
        expect(lambda strict=strict: json.dumps(read_conversations(path, strict=strict).to_json()))  # type: ignore[misc]
    path.with_suffix(".json").write_bytes(lines[0])
    expect(lambda: read_conversation(path.with_suffix(".json")))


def _tokenizers(rng: random.Random, place: Path) -> None:
    ours = json.loads((WRITTEN / "runs/old/tokenizer/tokenizer.json").read_bytes())
    (place / "tokenizer.json").write_bytes(text_of(ours, rng))
    expect(lambda: Tokenizer.load(place))
    theirs = place / "theirs.json"
    theirs.write_bytes(text_of(HUGGINGFACE, rng))
    expect(lambda: read_huggingface(theirs).encode("abc bb\u0301 <s> \ud83d\ude00"))
    expect(lambda: read_tokenizer(read_huggingface(theirs)))
    ranks = place / "cl100k_base.tiktoken"
    ranks.write_bytes(spoil(b"IQ== 0\nIg== 1\nISI= 2\n= 3\n", rng))
    expect(lambda: read_tiktoken(ranks))


def _settings(rng: random.Random, place: Path) -> None:
    good = b"# mine\nHF_TOKEN='a b'\nexport MCCORE_BASE_DIR=/x\nWANDB_MODE=offline\nMCCORE_PROMETHEUS_PORT=0\n"
    text = spoil(good, rng).decode(errors="replace")
    expect(lambda: parse_settings(text))


def _records(rng: random.Random, place: Path) -> None:
    """Parquet, JSON Lines, gzip and text: every document of both splits."""
    texts = [rng.choice(("a b c", "", "é" * 40, "x\r\ny", "\x00", "long " * 300)) for _ in range(12)]
    rows = b"\n".join(json.dumps({"text": text, "n": 10, "more": [[1]]}).encode() for text in texts)
    kinds = {"jsonl:d.jsonl": rows, "jsonl:d.jsonl.gz": rows, "text:d.txt": rows, "parquet:d.parquet": b""}
    for spec, content in kinds.items():
        path = place / spec.partition(":")[2]
        if spec.startswith("parquet"):
            kind = rng.choice((pa.string(), pa.large_string(), pa.binary(), pa.string_view()))
            table = pa.table({"text": pa.array(texts, pa.string()).cast(kind)})
            if rng.random() < 0.2 and kind != pa.string_view():  # pyarrow doesn't write dictionaries of these
                table = pa.table({"text": table["text"].combine_chunks().dictionary_encode()})
            pq.write_table(
                table, path, row_group_size=rng.choice((1, 5, 100)), compression=rng.choice(("none", "zstd"))
            )
            content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.compress(spoil(content, rng) if rng.random() < 0.5 else content)
        path.write_bytes(spoil(content, rng))
        expect(lambda path=path, spec=spec: _read_corpus(f"{spec.partition(':')[0]}:{path}"))  # type: ignore[misc]


def _read_corpus(spec: str) -> None:
    corpus = open_corpus(spec)
    for split in ("train", "val"):
        for document in corpus.documents(split):  # type: ignore[arg-type]
            document.text.encode()
    json.dumps(corpus.manifest())


TARGETS: dict[str, Callable[[random.Random, Path], None]] = {
    "json": _json, "sessions": _sessions, "contexts": _contexts, "configs": _configs, "events": _events, "runs": _runs,
    "results": _results, "inputs": _inputs, "checkpoints": _checkpoints, "conversations": _conversations,
    "tokenizers": _tokenizers, "settings": _settings, "records": _records,
}  # fmt: skip
