"""Kinds 6, 11 and 12: an environment that isn't ours, figures, words. BF4, BF12, BF18, RF13, RF14, RF16."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mccore.cli import main
from mccore.config import HardwareConfig
from mccore.errors import UsageError
from mccore.eval.statistics import mean_and_stderr, share
from mccore.events.metrics import language_loss
from mccore.host import paths
from mccore.host.env import FILE_NAME, apply_settings, parse_settings, read_settings
from mccore.launch.command import child_environment
from mccore.report.pages.words import accuracy_text
from mccore.runs.series import comparable, side_by_side
from mccore.units import count, share_interval, size

# --- variables of other launchers: BF4 --------------------------------------------------------------------------------

FOREIGN = {
    "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "0", "MASTER_ADDR": "h",
    "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True", "PET_NNODES": "4",
    "ROLE_NAME": "x", "NODE_RANK": "1", "MPLBACKEND": "nonsense", "PYTHONWARNINGS": "error", "PYTHONINSPECT": "1",
}  # fmt: skip


def test_a_stage_has_only_the_ranks_that_we_give_it() -> None:
    kept = child_environment("base", HardwareConfig(), {**FOREIGN, "HOME": "/h", "NCCL_DEBUG": "INFO"})
    assert FOREIGN.keys().isdisjoint(kept)
    assert (kept["HOME"], kept["NCCL_DEBUG"]) == ("/h", "INFO")


@pytest.mark.parametrize("value", ["", "many", "0", "-1", "1.5"])
def test_a_thread_count_that_is_none_is_replaced(value: str) -> None:
    assert int(child_environment("base", HardwareConfig(), {"OMP_NUM_THREADS": value})["OMP_NUM_THREADS"]) > 0


def test_our_processes_look_at_nothing_else_installed() -> None:
    kept = child_environment("base", HardwareConfig(), {})
    assert kept["PYDANTIC_DISABLE_PLUGINS"] == "__all__"


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "TkAgg"])  # BF12
def test_plots_need_no_backend(backend: str, tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    script = (
        "import os\nfrom mccore.report.plots.training import draw_plots\n"
        "assert draw_plots({'base': {'loss': [(1.0, 2.0), (2.0, 1.0)]}})['loss.png'].startswith(b'\\x89PNG')\n"
        f"assert os.environ['MPLBACKEND'] == {backend!r}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "MPLBACKEND": backend},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- streams and places: BF18, RF16 -----------------------------------------------------------------------------------


def mccore(arguments: str, cwd: Path, shell: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """The command under a shell, which can close or redirect its streams."""
    environment = {**os.environ, "MCCORE_BASE_DIR": str(cwd / "base"), **variables}
    return subprocess.run(
        ["sh", "-c", f"{shell.replace('{}', f'{sys.executable} -m mccore {arguments}')}"],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "shell", "code", "said"),
    [
        pytest.param(
            "runs", "{} > /dev/full", 1, "can't write the output: No space left on device", id="RF16-dev-full"
        ),
        pytest.param("--help", "{} > /dev/full", 1, "can't write the output: No space", id="RF16-dev-full-help"),
        pytest.param("runs", "{} >&-", 1, "can't write the output", id="BF18-no-stdout"),
        pytest.param("runs", "{} <&-", 0, "", id="BF18-no-stdin"),
        pytest.param("runs", "{} 2>&-", 0, "", id="BF18-no-stderr"),
        pytest.param("runs", "{} <&- >&- 2>&-", 1, "", id="BF18-no-streams"),
        pytest.param("chat -p hi", "{} <&- 2>&-", 2, "", id="BF18-chat"),
        pytest.param("runs", "mkdir gone; cd gone; rmdir ../gone; {}", 0, "", id="BF18-deleted-directory"),
        pytest.param("runs", "MCCORE_BASE_DIR='~nouser/x' {}", 2, "there is no such home directory", id="BF18-home"),
        pytest.param("chat --session " + "n" * 300, "{}", 2, "can't be the name of a session", id="BF18-long-name"),
        pytest.param("chat --temperature nan", "{}", 2, "not a number", id="RF16-nan"),
        pytest.param("runs", "mkdir .mc_env; {}", 2, ".mc_env isn't a file", id="RF16-mc-env-directory"),
        pytest.param("runs", "printf 'MCCORE_BASE_DIR=\"a\\0b\"' > .mc_env; {}", 2, "NUL", id="RF16-mc-env-nul"),
        pytest.param(
            "runs", "printf 'HF_TOKEN=x' > .mc_env; {}", 0, "(.mc_env: HF_TOKEN)", id="RF16-says-what-it-took"
        ),
        pytest.param("runs", "printf 'WANDB_SILENT=x' > .mc_env; {}", 2, "isn't a setting", id="RF16-not-listed"),
    ],
)
def test_a_line_and_no_traceback(tmp_path: Path, arguments: str, shell: str, code: int, said: str) -> None:
    done = mccore(arguments, tmp_path, shell)
    assert "Traceback" not in done.stderr + done.stdout
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_a_path_that_can_not_be() -> None:
    for path in ("~nouser/x", "a\0b"):
        with pytest.raises(UsageError):
            paths.expand(path)


def test_settings_are_the_listed_ones(tmp_path: Path) -> None:
    for line in ("HF_EVIL=1", "MCCORE_X=1", "WANDB_CONSOLE=x", "PATH=/x", "LD_PRELOAD=x"):
        with pytest.raises(UsageError, match="isn't a setting"):
            parse_settings(line)
    (tmp_path / FILE_NAME).write_bytes(b"\xef\xbb\xbfHF_TOKEN=a\r\nWANDB_MODE=offline\r\n")  # BF11: saved by Notepad
    assert read_settings(tmp_path) == {"HF_TOKEN": "a", "WANDB_MODE": "offline"}
    environ = {"HF_TOKEN": "mine"}
    assert apply_settings(environ, tmp_path) == ["WANDB_MODE"]
    (tmp_path / FILE_NAME).write_text("#" * 100_000)
    with pytest.raises(UsageError, match="larger than"):
        read_settings(tmp_path)


def test_an_interrupt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mccore.cli.cli.main", press)
    assert main(["runs"]) == 130


# --- figures: RF13, RF14 ----------------------------------------------------------------------------------------------


def test_the_loss_that_is_compared_is_the_language_models() -> None:  # RF13
    assert language_loss({"loss": 9.1, "token_loss": 5.1}) == 5.1
    assert language_loss({"loss": 3.9}) == 3.9
    assert language_loss({}) is None
    mc, plain = comparable([{"loss": 9.1, "token_loss": 5.1}, {"loss": 3.9}])
    assert (mc, plain) == ({"token_loss": 5.1}, {"token_loss": 3.9})
    assert comparable([{"loss": 1.0}, {"loss": 2.0}]) == [{"loss": 1.0}, {"loss": 2.0}]


def test_losses_of_different_stages_are_not_set_side_by_side() -> None:  # RF13's neighbours
    ended = {"base": {"loss": 9.0, "token_loss": 4.0}, "sft": {"loss": 0.8}}
    assert side_by_side([ended, {"base": {"loss": 3.0}}]) == [
        ("loss", "sft", [0.8, None]), ("token_loss", "base", [4.0, 3.0]),
    ]  # fmt: skip
    assert side_by_side([{"sft": {"loss": 0.8}}, {"base": {"loss": 3.0}}]) == [
        ("loss", "base", [None, 3.0]), ("loss", "sft", [0.8, None]),
    ]  # fmt: skip
    assert side_by_side([ended, ended, {"tokenizer": {}}])[-1] == ("token_loss", "base", [4.0, 4.0, None])


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (9_999, "9,999"), (9_999.6, "10k"), (999_499, "999k"), (999_999, "1M"), (999_999_999, "1G"),
     (-999_999, "-1M"), (1e18, "1e+03P"), (float("nan"), "nan")],
)  # fmt: skip
def test_what_rounds_to_a_thousand_is_one_of_the_next_unit(value: float, words: str) -> None:
    assert count(value) == words


def test_sizes_round_up_too() -> None:
    assert [size(1023), size(2**20 - 1), size(2**30 - 1)] == ["1023 B", "1.0 MiB", "1.0 GiB"]


@pytest.mark.parametrize("right", [[False] * 4, [True] * 4, [False], [True]])  # RF14
def test_alike_answers_claim_no_certainty(right: list[bool]) -> None:
    found = share(right)
    assert found.stderr is None
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low > 0.4
    text = accuracy_text({"accuracy": found.accuracy, "stderr": None, "n": found.n})
    assert "±" not in text


def test_the_interval_by_hand() -> None:
    # Wilson's formula for 8 of 10, from Brown, Cai & DasGupta (2001): 0.4902 to 0.9433.
    low, high = share_interval(0.8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert share_interval(0.0, 4) == (0.0, pytest.approx(0.4899, abs=1e-4))


def test_a_sample_without_spread_has_no_standard_error() -> None:
    assert mean_and_stderr([0.0, 0.0, 0.0]) == (0.0, None)
