"""Panels that are wrong in one way each, and a healthy one: see test_suites.py."""

from __future__ import annotations

from typing import Any, ClassVar

from mccore.api import Extension, Options, PanelSpec, Span
from mccore.testing import PanelSuite


class CountPanel:
    """A healthy panel: how many alerts there are, and a curve."""

    title = "alerts"
    place = "plot"
    reads: Any = ("loss",)

    def __init__(self, options: Options, spec: PanelSpec) -> None:
        self.lines = 3

    def draw(self, view: Any, width: int, height: int) -> Any:
        head = [Span(f"{len(view.events('alert'))} alerts", "strong")]
        return [head, *view.plot("loss", width, max(1, height - 1))][:height]


class ZooPanel(PanelSuite):
    product: ClassVar[type]

    def extension(self) -> Extension[Any]:
        return Extension(build=self.product, summary="a panel of the zoo")


class TestHealthyPanel(ZooPanel):
    product = CountPanel


class TestSomewhereElse(ZooPanel):
    """Wants a place that there isn't."""

    caught_by = "test_is_a_panel"

    class product(CountPanel):
        place = "everywhere"


class TestNeedsAValue(ZooPanel):
    """Has nothing to say of a run without a step."""

    caught_by = "test_draws_spans_in_any_room_and_state"

    class product(CountPanel):
        def draw(self, view: Any, width: int, height: int) -> Any:
            return [[Span(f"{view.value('loss'):.3f}")]]


class TestPlainText(ZooPanel):
    """Returns lines of text, whose characters aren't spans."""

    caught_by = "test_draws_spans_in_any_room_and_state"

    class product(CountPanel):
        def draw(self, view: Any, width: int, height: int) -> Any:
            return ["3 alerts"]


class TestTooMany(ZooPanel):
    """Draws what it likes, whatever room there is."""

    caught_by = "test_fits_the_room_it_is_given"

    class product(CountPanel):
        def draw(self, view: Any, width: int, height: int) -> Any:
            return [[Span("line")]] * 100


class TestFancy(ZooPanel):
    """Draws boxes that a terminal may not have."""

    caught_by = "test_draws_plain_characters_where_nothing_else_can_be_shown"

    class product(CountPanel):
        def draw(self, view: Any, width: int, height: int) -> Any:
            return [[Span("█" * width)]]


class TestTidiesUp(ZooPanel):
    """Takes the alerts that it has shown out of the state that all draw from."""

    caught_by = "test_changes_nothing_of_what_it_is_shown"

    class product(CountPanel):
        def draw(self, view: Any, width: int, height: int) -> Any:
            view.state.alerts.clear()
            return []
