"""docs/ARCHITECTURE.md is drawn from the packages' own first sentences and the arrow table."""

from __future__ import annotations

from tests.house.architecture import FLOORS, PAGE, first_sentence, with_table
from tests.house.sources import modules, room_of


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page), "write it again: python -m tests.house.architecture"


def test_every_room_has_its_floor_and_says_what_it_is() -> None:
    rooms = {room_of(name) for name in modules()} - {"__init__", "__main__"}
    assert {room for floor in FLOORS.values() for room in floor} == rooms
    assert [room for room in rooms if len(first_sentence(room)) < 15] == []
