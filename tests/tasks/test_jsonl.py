"""Conversations from parquet and from the hub: what the same ones are in JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mccore.errors import DataError
from mccore.tasks.catalogue import mix_conversations, open_task
from mccore.tasks.jsonl import read_conversations


def messages(number: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"Which is {number}?"}, {"role": "assistant", "content": f"It is {number}."}]


ROWS = [{"id": number, "messages": messages(number)} for number in range(40)]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    return path


def contents(source: str, split: Any = "train") -> list[Any]:
    return [made["messages"] for made in open_task(source).conversations(split, seed=3)]


def test_parquet_is_what_json_lines_are(tmp_path: Path, lines: Path) -> None:
    whole = write(tmp_path / "rows.parquet", ROWS)
    for part, rows in enumerate((ROWS[:15], ROWS[15:])):
        write(tmp_path / "folder" / f"{part}.parquet", rows)
    text = write(tmp_path / "text.parquet", [{"messages": json.dumps(messages(number))} for number in range(40)])
    for split in ("train", "val", "test"):
        expected = contents(f"jsonl:{lines}", split)
        assert expected
        for path in (whole, tmp_path / "folder", text):
            assert contents(f"parquet:{path}", split) == expected, path
    mixed = mix_conversations({f"parquet:{whole}": 5, "arithmetic": 2}, "train", seed=0)
    assert sum(made["task"] == "parquet:rows.parquet" for made in mixed) == 5


def test_fields_that_only_other_rows_have_are_not_there(tmp_path: Path) -> None:
    """Parquet has every field in every row: an empty one of tool calls isn't a call of a tool."""
    call = {"role": "assistant", "content": "x", "tool_calls": [{"name": "f"}]}
    rows = [*ROWS[:5], {"id": 99, "messages": [messages(1)[0], call]}]
    path = write(tmp_path / "rows.parquet", rows)
    found = read_conversations(path, strict=False)
    assert (len(found.conversations), found.bad) == (5, 1)
    assert "row 5" in found.passed_over[0]
    assert "calls of tools" in found.passed_over[0]
    with pytest.raises(DataError, match=r"rows\.parquet, row 5"):
        open_task(f"parquet:{path}").conversations("train")


def test_other_shapes(tmp_path: Path) -> None:
    sharegpt = [
        {"conversations": [{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": str(n)}]} for n in range(4)
    ]
    alpaca = [{"instruction": f"say {n}", "input": None, "output": str(n)} for n in range(4)]
    for name, rows, shape in (("s.parquet", sharegpt, "ShareGPT"), ("a.parquet", alpaca, "Alpaca")):
        assert read_conversations(write(tmp_path / name, rows)).shapes == {shape: 4}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("parquet:", "name no path"),
        ("parquet:{}/nowhere.parquet", "doesn't exist"),
        ("parquet:{}/empty", "holds no parquet file"),
        ("parquet:{}/rows.jsonl", "isn't named as a parquet file is"),
        ("jsonl:{}/rows.parquet", "isn't named as a jsonl file is"),
        ("parquet:{}/broken.parquet", "damaged"),
        ("parquet:{}/text.parquet", "neither messages nor|isn't|has no|no "),
        ("hf:nonsense", "names no data set"),
    ],
)
def test_sources_that_cannot_be_read(tmp_path: Path, lines: Path, source: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    write(tmp_path / "rows.parquet", ROWS)
    write(tmp_path / "text.parquet", [{"text": "no conversation"}])
    with pytest.raises(DataError, match=message):
        open_task(source.format(tmp_path)).conversations("train")


def test_the_content_is_known_by_its_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder" / "a.parquet", ROWS[:9]).parent
    before = open_task(f"parquet:{folder}").fingerprint()
    assert before is not None
    assert before["files"] == 1
    write(folder / "b.parquet", ROWS[9:])
    assert open_task(f"parquet:{folder}").fingerprint() != before
