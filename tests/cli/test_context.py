"""`mccore context`: files become a context that says where everything comes from, whatever interrupts the building."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mccore.cli import main
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.model import GPT
from tests.cli.chat.test_command import make_run as make_plain_run
from tests.cli.chat.test_sessions import make_run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Tokenizer, random_gpt: Callable[..., GPT]) -> Path:
    root = tmp_path_factory.mktemp("base")
    make_run(root, "mc", random_gpt(), byte_tokenizer)
    make_run(root, "other", random_gpt(1), byte_tokenizer, seed=1)
    make_plain_run(root, "plain", random_gpt(), byte_tokenizer)
    for name in ("other", "plain"):
        os.utime(root / "runs" / name / "run.json", (1, 1))
    return root


@pytest.fixture
def command(base: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(base))

    def run(*args: object) -> tuple[int, str, str]:
        capfd.readouterr()
        return main(["context", *map(str, args)]), *capfd.readouterr()

    return run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder as people have them."""
    root = tmp_path / "project"
    for name, content in {
        "readme.md": b"# A project\n",
        "src/b.py": b"b = 2\n",
        "src/a.py": "a = 'é'\n".encode(),
        "src/deep/c.txt": b"line\n" * 40,
        "logo.png": b"\x89PNG\0\0",
        "latin.txt": "é".encode("latin-1"),
        "empty.txt": b"",
        "large.txt": b"x" * 3000,
        ".git/config": b"[core]\n",
        ".env": b"SECRET=1\n",
        "node_modules/left/pad.js": b"pad()\n",
        "env/pyvenv.cfg": b"home = x\n",
        "env/lib.py": b"lib\n",
        "build/CACHEDIR.TAG": b"Signature\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "link.md").symlink_to(root / "readme.md")
    return root


def manifest(directory: Path) -> dict[str, Any]:
    found = json.loads((directory / "session.json").read_text())["notes"]["context"]
    assert isinstance(found, dict)
    return found


def text_of(directory: Path, tokenizer: Tokenizer) -> str:
    from mccore import plugins
    from mccore.api import TreeSpec
    from mccore.config import Choice

    tree = plugins.build("tree", Choice(name="disk"), TreeSpec((), directory / "tree", read_only=True))
    ids = tree.read(0, 0, tree.length(0)).tolist()
    tree.close()
    return tokenizer.decode(ids)


def test_a_project_becomes_a_context(
    command: Command, project: Path, tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    out = tmp_path / "ctx"
    code, said, left = command("build", project, "--out", out, "--max-file-size", "0.002", "--run", "mc")
    assert code == 0
    assert "4 files, " in said
    for line in (
        "hidden: project/.git/, project/.env", "a link: project/link.md", "binary: project/logo.png", "empty: project/empty.txt",
        "not valid UTF-8: project/latin.txt", "larger than 2,000 bytes: project/large.txt", "a cache: project/build/",
        "a virtual environment: project/env/", "installed or made by a program: project/node_modules/",
    ):  # fmt: skip
        assert f"left out, {line}\n" in left
    content = {
        name: f"<|bos|>File: {name}\n\n{(project.parent / name).read_text()}"
        for name in ("project/readme.md", "project/src/a.py", "project/src/b.py", "project/src/deep/c.txt")
    }
    assert text_of(out, byte_tokenizer) == "".join(content.values())
    found = manifest(out)
    assert [file[0] for file in found["files"]] == list(content)
    at = 0
    for (_, start, stop, size, documents), (name, text) in zip(found["files"], content.items(), strict=True):
        assert (start, documents, size) == (at, 1, (project.parent / name).stat().st_size)
        at = stop
        assert stop - start == len(text.removeprefix("<|bos|>").encode()) + 1  # a token per byte
    assert found["origin"] == {"run": "mc", "stage": "sft", "step": 7}
    assert not (out / "build.json").exists()


def test_info_tells_what_is_in_it(command: Command, project: Path, tmp_path: Path, base: Path) -> None:
    out = tmp_path / "ctx"
    assert command("build", project / "src", "--out", out, "--json")[0] == 0
    code, said, _ = command("info", out, "--json")
    found = json.loads(said)
    assert code == 0
    assert found["kind"] == "context"
    assert found["rows"] == [found["tokens"] // 4**level for level in range(len(found["rows"]))]
    assert found["model_here"] == found["made_by"] == {"run": "mc", "stage": "sft", "step": 7}
    assert found["bytes"] == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    code, said, _ = command("info", out)
    assert "mc, sft step 7 (here)" in said
    assert "src/deep/c.txt" in said
    runs = base / "runs"
    (runs / "mc").rename(runs / "renamed")
    try:
        assert "(here as renamed, sft step 7)" in command("info", out)[1]
        (runs / "renamed").rename(base / "away")
        assert "mc, sft step 7 (not here)" in command("info", out)[1]
    finally:
        next(path for path in (runs / "renamed", base / "away") if path.exists()).rename(runs / "mc")


def test_info_reads_plain_sessions(command: Command, base: Path) -> None:
    assert main(["chat", "mc", "--session", "talk", "-p", "hi", "--max-new-tokens", "2", "--device", "cpu"]) == 0
    for path in ("talk", base / "sessions" / "talk"):
        code, said, _ = command("info", path)
        assert code == 0
        assert said.startswith(f"session in {base / 'sessions' / 'talk'}\n  model       mc, sft step 7\n")
    assert json.loads(command("info", "talk", "--json")[1])["kind"] == "session"
    shutil.rmtree(base / "sessions")


def test_which_files_is_a_choice(command: Command, project: Path, tmp_path: Path) -> None:
    def names(*options: str) -> list[str]:
        shutil.rmtree(tmp_path / "ctx", ignore_errors=True)
        assert command("build", *options, "--out", tmp_path / "ctx")[0] == 0
        return [file[0] for file in manifest(tmp_path / "ctx")["files"]]

    assert names(str(project), "--include", "*.py") == ["project/src/a.py", "project/src/b.py"]
    assert names(str(project), "--include", "src/*", "--exclude", "deep") == ["project/src/a.py", "project/src/b.py"]
    assert names(str(project / "src" / "b.py"), str(project / "src"), "--exclude", "c.txt") == ["b.py", "src/a.py"]


def test_records_are_documents(command: Command, tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"body": "one"}\n\n{"body": "two <|bos|>"}\n')
    assert command("build", path, "--field", "body", "--out", tmp_path / "ctx")[0] == 0
    (file,) = manifest(tmp_path / "ctx")["files"]
    assert (file[0], file[4]) == ("rows.jsonl", 2)
    text = "<|bos|>File: rows.jsonl, document 1\n\none<|bos|>File: rows.jsonl, document 2\n\ntwo <|bos|>"
    assert text_of(tmp_path / "ctx", byte_tokenizer) == text
    code, _, said = command("build", path, "--out", tmp_path / "other")
    assert (code, "no key 'text'; it has 'body'" in said) == (2, True)


def test_a_build_that_was_interrupted_goes_on(
    command: Command, tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mccore.contexts import build as context_build

    monkeypatch.setattr(context_build, "_CHARACTERS", 50)
    texts, out = tmp_path / "texts", tmp_path / "ctx"
    texts.mkdir()
    for number in range(5):
        (texts / f"{number}.txt").write_text(f"text {number} " * 20)
    count = 0

    def interrupt(self: object, tokens: int, read: int) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mccore.cli.context.BuildLine.__call__", interrupt)
        code, _, said = command("build", texts, "--out", out)
    assert code == 130
    assert "the same command goes on from there" in said
    code, _, said = command("info", out)
    assert (code, f"{out} isn't finished" in said) == (1, True)
    assert "is of another model" in command("build", texts, "--out", out, "--stage", "base", "--run", "other")[2]
    assert "of other files" in command("build", texts / "3.txt", "--out", out)[2]
    code, said, _ = command("build", texts, "--out", out, "--json")
    assert code == 0
    assert 0 < json.loads(said)["tokens_kept"] < json.loads(said)["tokens"]
    fresh = tmp_path / "fresh"
    assert command("build", texts, "--out", fresh)[0] == 0
    assert text_of(out, byte_tokenizer) == text_of(fresh, byte_tokenizer)
    for path in sorted((fresh / "tree").glob("level-*.rows")):
        assert (out / "tree" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["nowhere"], 2, "there is no nowhere"),
        (["texts/zeros"], 2, "texts/zeros is binary"),
        (["texts/none"], 2, "no file of text in texts/none"),
        (["texts", "--run", "plain"], 2, "was trained without MegaContext"),
        (["texts", "--run", "nosuch"], 2, "there is no run 'nosuch'"),
        (["texts", "--out", "texts"], 1, "texts isn't empty"),
        (["texts", "--max-file-size", "0"], 2, "not in the range"),
    ],
)
def test_what_can_not_be_built_is_said(
    command: Command, args: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts/none").mkdir(parents=True)
    Path("texts/zeros").write_bytes(b"a\0b")
    Path("texts/text").write_text("text")
    assert command("build", "--out", "ctx", *args)[0] == code
    assert message in command("build", "--out", "ctx", *args)[2]
    assert not Path("ctx").exists()


def test_a_finished_context_is_not_built_over(command: Command, project: Path, tmp_path: Path) -> None:
    assert command("build", project, "--out", tmp_path / "ctx")[0] == 0
    code, _, said = command("build", project, "--out", tmp_path / "ctx")
    assert (code, "there is a context or a session in" in said) == (1, True)
    code, _, said = command("info", tmp_path / "nowhere")
    assert (code, "there is no context or session in" in said) == (1, True)
    state = json.loads((tmp_path / "ctx" / "session.json").read_text())
    state["notes"]["context"]["files"] = 7
    (tmp_path / "ctx" / "session.json").write_text(json.dumps(state))
    code, _, said = command("info", tmp_path / "ctx")
    assert (code, "its list of files can't be read" in said) == (1, True)


def test_a_long_line_and_a_long_file_lose_nothing(
    command: Command, tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mccore.host import text as door

    monkeypatch.setattr(door, "PIECE", 16)
    text = "\ufeff" + "a long line without an end é " * 4 + "\r\nshort\n\nend"
    (tmp_path / "long.txt").write_text(text, newline="")
    assert command("build", tmp_path / "long.txt", "--out", tmp_path / "ctx")[0] == 0
    assert text_of(tmp_path / "ctx", byte_tokenizer) == f"<|bos|>File: long.txt\n\n{text[1:]}".replace("\r", "")


def flip(path: Path, *offsets: int) -> None:
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def sound(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context of three files with 64 KiB of gists and more."""
    root = tmp_path_factory.mktemp("sound")
    (root / "texts").mkdir()
    for number in range(3):
        (root / "texts" / f"{number}.txt").write_text(f"line {number} of a text\n" * 130)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MCCORE_BASE_DIR", str(base))
        assert main(["context", "build", str(root / "texts"), "--out", str(root / "ctx"), "--run", "mc"]) == 0
    return root / "ctx"


@pytest.fixture
def copied(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "ctx"))


def test_a_sound_context_verifies(command: Command, copied: Path, base: Path) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    code, said, _ = command("verify", copied)
    assert (code, "sound; " in said) == (0, True)
    found = json.loads(command("verify", copied, "--deep", "--json")[1])
    rows = json.loads(command("info", copied, "--json")[1])["rows"]
    assert (found["sound"], found["gists"], found["rounded"]) == (True, sum(rows[1:]), 0)
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before
    os.rename(base / "runs" / "mc", base / "away")
    try:
        code, said, _ = command("verify", copied)
        assert (code, "note: gists weren't made again" in said) == (0, True)
    finally:
        os.rename(base / "away", base / "runs" / "mc")


def test_damaged_gists_are_named_and_made_again(command: Command, copied: Path) -> None:
    rows = copied / "tree" / "level-1.rows"
    before = rows.read_bytes()
    flip(rows, 70_000)
    code, said, _ = command("verify", copied, "--json")
    found = json.loads(said)
    assert code == 1
    (problem,) = [each for each in found["problems"] if each["level"] == 1]
    assert problem["path"] == str(rows)
    assert problem["bytes"][0] <= 70_000 < problem["bytes"][1]
    assert problem["tokens"][0] <= 70_000 // 128 * 4 < problem["tokens"][1]
    assert "texts/0.txt" in problem["names"]
    code, said, _ = command("verify", copied)
    assert (code, f"damaged: {rows}, bytes 65,536 to " in said) == (1, True)
    code, said, _ = command("verify", copied, "--repair")
    assert code == 0
    assert "gists made again, 0 of them not bit for bit" in said
    assert rows.read_bytes() == before
    assert command("verify", copied, "--deep")[0] == 0


def test_lost_tokens_are_cut_off_only_when_asked(command: Command, copied: Path) -> None:
    for level in (0, 1):
        flip(copied / "tree" / f"level-{level}.rows", 16_000 * (8 if level else 1))
    code, said, _ = command("verify", copied, "--repair")
    assert code == 1
    assert "lost: LOD0 rows " in said
    assert "hint: --truncate" in said
    tokens = json.loads(command("info", copied, "--json")[1])["tokens"]
    code, said, _ = command("verify", copied, "--repair", "--truncate")
    assert (code, "the tree as it was: " in said) == (0, True)
    found = json.loads(command("info", copied, "--json")[1])
    assert 0 <= found["tokens"] < tokens
    assert all(file["stop"] <= found["tokens"] for file in found["files"])
    assert command("verify", copied, "--deep")[0] == 0


def test_what_does_not_fit_is_named(command: Command, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (keys,) = copied.glob("keys-*")
    flip(keys, 1000)
    code, said, _ = command("verify", copied)
    assert (code, f"damaged: {keys}: keys and values don't match their checksum" in said) == (1, True)
    assert command("verify", copied, "--repair")[0] == 0
    path = copied / "session.json"
    state = json.loads(path.read_text())
    for change, message in (
        ({"covered": 7}, "its cut covers 6690 tokens, not 7"),
        ({"tokens": 10**6, "covered": state["covered"]}, "speaks of 1,000,000"),
        ({"levels": 3}, "its cut has an entry above level 3"),
        ({"cut": [[0, 1], [2, 1]]}, "its cut has 2 entries, and 87 ages"),
    ):
        path.write_text(json.dumps({**state, **change}))
        code, said, _ = command("verify", copied)
        assert (code, message in said) == (1, True), said
    path.write_text("{")
    code, said, _ = command("verify", copied)
    assert (code, "session.json: it isn't valid JSON" in said) == (1, True)
    assert command("verify", copied, "--truncate")[0] == 2


def test_gists_of_something_else_are_noticed_in_spite_of_right_checksums(
    command: Command, copied: Path, base: Path
) -> None:
    from mccore.runtime.open import open_model

    sessions = open_model(base / "runs" / "other" / "checkpoints" / "sft" / "step_00000007").sessions()
    shutil.rmtree(copied / "tree")
    state = json.loads((copied / "session.json").read_text())
    tree = sessions.new(copied / "tree")
    tree.append([65] * state["tokens"])
    tree.close()
    code, said, _ = command("verify", copied)
    assert (code, "the gist isn't the one of what lies below it (LOD1; rows 0 to 1" in said) == (1, True)


def test_a_mounted_session_verifies_and_is_repaired(command: Command, copied: Path, base: Path) -> None:
    chat = ["chat", "mc", "--session", "talk", "--device", "cpu", "--max-new-tokens", "4", "-p"]
    assert main([*chat, "hello " * 400, "--context", str(copied)]) == 0
    home = base / "sessions" / "talk"
    try:
        assert "mounted by  talk" in command("info", copied)[1]
        assert f"mounted on  {copied.resolve()}" in command("info", "talk")[1]
        assert command("verify", "talk", "--deep")[0] == 0
        before = (home / "tree" / "level-1.rows").read_bytes()
        flip(home / "tree" / "level-1.rows", 3000)
        assert "(LOD1; rows " in command("verify", "talk")[1]
        assert command("verify", "talk", "--repair")[0] == 0
        assert (home / "tree" / "level-1.rows").read_bytes() == before
        assert main([*chat, "and on"]) == 0
        shutil.move(copied, copied.parent / "away")
        code, said, _ = command("verify", "talk")
        assert (code, "which isn't there" in said) == (1, True)
    finally:
        shutil.rmtree(home)
