"""Kind 3: JSON of ours is read by one bounded reader. Cases RF7 to RF10 of the fault list, and other members of the kind."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mccore.config import RunConfig
from mccore.errors import CheckpointError, RunError
from mccore.events import Event, EventTail
from mccore.host.json_file import BadJson, NotOurs, OtherVersion, check_format, parse_json, read_json
from mccore.megacontext.sessions.state import STATE, SessionError, read_state
from mccore.runs.checkpoints import META_FILE, SUMS_FILE, Meta, file_sha256, latest, list_checkpoints, read_meta
from mccore.runs.rundir import RunDir
from mccore.units import count, duration, number, size

DEEP = "[" * 100_000 + "]" * 100_000


# --- the reader -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(DEEP, "nested too deeply", id="RF9-brackets"),
        pytest.param('{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply", id="RF9-objects"),
        pytest.param("[" * 70 + "]" * 70, "nested too deeply", id="RF9-not-deep-enough-for-the-parser"),
        pytest.param("9" * 5000, "thousands of digits", id="digits"),
        pytest.param("{", "isn't valid JSON", id="cut"),
        pytest.param(b"\xff\xfe{\x00", "isn't valid JSON", id="bytes"),
        pytest.param("", "isn't valid JSON", id="empty"),
    ],
)
def test_a_text_that_is_none_of_ours(text: str | bytes, reason: str) -> None:
    with pytest.raises(BadJson, match=reason) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200


def test_depth_is_counted_in_values_not_in_brackets() -> None:
    assert parse_json(json.dumps([[[]] * 1000, "[" * 1000])) == [[[]] * 1000, "[" * 1000]
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_only_regular_files_are_read(tmp_path: Path) -> None:  # RF7, RF8, RF10: FIFOs hung, /dev/zero filled the memory
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "zero", "folder"):
        with pytest.raises(OSError, match=r"regular file|directory"):
            read_json(tmp_path / name)
    with pytest.raises(OSError, match="no file can have that name"):
        read_json(Path("a\0b"))


def test_a_larger_file_than_any_of_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "large").write_text('"' + "x" * 5000 + '"')
    with pytest.raises(BadJson, match="larger than"):
        read_json(tmp_path / "large", max_bytes=4096)


def test_damaged_newer_and_foreign_are_told_apart() -> None:
    assert check_format({"format": "a", "version": 1}, "a", 1)
    with pytest.raises(NotOurs):
        check_format([], "a", 1)
    with pytest.raises(NotOurs):
        check_format({"format": "b", "version": 1}, "a", 1)
    for version in (2, True, "1", None):
        with pytest.raises(OtherVersion):
            check_format({"format": "a", "version": version}, "a", 1)


# --- sessions: RF7 ----------------------------------------------------------------------------------------------------


def good_state() -> dict[str, Any]:
    return {
        "format": "mccore session", "version": 1, "model": "m", "block_size": 4, "levels": 2, "stored": "torch.float32",
        "budget": 64, "kv_policy": "exact", "tokens": 20, "covered": 18, "cut": [[2, 1], [0, 2]], "age": [0, 1, 2],
        "recent": [], "since": 0, "refocuses": 1, "seed": 0, "keys": "keys-0123456789ab.safetensors",
        "keys_sha256": "0" * 64, "base": None, "notes": {},
    }  # fmt: skip


def test_a_good_state_is_read(tmp_path: Path) -> None:
    (tmp_path / STATE).write_text(json.dumps(good_state()))
    assert read_state(tmp_path).tokens == 20


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"keys": "/dev/zero"}, id="RF7-keys-elsewhere"),
        pytest.param({"keys": "../keys-0123456789ab.safetensors"}, id="RF7-keys-above"),
        pytest.param({"keys": "a\0b"}, id="RF7-keys-nul"),
        pytest.param({"keys_sha256": "x"}, id="keys-digest"),
        pytest.param({"base": {"path": "a\0b", "tokens": 1, "digest": "0" * 64}}, id="base-nul"),
        pytest.param({"base": {"path": "", "tokens": 1, "digest": "0" * 64}}, id="base-empty"),
        pytest.param({"cut": [[200, 1]], "age": [0]}, id="RF7-cut-int8"),
        pytest.param({"cut": [[8, 2**55]], "age": [0]}, id="cut-overflow"),
        pytest.param({"cut": [[0, 10**13]]}, id="cut-longer-than-memory"),
        pytest.param({"block_size": 0}, id="RF7-block-size-0"),
        pytest.param({"block_size": 1}, id="block-size-1"),
        pytest.param({"block_size": 10**6}, id="block-size-large"),
        pytest.param({"levels": 10**9}, id="RF7-levels"),
        pytest.param({"budget": 0}, id="budget-0"),
        pytest.param({"budget": 10**30}, id="budget-large"),
        pytest.param({"tokens": -1}, id="tokens-negative"),
        pytest.param({"tokens": 2**62}, id="tokens-large"),
        pytest.param({"covered": 21}, id="covered-beyond"),
        pytest.param({"notes": []}, id="notes-no-object"),
        pytest.param({"extra": 1}, id="unknown-field"),
        pytest.param({"model": "\ud83d"}, id="half-a-surrogate-pair"),
    ],
)
def test_a_state_that_can_not_be_is_damaged(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / STATE).write_text(json.dumps({**good_state(), **change}))
    with pytest.raises(SessionError, match="is damaged") as caught:
        read_state(tmp_path)
    assert len(caught.value.message) < 1500


def test_a_deep_or_odd_state_file(tmp_path: Path) -> None:
    path = tmp_path / STATE
    path.write_text(json.dumps(good_state()).replace('"notes": {}', '"notes": {"a": ' + DEEP + "}"))  # RF7, RF9
    with pytest.raises(SessionError, match="nested too deeply"):
        read_state(tmp_path)
    path.write_text(json.dumps({**good_state(), "version": 2}))
    with pytest.raises(SessionError, match="version 2") as caught:
        read_state(tmp_path)
    assert "version of mccore that wrote it" in str(caught.value.hint)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SessionError, match="isn't a regular file"):
        read_state(tmp_path)


# --- events: RF8 ------------------------------------------------------------------------------------------------------

STEP = '{"v":1,"type":"step","time":1.0,"rank":0,"stage":"base","step":1,"tokens":5,"metrics":{"loss":2.0},"data":{}}'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('"tokens":5', '"tokens":"abc"', id="RF8-tokens"),
        pytest.param('"tokens":5', '"tokens":true', id="tokens-boolean"),
        pytest.param('"tokens":5', '"tokens":-1', id="tokens-negative"),
        pytest.param('"step":1', '"step":1e400', id="step-infinite"),
        pytest.param('"step":1', '"step":' + "9" * 30, id="step-large"),
        pytest.param('"stage":"base"', '"stage":["a"]', id="RF8-stage"),
        pytest.param('"rank":0', '"rank":null', id="rank"),
        pytest.param('"time":1.0', '"time":"now"', id="time-text"),
        pytest.param('"time":1.0', '"time":1e300', id="time-no-calendar-has"),
        pytest.param('"loss":2.0', '"loss":"1e999"', id="RF8-metric-text"),
        pytest.param('"data":{}', '"data":{"steps":"x"}', id="data-of-another-kind"),
        pytest.param('"data":{}', '"data":' + DEEP, id="RF8-deep"),
    ],
)
def test_an_odd_line_is_no_event_and_hides_none(tmp_path: Path, old: str, new: str) -> None:
    line = STEP.replace(old, new)
    assert line != STEP
    with pytest.raises(ValueError, match=r"."):
        Event.from_json(line)
    (tmp_path / "rank0.jsonl").write_text(f"{STEP}\n{line}\n{STEP}\n")
    tail = EventTail(tmp_path)
    assert len(list(tail.drain())) == 2
    assert tail.skipped == 1


def test_a_metric_that_is_no_finite_number_is_nan() -> None:
    for value in ("1e999", "null", "1" + "0" * 400):
        event = Event.from_json(STEP.replace('"loss":2.0', f'"loss":{value}'))
        assert event.metrics["loss"] != event.metrics["loss"]


def test_an_event_file_that_is_a_fifo_hangs_nothing(tmp_path: Path) -> None:  # RF8
    run = RunDir.create(tmp_path, "one", RunConfig())
    run.events_dir.mkdir()
    os.mkfifo(run.events_dir / "rank0.jsonl")
    assert list(EventTail(run.events_dir).drain()) == []
    assert run.last_event("step") is None
    assert run.outcome().state == "created"


@pytest.mark.parametrize("text", [DEEP, "[]", "{", "9" * 5000])
def test_a_result_that_can_not_be_read_is_damaged(tmp_path: Path, text: str) -> None:  # RF8, RF9
    run = RunDir.create(tmp_path, "one", RunConfig())
    run.result_path("base").parent.mkdir()
    run.result_path("base").write_text(text)
    with pytest.raises(RunError, match="is damaged"):
        run.read_result("base")


def test_odd_numbers_are_shown() -> None:  # RF8: OverflowError in units.number
    for value in (float("inf"), float("-inf"), float("nan"), 10**400):
        assert number(value) in ("inf", "-inf", "nan")
        assert {count(value), size(value), duration(value)} <= {"inf", "-inf", "nan"}


# --- checkpoints: RF10 ------------------------------------------------------------------------------------------------


def checkpoint(directory: Path, meta: str | None = None) -> Path:
    """A checkpoint whose sums fit whatever its files say."""
    path = directory / "step_00000001"
    path.mkdir(parents=True)
    good = Meta(stage="base", step=1, tokens=2, config={}, tokenizer="t").to_json()
    (path / META_FILE).write_text(good if meta is None else meta)
    for name in ("index.json", "model.safetensors"):
        (path / name).write_text("{}")
    write_sums(path)
    return path


def write_sums(path: Path) -> None:
    names = sorted(file.name for file in path.iterdir() if file.name != SUMS_FILE)
    (path / SUMS_FILE).write_text("".join(f"{file_sha256(path / name)}  {name}\n" for name in names))


def edited(**changes: Any) -> str:
    good = json.loads(Meta(stage="base", step=1, tokens=2, config={}, tokenizer="t").to_json())
    return json.dumps({**good, **changes})


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        pytest.param(edited(config=[]), "is damaged", id="RF10-config"),
        pytest.param(edited(config="x"), "is damaged", id="RF10-config-text"),
        pytest.param(edited(step="1"), "is damaged", id="step-text"),
        pytest.param(edited(tokens=-5), "is damaged", id="tokens-negative"),
        pytest.param(edited(tokenizer=5), "is damaged", id="tokenizer-number"),
        pytest.param(edited(more=1), "is damaged", id="unknown-field"),
        pytest.param(edited(version=9), "format version 9", id="newer"),
        pytest.param(edited(format="other"), "isn't a file of format", id="foreign"),
        pytest.param(edited(state={"a": 1}).replace('{"a": 1}', DEEP), "nested too deeply", id="RF10-deep"),
        pytest.param("[]", "isn't a file of format|no JSON object", id="list"),
    ],
)
def test_a_meta_that_can_not_be_is_told(tmp_path: Path, meta: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_meta(checkpoint(tmp_path, meta))


def test_special_files_in_a_checkpoint(tmp_path: Path) -> None:  # RF10: /dev/zero and FIFOs
    path = checkpoint(tmp_path)
    (path / META_FILE).unlink()
    os.mkfifo(path / META_FILE)
    with pytest.raises(CheckpointError, match=r"can't read|missing"):
        read_meta(path)
    assert list_checkpoints(tmp_path) == []  # a FIFO is no file of a checkpoint


def test_a_copied_checkpoint_is_passed_over(tmp_path: Path) -> None:  # RF6: ValueError in every command
    path = checkpoint(tmp_path)
    for name in ("step_00000001.bak", "step_00000002.bak", "step_x", "step_٠٠٠٠٠٠٠٣"):
        (tmp_path / name).mkdir()
        for file in path.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    assert latest(tmp_path) == path


def test_what_the_system_refuses_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # RF2
    path = checkpoint(tmp_path)

    def refuse(target: Path) -> int:
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr("mccore.runs.checkpoints.regular_descriptor", refuse)
    with pytest.raises(CheckpointError, match=r"can't read .*Permission denied") as caught:
        read_meta(path)
    assert "delete" not in str(caught.value.hint)


def test_sums_may_name_nothing_outside(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    digest = hashlib.sha256(b"").hexdigest()
    (path / SUMS_FILE).write_text(f"{digest}  ../../etc/passwd\n")
    with pytest.raises(CheckpointError, match="is damaged: SHA256SUMS names"):
        read_meta(path)
