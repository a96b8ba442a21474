"""Faults of November 2026, kinds 1, 2, 5 (data) and 8: each case by its id in docs/faults.md, with the mechanism that ends it."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
import socket
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mccore.data.corpora.catalogue import open_corpus
from mccore.data.corpora.text_files import Choose, find_text_files, read_documents
from mccore.errors import DataError, MccoreError
from mccore.host.paths import absolute_source
from mccore.host.terminal import one_line, to_json, visible
from mccore.host.text import decode, mend, read_text, spell, stdin_lines, text_pieces, typed
from mccore.runtime.inputs import InputChanged, check_input


def texts_of(spec: str) -> list[str]:
    corpus = open_corpus(spec)
    json.dumps(corpus.manifest()).encode()
    return [document.text for split in ("train", "val") for document in corpus.documents(split)]  # type: ignore[arg-type]


def error_of(spec: str) -> DataError:
    with pytest.raises(DataError) as caught:
        texts_of(spec)
    return caught.value


# --- kind 8: promises at every size ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(12, 12, 12), (22, 12), (40,), (1, 1)])
def test_both_splits_hold_something_at_every_size(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """BF2."""
    for number, size in enumerate(sizes):
        line = f"book {number} has lines like this one.\n"
        (tmp_path / f"{number}.txt").write_text(line * (size * 2**20 // len(line)))
    corpus = open_corpus(f"text:{tmp_path}")
    held = {split: sum(len(d.text) for d in corpus.documents(split)) for split in ("train", "val")}  # type: ignore[arg-type]
    assert all(held.values()), held


def test_one_long_record_is_cut_as_a_text_file_is(tmp_path: Path) -> None:
    """BF2's neighbours: a single record, a book beside an empty file, a file beside its copy."""
    text = "\n\n".join(f"paragraph {number}" for number in range(100))
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": text}))
    assert "".join(texts_of(f"jsonl:{tmp_path}/a.jsonl")) == text
    (tmp_path / "book").mkdir()
    for number in range(3):
        (tmp_path / "book" / f"{number}.txt").write_text(f"chapter {number}")
    (tmp_path / "empty.txt").write_text("")
    assert len(texts_of(f"text:{tmp_path}")) == 3


def test_a_crlf_text_is_cut_at_a_blank_line(tmp_path: Path) -> None:
    """BF10's neighbour."""
    (tmp_path / "a.txt").write_bytes(b"\r\n\r\n".join(b"a paragraph of some words" for _ in range(99)))
    head, tail = texts_of(f"text:{tmp_path}/a.txt")
    assert head.endswith("\n\n")
    assert "\r" not in head + tail


def test_utf_16_without_a_mark_is_not_read_as_letters_between_zeros(tmp_path: Path) -> None:
    """It is valid UTF-8, and was trained on; a tokenizer refused the same file."""
    (tmp_path / "a.txt").write_bytes("some text, one line\n\nanother".encode("utf-16-le"))
    assert "a.txt is binary, not text" in error_of(f"text:{tmp_path}").message
    with pytest.raises(DataError, match=r"a\.txt: binary"):
        find_text_files([tmp_path])


# --- kind 2: one reader for records ---------------------------------------------------------------------------------------


def test_hidden_files_and_caches_are_left_out_and_told(tmp_path: Path) -> None:
    """BF3: for a corpus, a tokenizer and a context alike."""
    for name in (
        "a.txt",
        "b.txt",
        ".ipynb_checkpoints/a-checkpoint.txt",
        "._a.txt",
        "env/pyvenv.cfg",
        "env/x.txt",
        "c/site-packages/y.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff" if name.startswith("._") else f"text of {name}".encode())
    assert sorted(texts_of(f"text:{tmp_path}")) == ["text of a.txt", "text of b.txt"]
    said = open_corpus(f"text:{tmp_path}").describe()
    assert "left out: 2 hidden, 1 a virtual environment, 1 installed" in said
    files, skipped = find_text_files([tmp_path], Choose(largest=None, links=True))
    assert {file.path.name for file in files} == {"a.txt", "b.txt"}
    assert len(skipped) == 4
    hidden = tmp_path / ".ipynb_checkpoints"
    (hidden / "more.txt").write_text("more")
    assert len(texts_of(f"text:{hidden}")) == 2, "what is named itself is read"


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_every_kind_of_text_column_is_read(tmp_path: Path, kind: str) -> None:
    """BF6, DF9: and nulls are passed over and counted."""
    texts = ["one", None, "two", "", "three"]
    column = pa.array(texts).dictionary_encode() if kind == "dictionary" else pa.array(texts, getattr(pa, kind)())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert sorted(texts_of(f"parquet:{tmp_path}")) == ["one", "three", "two"]
    assert open_corpus(f"parquet:{tmp_path}").manifest()["passed_over"] == {"null": 1, "empty": 1}
    assert ["".join(document) for document in read_documents(tmp_path / "a.parquet", "text")] == [
        "one",
        "two",
        "",
        "three",
    ]


