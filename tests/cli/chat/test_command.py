from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mccore.cli import main
from mccore.config import RunConfig
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.events import read_events
from mccore.model import GPT
from mccore.runs.checkpoints import Meta
from mccore.runs.rundir import RunDir
from mccore.train.checkpoint.write import write_checkpoint

COMMAND = [sys.executable, "-c", "import sys; from mccore.cli import main; sys.exit(main())", "chat"]


def make_run(
    root: Path, name: str, gpt: GPT | None, tokenizer: Tokenizer, stages: tuple[str, ...] = ("sft",)
) -> RunDir:
    """A run directory as training leaves it, with `gpt` as the checkpoint of `stages`."""
    config = RunConfig() if gpt is None else RunConfig(model=gpt.config)
    run = RunDir.create(root / "runs", name, config)
    tokenizer.save(run.tokenizer_dir)
    for stage in stages if gpt is not None else ():
        state = {f"model/gpt.{name}": tensor for name, tensor in gpt.state_dict().items()}
        meta = Meta(stage, 7, 70, config.model_dump(mode="json"), tokenizer.fingerprint)
        write_checkpoint(run.checkpoint_dir(stage), state, meta)
    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Tokenizer, random_gpt: Callable[..., GPT]) -> Path:
    """A base directory with a run `ready` (sft and base) and a later one, `empty`, without a checkpoint."""
    root = tmp_path_factory.mktemp("base")
    make_run(root, "ready", random_gpt(), byte_tokenizer, ("sft", "base"))
    make_run(root, "empty", None, byte_tokenizer)
    os.utime(root / "runs" / "ready" / "run.json", (1, 1))
    return root


@pytest.fixture
def chat(base: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(base))
    return lambda *args: main(["chat", "--device", "cpu", *args])


