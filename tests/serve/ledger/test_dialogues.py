"""Conversations on disk and in memory: what was acknowledged is there again, and messages find where they belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mccore.errors import RunError
from mccore.serve.ledger.dialogues import Dialogues, Utterance, keys_of, title_of
from mccore.serve.ledger.journal import FILE, append_records, read_records

SAID = [("system", "be brief"), ("user", "one"), ("assistant", " 1 "), ("user", "two"), ("assistant", "2")]


def begin(owner: str = "me") -> dict[str, Any]:
    return {"type": "conversation", "v": 1, "owner": owner, "title": "", "kept": True, "time": 1.0}


def message(role: str, text: str, stop: int, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "text": text, "stop": stop, "time": 2.0, **more}


def write(directory: Path, owner: str = "me") -> None:
    append_records(directory, [begin(owner)])
    for number, (role, text) in enumerate(SAID):
        append_records(directory, [message(role, text, 10 * (number + 1))])


def test_what_is_in_the_journal_is_there_again(tmp_path: Path) -> None:
    write(tmp_path / "abc")
    (tmp_path / "lock").write_text("")
    (tmp_path / "stray").mkdir()
    dialogues = Dialogues(tmp_path)
    assert dialogues.load() == 1
    found = dialogues.by_id["abc"]
    assert (found.title, found.tokens, len(found.marks)) == ("one", 50, 5)
    assert dialogues.get("abc", "me") is found
    assert dialogues.get("abc", "you") is None
    assert (tmp_path / "abc" / FILE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "abc").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("left", [b'{"type":"mess', b"\xff\xfe", b'{"type":"message","role":"user"'])
def test_half_a_record_is_passed_over_and_written_over(tmp_path: Path, left: bytes) -> None:
    write(tmp_path / "abc")
    with open(tmp_path / "abc" / FILE, "ab") as file:
        file.write(left)
    assert len(list(read_records(tmp_path / "abc"))) == 6
    append_records(tmp_path / "abc", [message("user", "three", 60)])
    assert [record.get("text") for record in read_records(tmp_path / "abc")][-2:] == ["2", "three"]


def test_a_journal_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't write"):
        append_records(tmp_path / "file" / "abc", [begin()])


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([*SAID, ("user", "three")], (5, 5)),
        ([*SAID[:2], ("assistant", "1"), ("user", "two"), ("assistant", "2"), ("user", "x")], (5, 5)),  # trimmed
        ([*SAID[:3], ("user", "another")], (3, 3)),
        (SAID[:4], (4, 4)),
        ([*SAID[:1], ("user", "other")], None),  # a system message alone begins nothing
        ([("user", "one")], None),
    ],
)
def test_messages_go_on_with_the_conversation_that_has_most_of_them(
    tmp_path: Path, messages: list[tuple[str, str]], expected: tuple[int, int] | None
) -> None:
    write(tmp_path / "abc")
    dialogues = Dialogues(tmp_path)
    dialogues.load()
    said = [Utterance(*each) for each in messages]
    found, inside, known = dialogues.longest("me", said)
    assert (None if found is None else (inside, known)) == expected
    assert dialogues.longest("you", said)[0] is None


def test_a_file_is_part_of_what_goes_on(tmp_path: Path) -> None:
    append_records(
        tmp_path / "abc",
        [begin(), message("user", "one", 5), message("assistant", "1", 9), message("file", "book.txt", 900)],
    )
    dialogues = Dialogues(tmp_path)
    dialogues.load()
    _, inside, known = dialogues.longest(
        "me", [Utterance("user", "one"), Utterance("assistant", "1"), Utterance("user", "x")]
    )
    assert (inside, known) == (3, 2)


def test_an_answer_that_broke_off_names_the_tokens_that_may_be_missing(tmp_path: Path) -> None:
    append_records(tmp_path / "abc", [begin(), message("user", "one", 5), message("assistant", "1", 8, ids=[7, 8, 9])])
    dialogues = Dialogues(tmp_path)
    dialogues.load()
    found = dialogues.by_id["abc"]
    place = found.place(dialogues)
    assert (place["tokens"], place["tail"]) == (8, {"start": 5, "ids": [7, 8, 9]})
    found.apply({"type": "state", "state": "2", "serial": 2, "tokens": 8})
    assert found.place(dialogues)["tail"] is None
    assert (found.place(dialogues)["state"], found.place(dialogues)["spare"]) == ("2", "3")


def test_ids_can_not_be_guessed_and_conversations_are_forgotten(tmp_path: Path) -> None:
    dialogues = Dialogues(tmp_path)
    made = [dialogues.new("me") for _ in range(3)]
    assert len({each.id for each in made}) == 3
    assert all(len(each.id) >= 24 for each in made)
    made[0].apply(message("user", "one", 3))
    dialogues.index(made[0])
    dialogues.remove(made[0])
    assert dialogues.longest("me", [Utterance("user", "one")])[0] is None


def test_keys_tell_roles_and_orders_apart() -> None:
    lists = [
        [("user", "a"), ("user", "b")],
        [("user", "ab")],
        [("assistant", "a"), ("user", "b")],
        [("user", "b"), ("user", "a")],
    ]
    assert len({keys_of([Utterance(*each) for each in said])[-1] for said in lists}) == 4
    assert title_of(" a \n b ") == "a b"
    assert len(title_of("x" * 500)) == 60
