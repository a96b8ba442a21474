"""An exchange when things go wrong behind it: a full disk, a worker that dies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mccore.errors import MccoreError, RunError
from mccore.serve.exchanges import Exchange
from mccore.serve.frames import decode_frame, encode_frame
from mccore.serve.ledger.dialogues import Dialogues, Utterance
from mccore.serve.ledger.journal import append_records, read_records
from mccore.serve.link import Overloaded, Reported, WorkerGone, WorkerLink
from mccore.serve.orders import Hello

READ = {"kind": "read", "before": 0, "stops": [9], "tokens": 9}
SAID = {"kind": "said", "ids": [70, 71], "pieces": [["text", "FG"]]}
DONE = {"kind": "done", "tokens": 12, "finish": "stop"}


class Link(WorkerLink):
    """A link without a worker: its reports are given."""

    def __init__(self, *frames: dict[str, Any] | None) -> None:
        super().__init__(Hello(checkpoint=""))
        self.state, self.info, self.frames = "ready", {"megacontext": True, "end": 260}, frames
        self.sent: list[dict[str, Any]] = []

    async def send(self, order: dict[str, Any]) -> None:
        self.sent.append(decode_frame(encode_frame(order).rstrip()))

    async def begin(self, order: dict[str, Any]) -> Reported:
        job = await super().begin(order)
        for frame in self.frames:
            job.put(frame)
        return job


def exchange(folder: Path, link: Link) -> tuple[Exchange, Dialogues]:
    dialogues = Dialogues(folder)
    dialogue = dialogues.new("me")
    begin = {"type": "conversation", "v": 1, "owner": "me", "title": "", "kept": True, "time": 1.0}
    append_records(dialogue.root, [begin])
    order = {"order": "turn", "generate": {"plain": False}}
    return Exchange(link, order, dialogue, dialogues, [(Utterance("user", "hello"), {})]), dialogues


async def whole(made: Exchange) -> None:
    await made.begin()
    await made.whole()


def test_what_is_told_is_in_the_journal(tmp_path: Path) -> None:
    made, dialogues = exchange(tmp_path, Link(READ, SAID, DONE))
    asyncio.run(whole(made))
    assert made.dialogue is not None
    again = Dialogues(tmp_path)
    again.load()
    assert again.by_id[made.dialogue.id].marks == made.dialogue.marks
    assert [each.get("text") for each in read_records(made.dialogue.root)][1:] == ["hello", "FG"]
    assert (
        dialogues.longest("me", [Utterance("user", "hello"), Utterance("assistant", "FG"), Utterance("user", "x")])[2]
        == 2
    )
    assert made.dialogue.running is None


def test_a_message_that_can_not_be_noted_is_refused_and_its_answer_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(READ, SAID)
    made, _ = exchange(tmp_path, link)

    def full(*_: object) -> None:
        raise RunError("can't write: no space left", hint="free some space")

    monkeypatch.setattr("mccore.serve.exchanges.append_records", full)
    with pytest.raises(RunError, match="no space"):
        asyncio.run(whole(made))
    assert link.sent[-1] == {"order": "cancel", "job": 1}
    assert made.dialogue is not None
    assert (made.dialogue.running, made.dialogue.marks) == (None, [])


def test_tokens_that_a_dead_worker_told_are_kept_for_the_next(tmp_path: Path) -> None:
    made, dialogues = exchange(tmp_path, Link(READ, SAID, None))
    with pytest.raises(WorkerGone):
        asyncio.run(whole(made))
    assert made.dialogue is not None
    place = made.dialogue.place(dialogues)
    assert (place["tokens"], place["tail"]) == (12, {"start": 9, "ids": [70, 71, 260]})


def test_more_than_is_taken_at_once_is_told_when_to_come_again(tmp_path: Path) -> None:
    async def go() -> None:
        link = Link()
        link.most_jobs = 2
        for _ in range(2):
            await link.begin({"order": "look"})
        with pytest.raises(Overloaded) as refused:
            await link.begin({"order": "look"})
        assert refused.value.retry_after >= 1
        link.state = "restarting"
        with pytest.raises(WorkerGone):
            await link.begin({"order": "look"})

    asyncio.run(go())


@pytest.mark.parametrize("line", [b"", b"[]", b"{", b"\xff", b'{"a":' * 100, b"null"])
def test_what_is_no_frame_is_none(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (BadJson is one, and says why)
        decode_frame(line)


def test_a_frame_is_one_line_whatever_is_said() -> None:
    text = "a\nb\u2028c\ud800\x00\x85"
    assert encode_frame({"text": text}).count(b"\n") == 1
    assert decode_frame(encode_frame({"text": text}))["text"] == text
    with pytest.raises(ValueError, match=r"not JSON compliant|Out of range"):
        encode_frame({"number": float("nan")})
    assert issubclass(WorkerGone, MccoreError)