def test_one_prompt_by_default_goes_to_the_newest_run_with_a_model(
    chat: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["-p", "hello", "--max-new-tokens", "8", "--json", "--seed", "3"]
    assert chat(*options) == 0
    answer = json.loads(capfd.readouterr().out)
    assert (answer["run"], answer["stage"], answer["step"]) == ("ready", "sft", 7)
    assert (answer["prompt"], answer["new_tokens"]) == ("hello", 8)
    assert answer["finish"] == "length"
    assert answer["sampling"]["seed"] == 3
    assert chat("ready", *options) == 0
    again = json.loads(capfd.readouterr().out)
    assert again["reply"] == answer["reply"]
    assert chat("ready", *options, "--stage", "base") == 0
    assert json.loads(capfd.readouterr().out)["stage"] == "base"


def test_without_a_seed_answers_differ(chat: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    replies = set()
    for _ in range(3):
        assert chat("-p", "hello", "--temperature", "2", "--top-k", "0", "--max-new-tokens", "12", "--json") == 0
        replies.add(json.loads(capfd.readouterr().out)["reply"])
    assert len(replies) > 1


def test_an_answer_is_plain_text_on_standard_output(
    chat: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert chat("-p", "hello", "--temperature", "0", "--max-new-tokens", "5") == 0
    captured = capfd.readouterr()
    assert captured.out.endswith("\n")
    assert "\x1b" not in captured.out
    assert captured.err == "(cut off after 5 tokens; --max-new-tokens allows more)\n"


def test_piped_lines_are_messages_and_commands(base: Path, tmp_path: Path) -> None:
    saved, pasted = tmp_path / "chat.json", tmp_path / "note.txt"
    pasted.write_text("a pasted file\n")
    lines = ["hello", "/system Be brief.", f"/file {pasted}", "what?", "//slash", "", f"/save {saved}", "/nosuch",
             "/temperature 9", "/topk x", "/file", "/file /no/such", "/clear", "/quit", "never read"]  # fmt: skip
    done = subprocess.run(
        [*COMMAND, "--device", "cpu", "--temperature", "2", "--max-new-tokens", "30", "--seed", "1"],
        input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=120, errors="replace",
        # A terminal without UTF-8: what it can't show must not end the chat.
        env={**os.environ, "MCCORE_BASE_DIR": str(base), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    messages = json.loads(saved.read_text())["messages"]
    assert [message["content"] for message in messages[::2]] == [
        "hello", "Here is a part of note.txt:\n\na pasted file\n\nwhat?", "/slash",
    ]  # fmt: skip
    assert "there is no command /nosuch" in done.stderr
    assert "'9': a temperature is a number from 0 to 2" in done.stderr
    assert "'x': top-k is a whole number" in done.stderr
    assert "can't read /no/such: No such file" in done.stderr
    assert "(forgotten)" in done.stderr


def test_a_prompt_from_standard_input_may_have_lines(
    chat: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    assert chat("-p", "-", "--json", "--max-new-tokens", "3") == 0
    assert json.loads(capfd.readouterr().out)["prompt"] == "one\ntwo\n"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["nosuch"], 2, "there is no run 'nosuch'"),
        (["redy"], 2, "did you mean ready?"),
        (["empty"], 2, "the run 'empty' has no checkpoint yet (it is created)"),
        (["ready", "--stage", "mid"], 2, "no checkpoint of mid, only of sft, base"),
        (["ready", "--temperature", "3"], 2, "not in the range 0<=x<=2"),
        (["ready", "--stage", "data"], 2, "'data' is not one of"),
        (["ready", "-p", "  "], 2, "the prompt is empty"),
    ],
)
def test_errors_say_what_to_do(
    args: list[str], code: int, message: str, chat: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert chat(*args) == code
    assert message in capfd.readouterr().err


def test_without_any_run_the_hint_is_to_train_one(
    tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path))
    assert main(["chat"]) == 2
    assert "hint: train one: mccore run tiny" in capfd.readouterr().err
    make_run(tmp_path, "empty", None, byte_tokenizer)
    assert main(["chat"]) == 2
    assert "none of the runs" in capfd.readouterr().err


def test_a_tokenizer_of_another_run_is_refused(
    tmp_path: Path, byte_tokenizer: Tokenizer, random_gpt: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = make_run(tmp_path, "mixed", random_gpt(), byte_tokenizer)
    Tokenizer([*[bytes([i]) for i in range(256)], b"ab"], pattern=byte_tokenizer.pattern).save(run.tokenizer_dir)
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path))
    assert main(["chat", "-p", "hi", "--device", "cpu"]) == 2
    assert "was trained with another tokenizer" in capfd.readouterr().err


class Screen:
    """A command on a pseudo-terminal of its own."""

    def __init__(self, args: list[str], env: dict[str, str]) -> None:
        self.fd, child = pty.openpty()
        self.process = subprocess.Popen(
            args, stdin=child, stdout=child, stderr=child, env=env, start_new_session=True, close_fds=True
        )
        os.close(child)
        self.text = ""

    def shows(self, pattern: str, seconds: float) -> bool:
        """Read until the screen shows `pattern` after what was matched before; False when it doesn't within the time."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.text)):
            if not select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return False
            try:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                return False
        self.text = self.text[match.end() :]
        return True

    def until(self, pattern: str) -> None:
        assert self.shows(pattern, 90), f"no {pattern!r} on the screen: {self.text!r}"

    def interrupt_until(self, pattern: str) -> None:
        """Press Ctrl-C until it is noticed: one that comes between a prompt's last character and the wait for a key is
        only noticed by Python's `input` at the next key."""
        for _ in range(30):
            self.process.send_signal(signal.SIGINT)
            if self.shows(pattern, 3):
                return
        raise AssertionError(f"no {pattern!r} on the screen: {self.text!r}")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.fd)


@pytest.fixture
def screen(base: Path) -> Iterator[Callable[..., Screen]]:
    opened: list[Screen] = []

    def start(*args: str) -> Screen:
        env = {**os.environ, "MCCORE_BASE_DIR": str(base), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
        opened.append(Screen([*COMMAND, "--device", "cpu", *args], env))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_a_conversation_at_a_terminal(screen: Callable[..., Screen]) -> None:
    terminal = screen("ready", "--max-new-tokens", "6", "--temperature", "0")
    terminal.until(r"mccore chat: ready, sft step 7, .* context 128 tokens, on cpu")
    terminal.until("Ctrl-D leaves")
    terminal.until("> ")
    terminal.type("/help\n")
    terminal.until("/temperature")
    terminal.until("> ")
    terminal.type("hello\n")
    terminal.until("cut off after 6 tokens")
    terminal.until("> ")
    terminal.type("/stats\n")
    terminal.until("session: 1 answers, 6 tokens")
    terminal.until("> ")
    terminal.type("\x04")
    terminal.process.wait(240)
    assert terminal.process.returncode == 0


def test_ctrl_c_stops_the_answer_not_the_chat(screen: Callable[..., Screen]) -> None:
    # No end of the answer is in reach: Ctrl-C comes while it is being written.
    terminal = screen("endless", "--max-new-tokens", "100000", "--temperature", "0")
    terminal.until("> ")
    terminal.type("hello\n")
    terminal.until("hello\r\n.")
    terminal.process.send_signal(signal.SIGINT)
    terminal.until(r"\(stopped\)")
    terminal.until("> ")
    terminal.interrupt_until(r"Ctrl-D or /quit leaves")
    terminal.until("> ")
    terminal.type("/stats\n")
    terminal.until("session: 1 answers")
    terminal.until("> ")
    terminal.type("/quit\n")
    terminal.process.wait(240)
    assert terminal.process.returncode == 0


@pytest.fixture(scope="module", autouse=True)
def endless(base: Path, byte_tokenizer: Tokenizer, random_gpt: Callable[..., GPT]) -> None:
    """A run whose model, asked for the likeliest token, never ends an answer, with a context of a million tokens."""
    import torch

    gpt = random_gpt(3, max_seq_len=1_000_000, window_pattern="S", window_short=32, logit_softcap=0)
    with torch.no_grad():
        gpt.head.weight[byte_tokenizer.bos_id :] = 0  # of 256 random logits one is always above 0
    run = make_run(base, "endless", gpt, byte_tokenizer)
    os.utime(run.path / "run.json", (0, 0))


def test_a_chat_tells_telemetry_how_it_went_and_nothing_of_what_was_said(
    chat: Callable[..., int], base: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = base / "runs" / "ready"
    assert chat("ready", "-p", "my secret plan") == 0
    assert not (run / "chats").exists(), "no provider is on"
    monkeypatch.setenv("MCCORE_PROMETHEUS_PORT", "0")
    assert chat("ready", "-p", "my secret plan", "--max-new-tokens", "4") == 0
    out = capfd.readouterr()
    assert "(telemetry to prometheus: MCCORE_PROMETHEUS_PORT is set)" in out.err
    (directory,) = (run / "chats").iterdir()
    events = read_events(directory)
    assert [event.type for event in events] == ["run.start", "chat.turn", "run.end"]
    assert events[1].data["new_tokens"] <= 4
    assert events[1].data["seconds"] > 0
    assert "plan" not in (directory / "events.jsonl").read_text()
    assert not list((directory / "telemetry").iterdir()), "what was served is served no more"
    assert not (run / "events").exists(), "a chat is no part of the run's record"
