"""Kind 1, the door out, on a real pseudo-terminal: what strangers can name is planted with escapes and comes out shown.

RF5 and BF9: file names, documents, run names, event text, plugin metadata, conversations, arguments.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import sys
import termios
from pathlib import Path

import pytest

WRITTEN = Path(__file__).parents[1] / "support" / "old_build"
PLANT = "\x1b]0;owned\x07\x1b[8mred\x9b2J\u202eevil\u2066\r\x08"
# Our own: styles (the planted one is none of them), the line that is written again and again, the terminal's line end.
OURS = re.compile(r"\x1b\[(?!8m)[0-9;]*m|\r\x1b\[K|\r\n")


def on_terminal(*arguments: str, base: Path, stdin: str = "", extra: Path | None = None, quiet: bool = False) -> str:
    """What a command writes to a terminal that is its standard input, output and error. `quiet` terminals don't show what is
    typed, which is their own doing."""
    pid, fd = pty.fork()
    if quiet and pid:
        modes = termios.tcgetattr(fd)
        modes[3] &= ~(termios.ECHO | termios.ISIG)
        termios.tcsetattr(fd, termios.TCSANOW, modes)
    if pid == 0:
        environment = {
            **os.environ,
            "MCCORE_BASE_DIR": str(base),
            "PYTHONUTF8": "1",
            "TERM": "xterm",
            "OMP_NUM_THREADS": "1",
        }
        if extra is not None:
            environment["PYTHONPATH"] = str(extra)
        program = "import sys; from mccore.cli import main; sys.exit(main(sys.argv[1:]))"
        os.execve(sys.executable, [sys.executable, "-c", program, *arguments], environment)
    os.write(fd, stdin.encode())
    said = b""
    while True:
        try:
            piece = os.read(fd, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        said += piece
    os.waitpid(pid, 0)
    os.close(fd)
    return said.decode("utf-8", "replace")


def raw(said: str) -> str:
    """What is left of an output that a terminal would obey, our own codes taken away."""
    said = OURS.sub("", said)
    return "".join(
        character
        for character in said
        if (ord(character) < 32 and character not in "\n\t")
        or 0x7F <= ord(character) < 0xA0
        or character in "\u202e\u2066"
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base directory with a run, and folders, whose names and contents are planted."""
    base = tmp_path_factory.mktemp("base")
    files = base / "files"
    files.mkdir()
    name = PLANT.replace("/", "").replace("\x00", "")
    (files / f"{name}.txt").write_text(f"text {PLANT}\n" * 50)
    (files / f"{name}.jsonl").write_text("{bad " + PLANT)
    (files / f".{name}").write_text("hidden")
    (files / "latin.txt").write_bytes(b"\xff" + PLANT.encode())
    from mccore.resolve.resolve import resolve
    from mccore.runs.rundir import RunDir

    run = RunDir.create(base / "runs", "planted", resolve("tiny"))
    run.events_dir.mkdir(parents=True, exist_ok=True)
    event = {"v": 1, "type": "stage.end", "time": 1.0, "rank": 0, "stage": f"base{PLANT}", "step": 1, "tokens": 1}
    event |= {"metrics": {f"loss{PLANT}": 1.0}, "data": {"outcome": "failed", "message": PLANT, "seconds": 1}}
    end = event | {"type": "run.end", "stage": None, "data": {"state": "failed", "message": PLANT, "stage": PLANT}}
    lines = "".join(json.dumps(each) + "\n" for each in (event, end))
    (run.events_dir / "launcher.jsonl").write_text(lines)
    (run.events_dir / "rank0.jsonl").write_text(lines)
    info = base / "site" / "evil-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: evil\nVersion: 0.1\nSummary: {PLANT[:-2]}\n")
    (info / "entry_points.txt").write_text(f"[mccore.recipes]\nevil\x1b[8m = nowhere{PLANT[1:8]}:x\n")
    return base