def test_files_without_rows_hold_no_documents(tmp_path: Path) -> None:
    """BF7, DF8, DF11."""
    schema = pa.schema([("text", pa.string())])
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "b.parquet")
    with pq.ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        writer.write_table(schema.empty_table())
        writer.write_table(pa.table({"text": [f"row {i}" for i in range(400)]}))
    assert len(texts_of(f"parquet:{tmp_path}")) == 400
    pq.write_table(
        pa.table([pa.array(["x", "y"]), pa.array(["z", "z"])], names=["text", "text"]), tmp_path / "c.parquet"
    )
    assert sorted(texts_of(f"parquet:{tmp_path}/c.parquet")) == ["x", "y"]


def test_no_cache_of_a_library_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BF14."""
    monkeypatch.setenv("HF_HOME", "/proc/nope")
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it is an error now
    assert len(texts_of(f"parquet:{tmp_path}")) == 2


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0xFF for byte in data[middle : middle + 5]) + data[middle + 5 :]


def test_errors_of_readers_name_the_file_and_the_line(tmp_path: Path) -> None:
    """BF8, DF10."""
    lines = b"".join(json.dumps({"text": f"{i} {random.random()}"}).encode() + b"\n" for i in range(2000))
    (tmp_path / "flipped.jsonl.gz").write_bytes(flipped(gzip.compress(lines)))
    assert re.search(
        r"flipped\.jsonl\.gz(, line \d+: not valid| is damaged after line)",
        error_of(f"jsonl:{tmp_path}/flipped.jsonl.gz").message,
    )
    (tmp_path / "block.jsonl.gz").write_bytes(gzip.compress(b"")[:10] + b"\xff" * 30)
    assert "block.jsonl.gz is damaged after line 0: Error -3" in error_of(f"jsonl:{tmp_path}/block.jsonl.gz").message
    (tmp_path / "deep.jsonl").write_text('{"text": "x"}\n{"text": "y", "n": ' + "[" * 200_000 + "]" * 200_000 + "}\n")
    assert "deep.jsonl, line 2: nested too deeply" in error_of(f"jsonl:{tmp_path}/deep.jsonl").message
    column = pa.array([b"fine", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "latin.parquet")
    assert "row 1 of" in error_of(f"parquet:{tmp_path}/latin.parquet").message
    (tmp_path / "digits.jsonl").write_text('{"text":"x y","n":' + "9" * 5000 + '}\n{"text":"z"}\n')
    assert sorted(texts_of(f"jsonl:{tmp_path}/digits.jsonl")) == ["x y", "z"]
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper" / "UPPER.JSONL.GZ").write_bytes(gzip.compress(lines))
    assert len(texts_of(f"jsonl:{tmp_path}/upper")) == 2000
    (tmp_path / "cr.jsonl").write_bytes(b'\xef\xbb\xbf{"text":"a"}\r{"text":"b"}\r\n{"text":"\\ud83d"}\r')
    assert sorted(texts_of(f"jsonl:{tmp_path}/cr.jsonl")) == ["a", "b", "\ufffd"]
    os.mkfifo(tmp_path / "fifo.jsonl")
    assert "fifo.jsonl is a pipe, not a file" in error_of(f"jsonl:{tmp_path}/fifo.jsonl").message
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.txt"))
        assert "socket.txt is a socket, not a file" in error_of(f"text:{tmp_path}/socket.txt").message
    assert "/dev/zero is a device, not a file" in error_of("text:/dev/zero").message


def test_a_pipe_and_standard_input_are_refused_in_words_of_their_own(tmp_path: Path) -> None:
    """What is read more than once can't come from a pipe, by whatever name a person gives it."""
    read, write = os.pipe()
    try:
        for name in (f"/dev/fd/{read}", f"/proc/self/fd/{read}"):
            for refuse in (lambda name=name: find_text_files([Path(name)]), lambda name=name: texts_of(f"text:{name}")):
                with pytest.raises(DataError, match="is a pipe, not a file") as caught:
                    refuse()
                assert "write it to a file and name that" in (caught.value.hint or "")
    finally:
        os.close(read)
        os.close(write)
    for refuse in (lambda: find_text_files([Path("-")]), lambda: texts_of("text:-"), lambda: texts_of("text:/here/-")):
        with pytest.raises(DataError, match="standard input isn't read here"):
            refuse()
    (tmp_path / "-").write_text("a file\n\nof this name")
    assert len(texts_of(f"text:{tmp_path}/-")) == 2


