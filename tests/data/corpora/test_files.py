"""Corpora: what the standard library gives, how files are read and split, and what bad input says."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mccore
from mccore.data.corpora.catalogue import open_corpus
from mccore.data.corpora.document import Corpus, Document, hash_share, val_threshold
from mccore.data.corpora.stdlib.api import api_modules
from mccore.data.corpora.stdlib.packages import package_of
from mccore.data.corpora.stdlib.prose import MAX_SUMMARY, MIN_SUMMARY, first_sentence
from mccore.data.corpora.stdlib.sources import group_of, source_files, stdlib_root
from mccore.errors import DataError

PARTS = {"source", "topic", "reference", "overview"}


def _both(corpus: Corpus) -> tuple[list[Document], list[Document]]:
    return list(corpus.documents("train")), list(corpus.documents("val"))


def _write_jsonl(path: Path, texts: list[str], key: str = "text") -> Path:
    path.write_text("".join(json.dumps({key: text}) + "\n" for text in texts), encoding="utf-8")
    return path


def _error_of(spec: str) -> DataError:
    """The error of opening `spec` and reading all of it."""
    with pytest.raises(DataError) as caught:
        _both(open_corpus(spec))
    assert caught.value.hint
    return caught.value


# --- The standard library ---------------------------------------------------------------------------------------------


def test_stdlib_is_the_same_in_another_process_and_runs_no_file_of_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "grp.py").write_text("open('executed', 'w').close()\n")
    program = "from mccore.data.corpora.catalogue import open_corpus as o; print(o('stdlib').manifest()['sha256'])"
    env = {**os.environ, "PYTHONPATH": str(Path(mccore.__file__).parents[1]), "PYTHONHASHSEED": "123"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == open_corpus("stdlib").manifest()["sha256"]
    assert not (tmp_path / "executed").exists()


def test_stdlib_splits_share_no_id_no_text_and_no_package() -> None:
    train, val = _both(open_corpus("stdlib"))
    ids = [document.id for document in train + val]
    texts = [document.text for document in train + val]
    assert len(set(ids)) == len(ids)
    assert len(set(texts)) == len(texts)

    modules = {f"source/{file.path}": file.module for file in source_files()}

    def groups(documents: list[Document]) -> set[str]:
        found = set()
        for document in documents:
            part, name = document.id.split("/", 1)
            found.add(f"topic:{name}" if part == "topic" else group_of(modules.get(document.id, name)))
        return found

    assert not groups(train) & groups(val)


def test_stdlib_manifest_counts_what_the_splits_give() -> None:
    corpus = open_corpus("stdlib")
    manifest = corpus.manifest()
    train, val = _both(corpus)
    assert manifest["documents"] == len(train) + len(val)
    assert manifest["splits"]["val"]["bytes"] == sum(len(document.text.encode()) for document in val)
    assert 0.02 < manifest["splits"]["val"]["bytes"] / manifest["bytes"] < 0.12
    assert set(manifest["parts"]) == PARTS
    assert manifest["bytes"] > 8_000_000
    assert json.loads(json.dumps(manifest)) == manifest
    assert "standard library" in corpus.describe()


def test_stdlib_text_is_clean() -> None:
    train, val = _both(open_corpus("stdlib"))
    root = str(stdlib_root())
    for document in train + val:
        assert document.text.strip()
        assert root not in document.text, document.id
        assert "site-packages/" not in document.id
        assert "\r" not in document.text


def test_a_prefix_of_the_stdlib_has_every_part() -> None:
    train = list(open_corpus("stdlib").documents("train"))
    assert {document.id.split("/")[0] for document in train[: len(train) // 20]} == PARTS


def test_test_suites_come_only_when_asked_for() -> None:
    assert not any("/test/" in f"/{file.path}" or "idle_test" in file.path for file in source_files())
    with pytest.raises(DataError, match="unknown form"):
        open_corpus("stdlib:everything")


def test_a_test_suite_stays_with_what_it_tests() -> None:
    assert group_of("test.test_decimal") == group_of("_pydecimal") == "decimal"
    assert group_of("test.test_asyncio.test_locks") == group_of("asyncio.locks")


def test_packages_are_long_documents_in_reading_order() -> None:
    train, val = _both(open_corpus("stdlib:packages"))
    found = {document.id.removeprefix("package/"): document.text for document in train + val}
    assert len(found) == len(train) + len(val)
    parts = ("# source/json/", "# source/test/test_json/", "# reference/json\n", "# overview/json\n")
    starts = [found["json"].find(part) for part in parts]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert found["json"].count("\n# source/json/decoder.py\n") == 1
    assert found["topics"].count("\n# topic/") > 50
    assert sum(len(document.text) >= 20_000 for document in val) >= 20
    assert open_corpus("stdlib:packages").manifest()["splits"]["val"]["documents"] == len(val)
    assert "stdlib:packages: " in open_corpus("stdlib:packages").describe()


def test_packages_with_much_in_common_are_on_one_side() -> None:
    def passages(document: Document) -> set[tuple[str, ...]]:
        lines = [line.strip() for line in document.text.splitlines() if len(line.strip()) > 8]
        return set(zip(*(lines[start:] for start in range(4)), strict=False))

    train, val = _both(open_corpus("stdlib:packages"))
    held_out = set().union(*map(passages, val))
    trained = {passage for document in train for passage in passages(document) & held_out}
    assert len(trained) < 0.005 * len(held_out)


def test_packages_hold_out_none_on_which_settings_were_chosen() -> None:
    modules = {f"# source/{file.path}": file.module for file in source_files(with_tests=True)}
    val = open_corpus("stdlib:packages").documents("val")
    groups = {group_of(modules[line]) for document in val for line in document.text.splitlines() if line in modules}
    assert len(groups) > 20
    assert all(hash_share(group) >= 0.15 for group in groups)


@pytest.mark.parametrize(
    ("group", "package"),
    [
        ("xml_etree_c", "xml"),
        ("minidom", "xml"),
        ("test_multiprocessing", "threading"),
        ("urllib2_localnet", "urllib"),
        ("xml", "xml"),
        ("test_unheard_of", "test_unheard_of"),
    ],
)
def test_a_suite_is_joined_to_its_package(group: str, package: str) -> None:
    assert package_of(group, {"xml", "threading", "urllib"}) == package


def test_api_names_are_the_public_ones() -> None:
    found = {item.name: item for module in api_modules() for item in module.objects}
    for name in ("textwrap.dedent", "os.path.join", "json.JSONDecoder", "str.join", "math.sin", "random.choice", "len"):
        assert name in found, name
    assert not any(part.startswith("_") for name in found for part in name.split("."))
    assert found["textwrap.dedent"].signature == "(text)"
    assert found["textwrap.TextWrapper.wrap"].signature == "(text)"
    assert found["random.choice"].signature == "(seq)"
    assert found["textwrap.dedent"].summary == "Remove any common leading whitespace from every line in text."
    assert not any(" at 0x" in item.signature for item in found.values())


def test_pages_state_the_facts() -> None:
    pages = {document.id: document.text for document in _both(open_corpus("stdlib"))[0]}
    dedent = "Remove any common leading whitespace from every line in text."
    assert f"textwrap.dedent is a function in the module textwrap. {dedent}" in pages["overview/textwrap"]
    assert f"{dedent} This is textwrap.dedent." in pages["overview/textwrap"]
    assert "\ntextwrap.dedent(text)\n    Remove any" in pages["reference/textwrap"]


@pytest.mark.parametrize(
    ("doc", "sentence"),
    [
        ("Remove a file.\n\nMore.", "Remove a file."),
        ("Take things, e.g. blanks, away.  Then stop.", "Take things, e.g. blanks, away."),
        ("Return what (see f. 3) is\nleft of ``text``", "Return what (see f. 3) is left of text."),
        ("find(sub) -> int\n\nReturn the lowest index.", "Return the lowest index."),
        ("D.update(E) -> None.  Update D from mapping E.", "Update D from mapping E."),
        ("D.count(value) -- return number of occurrences of value", "Return number of occurrences of value."),
        ("Call :meth:`close` on the `name'.", "Call close on the 'name'."),
        ("The state of version 3.11 is kept.", "The state of version 3.11 is kept."),
        ("Usage is like this:\n\n    f(x)", ""),
        (">>> f(1)\n2", ""),
        ("Internal function.", ""),
        ("Return a < b for two numbers.", ""),
        ("", ""),
        ("f(x) -> y", ""),
        ("word " * 60 + "end.", ""),
    ],
)
def test_first_sentence(doc: str, sentence: str) -> None:
    assert first_sentence(doc) == sentence


@given(st.text(alphabet=st.sampled_from("ab AB.,:()[]`'\"\n-> e.g."), max_size=200))
def test_first_sentence_is_empty_or_fit(doc: str) -> None:
    sentence = first_sentence(doc)
    if sentence:
        assert MIN_SUMMARY <= len(sentence) <= MAX_SUMMARY
        assert sentence.endswith(".")
        assert "\n" not in sentence
        assert "`" not in sentence


# --- Files ------------------------------------------------------------------------------------------------------------


@given(st.sets(st.floats(0, 1, exclude_max=True), min_size=2), st.floats(0.01, 0.5))
def test_val_threshold_leaves_something_on_both_sides(shares: set[float], val_share: float) -> None:
    threshold = val_threshold(shares, val_share)
    below = {share for share in shares if share < threshold}
    assert 0 < len(below) < len(shares)
    usual = {share for share in shares if share < val_share}
    assert below == usual or len(usual) in (0, len(shares))


def test_jsonl_drops_empty_texts_and_duplicates_and_names_lines(tmp_path: Path) -> None:
    path = _write_jsonl(tmp_path / "a.jsonl", ["one", "two", "one", "  ", "three"])
    train, val = _both(open_corpus(f"jsonl:{path}"))
    assert sorted(document.id for document in train + val) == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:5"]
    assert val


def test_jsonl_takes_another_key_and_gzip(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('\ufeff{"body": "é"}\n\n{"body": "b"}\n')
    train, val = _both(open_corpus(f"jsonl:{tmp_path}#body"))
    assert sorted(document.text for document in train + val) == ["b", "é"]


def test_a_record_keeps_its_side_when_files_are_added_and_duplicates_dont_cross(tmp_path: Path) -> None:
    texts = [f"text number {i}" for i in range(400)]
    _write_jsonl(tmp_path / "b.jsonl", texts)
    before = _both(open_corpus(f"jsonl:{tmp_path}"))
    _write_jsonl(tmp_path / "a.jsonl", [*reversed(texts[:100]), *(f"new {i}" for i in range(100))])
    after = _both(open_corpus(f"jsonl:{tmp_path}"))
    for old, new in zip(before, after, strict=True):
        assert {document.text for document in old} <= {document.text for document in new}
    everything = [document.text for split in after for document in split]
    assert len(everything) == len(set(everything)) == 500


def test_parquet_rows(tmp_path: Path) -> None:
    for name, start in (("b [1].parquet", 0), ("a*.parquet", 50)):
        texts = [f"row {start + i}" for i in range(60)]
        pq.write_table(pa.table({"text": texts, "body": [t.upper() for t in texts]}), tmp_path / name, row_group_size=7)
    train, val = _both(open_corpus(f"parquet:{tmp_path}"))
    assert {document.text for document in train + val} == {f"row {i}" for i in range(110)}
    assert train[0].id.startswith("a*.parquet:")
    assert [d.id for d in train] == [d.id for d in open_corpus(f"parquet:{tmp_path}").documents("train")]
    upper = open_corpus(f"parquet:{tmp_path}/b*.parquet#body")
    assert {document.text for split in _both(upper) for document in split} == {f"ROW {i}" for i in range(60)}
    assert open_corpus(f"parquet:{tmp_path}").manifest()["documents"] == 120


def test_text_folders_stay_together(tmp_path: Path) -> None:
    for book in range(30):
        (tmp_path / f"book{book}").mkdir()
        for chapter in range(3):
            (tmp_path / f"book{book}" / f"{chapter}.txt").write_text(f"Chapter {chapter} of book {book}", "utf-8")
    (tmp_path / "ignored.bin").write_bytes(b"\xff")
    train, val = _both(open_corpus(f"text:{tmp_path}"))
    assert len(train) + len(val) == 90
    tops = [{document.id.split("/")[0] for document in split} for split in (train, val)]
    assert tops[0]
    assert tops[1]
    assert not tops[0] & tops[1]
    one_book = _both(open_corpus(f"text:{tmp_path}/book7"))
    assert [len(split) for split in one_book] == [2, 1]


def test_a_single_text_is_cut_at_a_blank_line(tmp_path: Path) -> None:
    text = "\n\n".join(f"Paragraph {i} says something." for i in range(100))
    (tmp_path / "book.txt").write_text(text, "utf-8")
    train, val = _both(open_corpus(f"text:{tmp_path / 'book.txt'}"))
    assert [document.id for document in train + val] == ["book.txt#head", "book.txt#tail"]
    assert train[0].text + val[0].text == text
    assert val[0].text.startswith("Paragraph 9")


def test_manifest_follows_the_content_and_is_remembered(tmp_path: Path) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    path = _write_jsonl(data / "a.jsonl", ["one", "two"])
    spec = f"jsonl:{data}"
    first = open_corpus(spec, cache_dir=cache).manifest()
    assert first["documents"] == 2
    assert first == open_corpus(spec).manifest()
    entry = next(cache.rglob("*.json"))
    entry.write_text(json.dumps({**first, "documents": 77}))
    assert open_corpus(spec, cache_dir=cache).manifest()["documents"] == 77
    entry.write_text("{")
    assert open_corpus(spec, cache_dir=cache).manifest() == first
    _write_jsonl(path, ["one", "two", "three"])
    assert open_corpus(spec, cache_dir=cache).manifest()["sha256"] != first["sha256"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("wikitext", "unknown corpus 'wikitext'"),
        ("jsonl:", "names no path"),
        ("text:{tmp}/missing.txt", "missing.txt doesn't exist"),
        ("text:{tmp}/*.nothing", "no file matches"),
        ("parquet:{tmp}", "no .parquet file in"),
        ("jsonl:{tmp}/bad.jsonl", "bad.jsonl, line 2: not valid JSON"),
        ("jsonl:{tmp}/latin.jsonl", "latin.jsonl, line 1: not valid UTF-8"),
        ("jsonl:{tmp}/keys.jsonl", "keys.jsonl, line 1: no key 'text'; it has 'title'"),
        ("jsonl:{tmp}/list.jsonl", "list.jsonl, line 1: not a JSON object"),
        ("jsonl:{tmp}/number.jsonl", "line 1: the value of 'text' isn't a string"),
        ("jsonl:{tmp}/empty.jsonl", "is empty"),
        ("jsonl:{tmp}/single.jsonl", "only one document"),
        ("jsonl:{tmp}/cut.jsonl.gz", "cut.jsonl.gz is damaged"),
        ("text:{tmp}/latin.txt", "latin.txt isn't valid UTF-8 (line 2, byte 6)"),
        ("text:{tmp}/short.txt", "too short"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "latin.jsonl").write_bytes('{"text": "é"}\n'.encode("latin-1"))
    (tmp_path / "keys.jsonl").write_text('{"title": "a"}\n')
    (tmp_path / "list.jsonl").write_text('["a"]\n')
    (tmp_path / "number.jsonl").write_text('{"text": 3}\n')
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "single.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 10)[:-9])
    (tmp_path / "latin.txt").write_bytes("plain\né\n".encode("latin-1"))
    (tmp_path / "short.txt").write_text("a")
    assert message in _error_of(spec.format(tmp=tmp_path)).message


def test_bad_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 not really")
    assert "isn't a readable parquet file" in _error_of(f"parquet:{path}").message
    pq.write_table(pa.table({"text": [1, 2], "body": ["a", None]}), path)
    assert "holds int64, not text" in _error_of(f"parquet:{path}").message
    assert "no column 'title'; it has text, body" in _error_of(f"parquet:{path}#title").message
    pq.write_table(pa.table({"text": ["a", "b"], "body": ["a", None]}), path)
    assert "only one document" in _error_of(f"parquet:{path}#body").message


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(DataError, match="unknown split 'test'"):
        open_corpus("stdlib").documents("test")  # type: ignore[arg-type]


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"the text of {name}")
    corpus = open_corpus(f"text:{tmp_path}")
    assert corpus.describe()  # the files were looked at
    (tmp_path / "b.txt").unlink()
    with pytest.raises(DataError, match=r"can't read .*b\.txt: No such file"):
        list(corpus.documents("train"))


def test_a_file_that_cant_be_read_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("secret")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # tests may run as root, who can read all
    with pytest.raises(DataError, match=r"can't read .*a\.txt"):
        open_corpus(f"text:{tmp_path}/a.txt")
