"""Names that another file has: which are asked, and behind what."""

from __future__ import annotations

from mccore.eval.context.probes.identifiers import NameTask, files_of, identifier_probes, is_compound
from tests.eval.context.probes.test_kinds import decode, encode

FAR = "def read_blocks(path):\n    return open_tree(path)\n"
NEAR = "x = 1\n" * 60
CALLER = "import far\n\nblocks = far.read_blocks(1)\n"


def task(size: int = 300, window: int = 100) -> NameTask:
    return NameTask(encode, lambda ids: bytes(ids).decode(), size, window)


def asked(documents: list[str], count: int = 9, **sizes: int) -> list[tuple[str, str]]:
    """The history and the answer of every probe."""
    found = identifier_probes(documents, task(**sizes), count)
    return [(decode(each.ids[: each.history]), decode(each.ids[each.history :])) for each in found]


def test_a_document_of_several_files_is_taken_apart() -> None:
    text = f"# source/far.py\n\n{FAR}\n# test/test_far.py\n\n{CALLER}"
    assert [file.split("\n")[0] for file in files_of(text)] == ["# source/far.py", "# test/test_far.py"]
    assert "".join(files_of(text)) == text
    assert files_of("# no heading\nx = 1\n") == ["# no heading\nx = 1\n"]


def test_a_name_of_another_file_is_asked_where_it_comes_first() -> None:
    ((history, answer),) = asked([NEAR, FAR, NEAR, CALLER], size=480)
    assert answer == ".read_blocks"
    assert history.endswith("blocks = far")
    assert "read_blocks" in history[:-100]
    assert len(history) == 480


def test_names_that_the_window_has_or_nobody_told_are_not_asked() -> None:
    assert asked([NEAR, FAR, NEAR, CALLER], size=480, window=470) == []
    assert asked([NEAR, NEAR, CALLER]) == []


def test_what_told_it_has_to_be_in_the_history_still() -> None:
    assert asked([NEAR, FAR, NEAR, CALLER], size=350) == []


def test_prose_has_no_names() -> None:
    assert asked(["Whoever reads this reads no program at all. " * 30] * 3) == []


def test_only_so_many() -> None:
    documents = [NEAR, FAR, NEAR, CALLER, NEAR, FAR, NEAR, CALLER]
    assert [answer for _, answer in asked(documents, size=480)] == [".read_blocks", " read_blocks", ".read_blocks"]
    assert len(asked(documents, count=1, size=480)) == 1


def test_names_of_several_words() -> None:
    assert [name for name in ("read_blocks", "readBlocks", "_private", "reading", "BLOCKS") if is_compound(name)] == [
        "read_blocks", "readBlocks",
    ]  # fmt: skip
