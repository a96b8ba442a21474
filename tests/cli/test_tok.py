"""`mccore tok`: training from files of all kinds, measuring, and what goes wrong."""

from __future__ import annotations

import contextlib
import errno
import gzip
import inspect
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from mccore.cli import main
from mccore.cli.tok import find_files
from mccore.data.tokenizer.tokenizer import FILE_NAME, Tokenizer
from mccore.errors import DataError

TEXT = inspect.getsource(textwrap)


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


def tree(root: Path) -> Path:
    """A folder with a document of each kind, together five times TEXT, and files that don't count."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text(TEXT)
    (root / "sub" / "b.py").write_text(TEXT)
    (root / "sub" / "c.jsonl").write_text(json.dumps({"text": TEXT, "other": 1}) + "\n\n")
    with gzip.open(root / "d.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": TEXT}) + "\n")
    pq.write_table(pa.table({"text": [TEXT], "n": [1]}), root / "e.parquet")
    (root / ".hidden").write_text("hidden " * 1000)
    (root / "binary").write_bytes(b"\0\1" * 1000)
    return root


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_folder_trains_as_its_documents(tmp_path, capsys):
    out = tmp_path / "out"
    code, text, _ = run(capsys, "tok", "train", tree(tmp_path / "in"), "--vocab-size", 500, "--out", out)
    assert code == 0
    assert Tokenizer.load(out).fingerprint == Tokenizer.train([TEXT] * 5, 500).fingerprint
    assert "500 ids" in text
    assert "in 5 files" in text
    assert "MB/s, peak memory" in text
    assert str(out / FILE_NAME) in text
    assert [path.name for path in out.iterdir()] == [FILE_NAME]


def test_plain_files_are_read_without_the_interpreter_and_give_the_same(tmp_path, capsys):
    root = tree(tmp_path / "in")
    code, text, _ = run(
        capsys, "tok", "train", root / "a.txt", root / "sub" / "b.py", "--vocab-size", 500, "--out", tmp_path, "--json"
    )
    assert code == 0
    found = json.loads(text)
    assert found["fingerprint"] == Tokenizer.train([TEXT] * 2, 500).fingerprint
    assert found["bytes"] == 2 * len(TEXT.encode())
    assert found["files"] == 2
    assert found["seconds"] > 0
    assert found["peak_memory_bytes"] > 2**20


def test_other_formats_beside_our_own(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(TEXT)
    arguments = ["--vocab-size", 500, "--out", tmp_path / "out", "--export", "tiktoken", "--export", "huggingface"]
    assert run(capsys, "tok", "train", tmp_path / "a.txt", *arguments)[0] == 0
    assert (tmp_path / "out" / "tokens.tiktoken").is_file()
    assert (tmp_path / "out" / "huggingface" / "tokenizer.json").is_file()


def test_a_small_corpus_says_so(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("abc")
    code, text, _ = run(capsys, "tok", "train", tmp_path / "a.txt", "--vocab-size", 9000, "--out", tmp_path)
    assert code == 0
    assert "267 ids" in text
    assert "too small for 9,000 ids" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "fine"}\n{"body": "x"}\n', "line 2: no key 'text'"),
        ("a.jsonl", '{"text": 7}\n', "line 1: the value of 'text' isn't a string"),
        ("a.jsonl", '{"text": \n', "line 1: not valid JSON"),
        ("a.jsonl", "\n", "all files are empty"),
        ("a.txt", "", "a.txt is empty"),
        ("a.parquet", "no parquet", "isn't a readable parquet file"),
    ],
)
def test_files_that_are_damaged(tmp_path, capsys, name, content, message):
    (tmp_path / name).write_text(content)
    out = tmp_path / "out"
    code, _, err = run(capsys, "tok", "train", tmp_path / name, "--vocab-size", 500, "--out", out)
    assert code == 2
    assert message in err
    assert "hint:" in err
    assert not out.exists()  # nothing half-written


def test_what_is_not_there(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "gone", "there is no"), (tmp_path / "empty", "no file of text in")):
        code, _, err = run(capsys, "tok", "train", path, "--vocab-size", 500, "--out", tmp_path / "out")
        assert (code, message in err) == (2, True)
    root = tree(tmp_path / "in")
    code, _, err = run(
        capsys, "tok", "train", root / "e.parquet", "--field", "n", "--vocab-size", 500, "--out", tmp_path / "out"
    )
    assert (code, "holds int64, not text" in err) == (2, True)
    code, _, err = run(
        capsys, "tok", "train", root / "e.parquet", "--field", "x", "--vocab-size", 500, "--out", tmp_path / "out"
    )
    assert (code, "has no column 'x'; it has text, n" in err) == (2, True)
    code, _, err = run(capsys, "tok", "train", root / "a.txt", "--vocab-size", 255, "--out", tmp_path / "out")
    assert (code, "too small" in err) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("ids", "message"), [(264, "too small"), (-1, "too small"), (10**30, "too large")])
def test_impossible_sizes(tmp_path, capsys, ids, message):
    (tmp_path / "a.txt").write_text(TEXT)
    code, _, err = run(capsys, "tok", "train", tmp_path / "a.txt", "--vocab-size", ids, "--out", tmp_path / "out")
    assert (code, message in err, "hint: take at" in err) == (2, True, True)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_read(tmp_path, capsys, monkeypatch):
    root = tree(tmp_path / "in")
    scandir, stat, forbidden = os.scandir, os.stat, str(root / "sub")

    # Permissions don't bind the superuser, as whom tests may run.
    def refuse(call):
        def checked(path, *args, **kwargs):
            if str(path).startswith(forbidden):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return call(path, *args, **kwargs)

        return checked

    arguments = ("--vocab-size", 500, "--out", tmp_path / "out")
    monkeypatch.setattr(os, "scandir", refuse(scandir))
    code, _, err = run(capsys, "tok", "train", root, *arguments)
    assert (code, f"can't read {forbidden}: Permission denied" in err) == (2, True)
    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "stat", refuse(stat))
    with pytest.raises(DataError, match=r"can't read .*b\.py: Permission denied"):
        find_files((root / "sub" / "b.py",))
    assert not (tmp_path / "out").exists()


def test_where_nothing_can_be_written(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.txt").write_text(TEXT)

    def train(*args, **kwargs):
        raise AssertionError("trained for nothing")

    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "train_files", train)
        arguments = ("tok", "train", tmp_path / "a.txt", "--vocab-size", 500, "--out")
        code, _, err = run(capsys, *arguments, tmp_path / "a.txt" / "x" / "y")
        assert (code, "a.txt isn't a directory" in err) == (2, True)
        patch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
        code, _, err = run(capsys, *arguments, tmp_path / "x" / "y")
        assert (code, f"{tmp_path} isn't writable" in err, "choose another --out" in err) == (2, True, True)


def test_a_full_disk_leaves_no_tokenizer_without_its_other_formats(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.txt").write_text(TEXT)
    replace = os.replace

    def full(source, target):
        if "huggingface" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    out = tmp_path / "out"
    arguments = ("tok", "train", tmp_path / "a.txt", "--vocab-size", 500, "--out", out)
    code, _, err = run(capsys, *arguments, "--export", "tiktoken", "--export", "huggingface")
    assert (code, "No space left on device" in err, "--out" in err) == (1, True, True)
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["tokens.tiktoken"]
    monkeypatch.setattr(os, "replace", replace)
    assert run(capsys, *arguments)[0] == 0  # nothing in the way


def test_a_tokenizer_that_is_there_stays(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(TEXT)
    arguments = ("tok", "train", tmp_path / "a.txt", "--out", tmp_path / "out", "--vocab-size")
    assert run(capsys, *arguments, 300)[0] == 0
    code, _, err = run(capsys, *arguments, 301)
    assert (code, "is there already" in err) == (2, True)
    assert Tokenizer.load(tmp_path / "out").vocab_size == 300
    for name, formats in (("tokens.tiktoken", ["tiktoken"]), ("tokenizer.json", [])):
        (tmp_path / "out" / name).touch()
        (tmp_path / "out" / name).chmod(0o600)
        exported = [argument for each in formats for argument in ("--export", each)]
        code, _, err = run(capsys, *arguments, 301, *exported)
        assert (code, "is there already" in err) == (2, True)
        assert run(capsys, *arguments, 301, *exported, "--force")[0] == 0
        assert stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) == 0o600, "what is there keeps its mode"
    assert Tokenizer.load(tmp_path / "out").vocab_size == 301
    (tmp_path / "elsewhere.json").touch()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "tokenizer.json").symlink_to("../elsewhere.json")
    arguments = ("tok", "train", tmp_path / "a.txt", "--out", tmp_path / "linked", "--vocab-size")
    assert run(capsys, *arguments, 300, "--force")[0] == 0
    assert (tmp_path / "linked" / "tokenizer.json").is_symlink()
    assert (tmp_path / "elsewhere.json").stat().st_size > 0


def targets(descriptors: Path) -> set[str]:
    """The files that a process has open now; it opens and closes them meanwhile."""
    found = set()
    for name in os.listdir(descriptors):
        with contextlib.suppress(OSError):
            found.add(os.readlink(descriptors / name))
    return found


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    text = tmp_path / "long.txt"
    text.write_text(os.urandom(20_000_000).hex(" ", 4))  # no word twice: seconds of training
    command = [sys.executable, "-m", "mccore", "tok", "train", str(text), "--vocab-size", "30000"]
    with subprocess.Popen([*command, "--out", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True) as process:
        opened = Path(f"/proc/{process.pid}/fd")
        deadline = time.monotonic() + 100
        while str(text) not in targets(opened):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "interrupted" in err
    assert not (tmp_path / "out").exists()


def test_eval_compares(tmp_path, capsys, base):
    (tmp_path / "a.txt").write_text(TEXT)
    for name, ids in (("small", 300), ("large", 900)):
        Tokenizer.train([TEXT], ids).save(tmp_path / name)
    code, text, _ = run(
        capsys, "tok", "eval", tmp_path / "large", tmp_path / "a.txt", "--against", tmp_path / "small", "--json"
    )
    assert code == 0
    found = json.loads(text)
    name = str(tmp_path / "a.txt")
    assert found["vocab_size"] == 900
    [other] = found["others"].values()
    assert 1 < other["bytes_per_token"][name] < found["texts"][name]["bytes_per_token"]
    code, text, _ = run(capsys, "tok", "eval", tmp_path / "large", "--against", tmp_path / "small")
    assert code == 0
    assert "| english |" in text
    assert "(300 ids)" in text


def test_eval_finds_vocabularies_in_the_cache_and_draws(tmp_path, capsys, base):
    from mccore.data.tokenizer.formats import write_tiktoken

    tokenizer = Tokenizer.train([TEXT], 400)
    tokenizer.save(tmp_path / "t")
    write_tiktoken(tokenizer, base / "cache" / "vocabularies" / "gpt2.tiktoken")
    odd = tmp_path / f"$\\frac$ 日本 {'x' * 150}.txt"  # a formula, letters that the font lacks, a long name
    odd.write_text(TEXT)
    code, text, err = run(capsys, "tok", "eval", tmp_path / "t", odd, "--plot", tmp_path / "plot.png")
    assert (code, err) == (0, "")
    assert "gpt2 (391 ids)" in text
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_eval_of_nothing(tmp_path, capsys):
    code, _, err = run(capsys, "tok", "eval", tmp_path / "nowhere")
    assert (code, "there is no run" in err) == (2, True)
    code, _, err = run(capsys, "tok", "eval")
    assert (code, "there is no run in" in err) == (2, True)
    Tokenizer.train([TEXT], 300).save(tmp_path / "t")
    code, _, err = run(capsys, "tok", "eval", tmp_path / "t", "--against", tmp_path / "gone.tiktoken")
    assert code == 2