COMMANDS = [
    ("tok", "train", "{files}", "--vocab-size", "300", "--out", "{base}/tok"),
    ("tok", "train", "{files}/{name}.jsonl", "--vocab-size", "300", "--out", "{base}/tok"),
    ("tok", "eval", "{base}/" + PLANT),
    ("run", "tiny", "--dry-run", "--set", "data.corpus=text:{files}/{name}.txt"),
    ("run", PLANT),
    ("run", "--help"),
    ("runs",),
    ("runs", "--json"),
    ("runs", "show", "planted"),
    ("runs", "show", "planted", "--json"),
    ("runs", "show", PLANT),
    ("plugins",),
    ("plugins", "--json"),
    ("context", "info", PLANT),
    ("chat", PLANT, "--session", PLANT, "-p", PLANT),
    ("report", "planted"),
    ("nosuch" + PLANT,),
    ("tok", "train", "--" + PLANT),
]


@pytest.mark.parametrize(
    "arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:2]).encode("unicode_escape").decode()[:30]
)
def test_nothing_planted_reaches_the_terminal_raw(places: Path, arguments: tuple[str, ...]) -> None:
    fields = {"base": str(places), "files": str(places / "files"), "name": PLANT}
    given = [argument.format(**fields) for argument in arguments]
    said = on_terminal(*given, base=places, extra=places / "site")
    assert said.strip()
    assert "Traceback" not in said, said
    assert raw(said) == "", ascii(said)


# --- a live chat, a stranger's session and context ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base directory whose model, session and context are a stranger's: every string that they hold is planted."""
    base = tmp_path_factory.mktemp("strangers") / "base"
    shutil.copytree(WRITTEN, base)
    for path in (base / "context/session.json", base / "sessions/kept/session.json"):
        content = json.loads(path.read_text())
        notes = content["notes"]
        if "context" in notes:
            manifest = notes["context"]
            manifest["origin"]["run"] = manifest["created"] = manifest["mccore"] = PLANT
            manifest["files"] = [[f"{PLANT}{index}", *rest[1:]] for index, rest in enumerate(manifest["files"])]
            manifest["skipped"] = {PLANT: 3}
        path.write_text(json.dumps({**content, "notes": {**notes, "system": PLANT, "run": PLANT, "stage": PLANT}}))
    (base / "document.txt").write_text(f"A passage {PLANT} of a stranger. " * 30)
    saved = {"system": PLANT, "messages": [{"role": "user", "content": PLANT}, {"role": "assistant", "content": PLANT}]}
    (base / "saved.json").write_text(json.dumps(saved))
    (base / "broken.json").write_text(json.dumps({"messages": [{"role": PLANT, "content": PLANT}]}))
    return base


TALK = (
    "/sources\n/system " + PLANT.replace("\r", "") + "\n/file {base}/document.txt\nhi\n/sources\n/cut\n/stats\n"
    "/load {base}/saved.json\n/load {base}/broken.json\n/load {plant}\n/file {plant}\n/branch {plant}\n/temperature {plant}\n"
    "/nosuch{plant}\n/help\nagain\n/quit\n"
)  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ("chat", "old", "--mc", "--max-new-tokens", "24", "--seed", "1"),
        ("chat", "--session", "kept", "--max-new-tokens", "24"),
        ("chat", "--context", "{base}/context", "--max-new-tokens", "24"),
        ("chat", "old", "--no-mc", "--max-new-tokens", "24", "--system", PLANT),
        ("context", "info", "{base}/context"),
        ("context", "info", "{base}/sessions/kept"),
        ("context", "verify", "{base}/context"),
    ],
    ids=lambda arguments: "-".join(arguments[:2]),
)
def test_a_strangers_session_and_what_a_model_says_of_it(strangers: Path, arguments: tuple[str, ...]) -> None:
    """RF5: `/sources` printed passages as they are, `context info` the names of files, notes and reasons."""
    typed = TALK.format(base=strangers, plant=PLANT.replace("\r", "").replace("\x08", ""))
    given = [argument.format(base=strangers) for argument in arguments]
    said = on_terminal(*given, base=strangers, stdin=typed if arguments[0] == "chat" else "", quiet=True)
    assert "Traceback" not in said, said
    assert raw(said) == "", ascii(said)
    if arguments[0] == "chat" or arguments[1:] == ("info", "{base}/context"):  # what was planted is shown
        assert "\u241b" in said or "\\x1b" in said, said
