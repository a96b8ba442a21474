"""`mccore setup` on a real pseudo-terminal and without one."""

from __future__ import annotations

import os
import pty
import select
import signal
import stat
import subprocess
import sys
import time

import pytest

from mccore.cli import main
from mccore.host.env import FILE_NAME, SETTINGS, read_settings, write_settings

PROGRAM = "import sys; from mccore.cli import main; sys.exit(main(sys.argv[1:]))"
SECRET = "s3cret-of-the-test"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working directory, and none of the settings in the environment."""
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


class Terminal:
    """`mccore setup` on a terminal of its own: `answer` waits for a prompt and types."""

    def __init__(self, *arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a suite in the background ignores it
            os.execv(sys.executable, [sys.executable, "-c", PROGRAM, "setup", *arguments])
        self.shown, self.read_to = "", 0

    def answer(self, prompt, text):
        self.wait_for(prompt)
        os.write(self.fd, text.encode() + b"\n")

    def wait_for(self, text):
        deadline = time.monotonic() + 240
        while (at := self.shown.find(text, self.read_to)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.shown}"
            assert self._read(), f"it ended without {text!r}:\n{self.shown}"
        self.read_to = at + len(text)

    def press_ctrl_c(self):
        """Press Ctrl-C, and again where it isn't heard: Python loses one that comes just before it waits for a key."""
        for _ in range(6):
            os.write(self.fd, b"\x03")
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    return
                if select.select([self.fd], [], [], 0.1)[0] and not self._read():
                    time.sleep(0.1)  # its side is closed, and it is about to end
        raise AssertionError(f"Ctrl-C doesn't end it:\n{self.shown}")

    def end(self):
        while self._read():
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self):
        ready, _, _ = select.select([self.fd], [], [], 60)
        try:
            data = os.read(self.fd, 65536) if ready else b""
        except OSError:  # the other side has closed
            data = b""
        self.shown += data.decode(errors="replace")
        return bool(data)


def prompts():
    return [setting.description for setting in SETTINGS]


class TestTerminal:
    def test_answers_become_settings_and_secrets_stay_hidden(self, work):
        write_settings({"WANDB_PROJECT": "old", "HF_TOKEN": "hf_old-token"})
        terminal = Terminal()
        answers = {
            "MCCORE_BASE_DIR": str(work / "base"),
            "WANDB_API_KEY": SECRET,
            "WANDB_PROJECT": "",  # kept
            "WANDB_MODE": "offline",
            "HF_TOKEN": "clear",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        }
        for setting in SETTINGS:
            terminal.answer(setting.description, answers.get(setting.variable, ""))
        assert terminal.end() == 0
        assert read_settings() == {
            "MCCORE_BASE_DIR": str(work / "base"),
            "WANDB_API_KEY": SECRET,
            "WANDB_PROJECT": "old",
            "WANDB_MODE": "offline",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        }
        assert stat.S_IMODE((work / FILE_NAME).stat().st_mode) == 0o600
        assert SECRET not in terminal.shown
        assert "hf_old-token" not in terminal.shown
        assert "removed HF_TOKEN" in terminal.shown
        assert "old" in terminal.shown  # what isn't secret is shown

    def test_a_wrong_answer_is_asked_again(self, work):
        terminal = Terminal()
        for setting in SETTINGS:
            if setting.variable == "WANDB_MODE":
                terminal.answer(setting.description, "sometimes")
                terminal.wait_for("isn't one of")
                terminal.answer(setting.description, "disabled")
            elif setting.variable == "OTEL_EXPORTER_OTLP_ENDPOINT":
                terminal.answer(setting.description, "nonsense")
                terminal.wait_for("is no endpoint")
                terminal.answer(setting.description, "")
            else:
                terminal.answer(setting.description, "")
        assert terminal.end() == 0
        assert read_settings() == {"WANDB_MODE": "disabled"}

    def test_ctrl_c_writes_nothing(self, work):
        write_settings({"WANDB_PROJECT": "old"})
        before = (work / FILE_NAME).read_bytes()
        terminal = Terminal("--wandb-project", "new")
        terminal.wait_for(prompts()[0])
        terminal.press_ctrl_c()
        assert terminal.end() == 130
        assert (work / FILE_NAME).read_bytes() == before


