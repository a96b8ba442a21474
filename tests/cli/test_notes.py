"""Command lines of the prototype, as they stand in people's notes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mccore.cli import main
from mccore.resolve.notes import plain_switches

SWITCHES = {"--mc", "--mc-auto-batch"}


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        (["--mc", "1"], ["--mc"]),
        (["--mc=0", "tiny"], ["--no-mc", "tiny"]),
        (["--mc_auto_batch", "0", "--seed", "1"], ["--no-mc-auto-batch", "--seed", "1"]),
        (["--mc_auto_batch=True"], ["--mc-auto-batch"]),
        (["--mc", "tiny"], ["--mc", "tiny"]),
        (["--mc", "--mc-auto-batch"], ["--mc", "--mc-auto-batch"]),
        (["--mc=maybe"], ["--mc=maybe"]),
        (["--no-mc", "1"], ["--no-mc", "1"]),
        (["--seed=1", "0"], ["--seed=1", "0"]),
        (["--", "--mc", "1"], ["--", "--mc", "1"]),
        (["--mc"], ["--mc"]),
    ],
)
def test_a_switch_may_have_a_value(typed: list[str], plain: list[str]) -> None:
    assert plain_switches(typed, SWITCHES) == plain


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base directory of the test's own, and a working directory without settings."""
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.chdir(tmp_path)


def _plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["run", *arguments, "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["config"]


@pytest.mark.parametrize("share", ["0.2", "20%", "410"])
def test_a_length_is_entries_or_a_share(capsys: pytest.CaptureFixture[str], share: str) -> None:
    config = _plan(capsys, "run10", "--gpu", "h100", "--mc", "--mc_train_wc_length", share)
    assert config["megacontext"]["train_wc_length"] == 410  # of 2,048
    assert _plan(capsys, "run10", "--mc", "--set", f"megacontext.train_wc_length={share}")["megacontext"] == {
        **config["megacontext"]
    }


def test_a_line_of_the_notes(capsys: pytest.CaptureFixture[str]) -> None:
    config = _plan(
        capsys, "run10", "--gpu", "5090", "--block_size", "32", "--mc_enabled=1", "--mc_auto_batch", "0", "--allocator_type",
        "stochastic_greedy", "--allocator_sample_top_k=4", "--device_batch_size", "20",
    )  # fmt: skip
    assert config["megacontext"]["enabled"] is True
    assert config["megacontext"]["auto_batch"] is False
    assert config["megacontext"]["block_size"] == 32
    # 524,288 tokens are 256 sequences, 131,072 are 64: of at most 20 a pass, 16 divide them.
    assert [config[stage]["micro_batch_rows"] for stage in ("base", "mid", "sft")] == [16, 16, 16]
    assert config["base"]["batch_tokens"] == 524_288


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mc", "--mc_train_wc_length", "0.0"], "0.0 is no share of a sequence"),
        (["--mc", "--mc_train_wc_length", "150%"], "150% is no share of a sequence"),
        (["--mc", "--mc_train_wc_length", "x%"], "x% is no share of a sequence"),
        (["--mc", "--mc_train_wc_length", "long"], "megacontext.train_wc_length"),
        (["--mc_train_wc_length", "20%"], "`--mc_train_wc_length` has no effect without --mc"),
        (["--mc=maybe"], "does not take a value"),
        (["--device_batch_size", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["run", "tiny", *arguments, "--dry-run"]) != 0
    assert message in capsys.readouterr().err