@given(st.binary(max_size=200), st.sampled_from([".txt", ".jsonl", ".json", ".jsonl.gz", ".parquet"]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_documents_or_an_error_that_names_the_file(
    tmp_path_factory, data: bytes, suffix: str, whole: bool
) -> None:
    """Kinds 1 and 2. Sound files with some bytes changed, and bytes of no file at all."""
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    rows = [{"text": f"row {i}", "n": i} for i in range(20)]
    sound = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if suffix == ".parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        sound = buffer.getvalue()
    sound = gzip.compress(sound) if suffix.endswith(".gz") else sound
    at = sum(data) % len(sound)
    path.write_bytes(data if whole else sound[:at] + data + sound[at + len(data) :])
    kind = {".parquet": "parquet", ".txt": "text"}.get(suffix, "jsonl")
    for read in (
        lambda: texts_of(f"{kind}:{path}"),
        lambda: ["".join(document) for document in read_documents(path, "text")],
    ):
        failed: MccoreError | None = None
        try:
            for text in read():
                text.encode()
        except MccoreError as error:
            failed = error
        assert failed is None or (str(path) in failed.message and failed.hint)


# --- kind 1: one door in -----------------------------------------------------------------------------------------------------


def test_names_that_are_not_utf8_are_spelled(tmp_path: Path) -> None:
    """BF9, RF4."""
    folder = os.fsencode(tmp_path) + b"/lat\xe9"
    os.mkdir(folder)
    for name in (b"caf\xe9.txt", b"b.txt"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(b"text of " + name.replace(b"\xe9", b"e"))
    spec = f"text:{os.fsdecode(folder)}"
    corpus = open_corpus(spec)
    json.dumps(corpus.manifest()).encode()
    corpus.describe().encode()
    ids = [document.id for split in ("train", "val") for document in corpus.documents(split)]  # type: ignore[arg-type]
    assert sorted(ids) == ["b.txt", "caf\\xe9.txt"]
    files, _ = find_text_files([Path(os.fsdecode(folder))])
    assert [file.name for file in files] == ["lat\\xe9/b.txt", "lat\\xe9/caf\\xe9.txt"]
    assert spell("caf\udce9") == "caf\\xe9"


def test_halves_of_characters_can_be_written(tmp_path: Path) -> None:
    """RF4, BF9: whatever a message or a conversation holds, a file of ours takes it."""
    from mccore.host.files import write_atomic

    write_atomic(tmp_path / "a.json", '"caf\udce9 \ud83d\ude00"')
    assert (tmp_path / "a.json").read_text("utf-8") == '"caf\ufffd \U0001f600"'


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (b"\xef\xbb\xbfa\r\nb\rc\n", "a\nb\nc\n"),
        (b"caf\xe9", "caf\ufffd"),
        ("caf\udce9", "caf\ufffd"),
        ("\ud83d\ude00 \ud83d", "\U0001f600 \ufffd"),
    ],
)
def test_what_a_person_writes(given: str | bytes, text: str) -> None:
    """BF9, BF10, BF11: arguments and standard input."""
    assert typed(given) == text


def test_lines_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """BF10: CRLF, a byte order mark and bytes that aren't UTF-8, in a strict locale."""
    stream = io.TextIOWrapper(
        io.BytesIO(b"\xef\xbb\xbfhello\r\ncaf\xe9\r\nend"), encoding="utf-8", errors="strict", newline="\n"
    )
    monkeypatch.setattr(sys, "stdin", stream)
    assert list(stdin_lines()) == ["hello", "caf\ufffd", "end"]


def test_files_come_in_by_one_rule(tmp_path: Path) -> None:
    """BF11, RF11: byte order mark, line ends, encodings, devices; whole and in pieces alike."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree")
    assert read_text(path) == "one\ntwo\nthree" == "".join(text_pieces(path))
    path.write_bytes("one\ntwo".encode("utf-16"))
    for read in (lambda: read_text(path), lambda: list(text_pieces(path))):
        with pytest.raises(DataError, match="isn't valid UTF-8") as caught:
            read()
        assert "-f UTF-16" in str(caught.value.hint)
    for device in (Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match="not a file"):
            read_text(device, most=10)


@given(st.binary(max_size=60), st.integers(1, 9))
@settings(deadline=None)
def test_pieces_are_the_text(tmp_path_factory, data: bytes, piece: int) -> None:
    from mccore.host import text as door

    path = tmp_path_factory.mktemp("p") / "a"
    path.write_bytes(data)
    before, door.PIECE = door.PIECE, piece
    try:
        pieces = "".join(text_pieces(path))
    except DataError:
        with pytest.raises(DataError):
            decode(data, "a")
    else:
        assert pieces == decode(data, "a")
    finally:
        door.PIECE = before


# --- kind 1: one door out ------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(codec=None)))
def test_nothing_that_a_terminal_obeys_gets_out(text: str) -> None:
    """RF5: control, C1, bidirectional, surrogates."""
    for shown in (visible(text), one_line(text), to_json({"x": text})):
        assert not [
            c for c in shown if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000
        ]
        assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
    assert "\n" not in one_line(text)
    assert mend(json.loads(to_json({"x": text}))["x"]) == mend(text)


# --- kind 5: what comes from outside a run ------------------------------------------------------------------------------


def test_a_changed_corpus_is_noticed(tmp_path: Path) -> None:
    """BF1: recorded at first use, compared after; what it is called may differ."""
    path = tmp_path / "mine.txt"
    path.write_text("one text, and more of it\n\n" * 9)
    check_input(tmp_path, "the corpus", open_corpus(f"text:{path}").manifest(), record=True)
    check_input(
        tmp_path, "the corpus", {**open_corpus(f"text:{path}").manifest(), "name": "text:elsewhere"}, record=True
    )
    path.write_text("another text\n\n" * 9)
    with pytest.raises(InputChanged, match=r"the corpus has changed since this run began: .*sha256 was .* is "):
        check_input(tmp_path, "the corpus", open_corpus(f"text:{path}").manifest(), record=True)
    (tmp_path / "inputs.json").write_text("[]")
    with pytest.raises(MccoreError, match="it holds no JSON object"):
        check_input(tmp_path, "the corpus", {}, record=True)


def test_paths_of_data_are_absolute_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BF13."""
    from mccore.resolve.resolve import resolve

    folder = tmp_path / "a [1]"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("mine.txt", "c.jsonl"):
        (folder / name).write_text("some text of it\n\n" * 5)
    config = resolve("tiny", sets=["data.corpus=text:mine.txt", 'sft.mixture={"jsonl:c.jsonl": 3, "needle": 2}'])
    assert config.data.corpus == f"text:{folder}/mine.txt"
    assert set(config.sft.mixture) == {f"jsonl:{folder}/c.jsonl", "needle"}
    monkeypatch.chdir(tmp_path)
    assert len(texts_of(config.data.corpus)) == 2
    assert absolute_source("stdlib:packages") == "stdlib:packages"
    monkeypatch.chdir(folder)
    pattern = absolute_source("text:*.txt")
    monkeypatch.chdir(tmp_path)
    assert [d.id for d in open_corpus(pattern).documents("train")] == ["mine.txt#head"]
    monkeypatch.setenv("HOME", str(folder))
    assert absolute_source("text:~/mine.txt") == f"text:{folder}/mine.txt"