class TestYes:
    def test_options_are_taken_and_the_rest_is_kept(self, work, capsys):
        write_settings({"WANDB_PROJECT": "old", "WANDB_MODE": "online", "MCCORE_OPENSEARCH_URL": "http://a:9200"})
        arguments = ["--base-dir", "data", "--hf-token", SECRET, "--wandb-mode", ""]
        assert main(["setup", "--yes", *arguments]) == 0
        assert read_settings() == {
            "WANDB_PROJECT": "old",
            "MCCORE_OPENSEARCH_URL": "http://a:9200",
            "MCCORE_BASE_DIR": str(work / "data"),
            "HF_TOKEN": SECRET,
        }
        captured = capsys.readouterr()
        assert SECRET not in captured.out + captured.err
        assert "HF_TOKEN" in captured.out

    def test_a_secret_from_standard_input(self, work):
        command = [sys.executable, "-c", PROGRAM, "setup", "--yes", "--wandb-key", "-"]
        done = subprocess.run(command, input=f"{SECRET}\n", capture_output=True, text=True, check=True)
        assert read_settings() == {"WANDB_API_KEY": SECRET}
        assert SECRET not in done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--wandb-mode", "sometimes"], "isn't one of online, offline, disabled"),
            (["--otel-endpoint", "127.0.0.1:4318"], "write it as http://HOST:PORT"),
            (["--otel-endpoint", "http://[::1"], "is no endpoint"),
            (["--base-dir", "/dev/null/x"], "can't be used for runs"),
            (["--wandb-key", "two words"], "characters that can't be part of it"),
        ],
    )
    def test_what_cant_be_right_is_refused(self, work, capsys, arguments, message):
        assert main(["setup", "--yes", *arguments]) == 2
        assert message in capsys.readouterr().err
        assert not (work / FILE_NAME).exists()

    def test_a_link_is_refused(self, work, capsys):
        (work / FILE_NAME).symlink_to(work / "target")
        assert main(["setup", "--yes", "--wandb-project", "x"]) == 2
        assert "is a link" in capsys.readouterr().err
        assert not (work / "target").exists()


class TestGit:
    @pytest.fixture
    def checkout(self, work):
        subprocess.run(["git", "init", "-q", str(work)], check=True)
        return work

    def test_the_file_is_ignored_from_then_on(self, checkout, capsys):
        (checkout / ".gitignore").write_text("*.pyc")
        assert main(["setup", "--yes"]) == 0
        assert (checkout / ".gitignore").read_text() == f"*.pyc\n{FILE_NAME}\n"
        assert "added .mc_env to" in capsys.readouterr().out
        assert main(["setup", "--yes"]) == 0
        assert (checkout / ".gitignore").read_text().count(FILE_NAME) == 1
        status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
        assert FILE_NAME not in status.stdout

    def test_a_subdirectory_uses_the_checkouts_file(self, checkout, monkeypatch):
        (checkout / "sub").mkdir()
        monkeypatch.chdir(checkout / "sub")
        assert main(["setup", "--yes"]) == 0
        assert (checkout / ".gitignore").read_text() == f"{FILE_NAME}\n"

    def test_a_pattern_that_covers_it_is_enough(self, checkout):
        (checkout / ".gitignore").write_text(".mc*\n")
        assert main(["setup", "--yes"]) == 0
        assert (checkout / ".gitignore").read_text() == ".mc*\n"

    def test_what_else_is_in_it_stays_as_it_is(self, checkout):
        before = b"caf\xe9/\r\n*.pyc\r\na\xe2\x80\xa8b"  # latin-1, line ends of Windows, a line separator, no end
        (checkout / ".gitignore").write_bytes(before)
        assert main(["setup", "--yes"]) == 0
        assert (checkout / ".gitignore").read_bytes() == before + f"\n{FILE_NAME}\n".encode()

    def test_one_that_is_no_file_is_told(self, checkout, capsys):
        os.mkfifo(checkout / ".gitignore")
        assert main(["setup", "--yes"]) == 0
        assert "isn't in" in capsys.readouterr().err

    def test_a_tracked_file_is_warned_of(self, checkout, capsys):
        (checkout / FILE_NAME).write_text("")
        subprocess.run(["git", "add", FILE_NAME], check=True)
        assert main(["setup", "--yes"]) == 0
        assert "is tracked by git" in capsys.readouterr().err

    def test_outside_a_checkout_nothing_is_added(self, work):
        assert main(["setup", "--yes"]) == 0
        assert not (work / ".gitignore").exists()


def test_every_command_reads_the_file_and_the_environment_wins(work, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop("NANOCHAT_BASE_DIR", None)
    write_settings({"MCCORE_BASE_DIR": str(work / "here")})
    assert main(["run", "--resume"]) == 2
    assert str(work / "here" / "runs") in capsys.readouterr().err
    os.environ["MCCORE_BASE_DIR"] = str(work / "there")
    assert main(["run", "--resume"]) == 2
    assert str(work / "there" / "runs") in capsys.readouterr().err


def test_a_damaged_file_is_named(work, capsys):
    (work / FILE_NAME).write_text("nonsense\n")
    assert main(["runs"]) == 2
    assert f"{FILE_NAME}, line 1" in capsys.readouterr().err
