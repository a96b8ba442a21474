"""The contract of panels of the monitor (`mccore.api.Panel`), with views of runs in every state to draw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mccore.api import Panel, PanelSpec
from mccore.config.stages import TEXT_STAGE
from mccore.events import METRICS, Event
from mccore.runs.live.state import RunState
from mccore.testing.extensions import ExtensionSuite
from mccore.tui.drawing.glyphs import choose_glyphs
from mccore.tui.panels import ROLES, StateView

SIZES = [(1, 1), (8, 3), (40, 6), (79, 12), (200, 50)]

# Every metric, at a value that its band has in it.
_METRICS = {
    name: 1.0 if known.band is None else sum(end for end in known.band if math.isfinite(end)) / 2
    for name, known in METRICS.items()
}
_ESCAPES = "\x1b[2J\x9b31m\u202ereversed"


def example_view(
    steps: int = 40, *, last: Mapping[str, float] | None = None, ascii_only: bool = False, damaged: bool = False
) -> StateView:
    """A run's view: curves of `steps` steps, alerts, samples and Working Contexts. `last`: values of the last step."""
    state = RunState()
    state.take(Event("stage.start", 1.0, 0, TEXT_STAGE, data={"world_size": 1}))
    for step in range(1, steps + 1):
        values = {name: value * (1 + 0.1 * math.sin(step)) for name, value in _METRICS.items()}
        values |= last or {} if step == steps else {}
        state.take(Event("step", 1.0 + step, 0, TEXT_STAGE, step, step * 512, values, {"steps": 2 * steps}))
        if step % 10 == 0:
            state.take(_snapshot(step, damaged=damaged))
    if steps:
        state.take(
            Event("alert", 30.0, 0, TEXT_STAGE, 30, 30, data={"metric": next(iter(METRICS)), "advice": _ESCAPES})
        )
        state.take(Event("sample", 31.0, 0, TEXT_STAGE, 31, data={"prompt": "def", "text": _ESCAPES}))
        state.take(
            Event("checkpoint", 32.0, 0, TEXT_STAGE, 32, data={"path": f"checkpoints/{TEXT_STAGE}", "bytes": 1000})
        )
    return StateView("example", TEXT_STAGE, state, choose_glyphs(ascii_only))


def _snapshot(step: int, *, damaged: bool) -> Event:
    runs = [[2, 2], [1, step // 10], [0, 64]]
    history = sum(entries * 16**level for level, entries in runs)
    data: dict[str, Any] = {
        "history": history,
        "entries": 66 + step // 10,
        "budget": 128,
        "block_size": 16,
        "runs": runs,
    }
    return Event(
        "working_context_snapshot", 1.5 + step, 0, TEXT_STAGE, step, step * 512, data={"runs": 3} if damaged else data
    )


@dataclass(frozen=True)
class _Case:
    name: str
    view: StateView


def _cases() -> Iterator[_Case]:
    yield _Case("a run with everything", example_view())
    yield _Case("a run without a step", example_view(0))
    yield _Case("a run of one step", example_view(1))
    yield _Case("ASCII only", example_view(ascii_only=True))
    yield _Case("values that aren't finite", example_view(last=dict.fromkeys(_METRICS, math.nan)))
    yield _Case("damaged snapshots", example_view(damaged=True))


class PanelSuite(ExtensionSuite):
    """Subclass it and override `extension`."""

    def panel(self) -> Panel:
        """The panel, built with `options`."""
        product = self.extension().build(self.options(), PanelSpec(Path("run")))
        assert isinstance(product, Panel)
        return product

    def test_is_a_panel(self) -> None:
        panel = self.panel()
        assert isinstance(panel.title, str), "the title is text"
        assert panel.title.strip(), "the title is what the list of panels shows"
        assert panel.place in ("plot", "wide", "screen")
        assert isinstance(panel.reads, tuple)
        assert all(isinstance(each, str) for each in panel.reads)

    @pytest.mark.parametrize(("width", "height"), SIZES)
    def test_draws_spans_in_any_room_and_state(self, width: int, height: int) -> None:
        for case in _cases():
            for line in self.panel().draw(case.view, width, height):
                for span in line:
                    assert isinstance(span, tuple), f"{case.name}: a line is a sequence of Span"
                    assert isinstance(span[0], str), f"{case.name}: the text of a span is a str"
                    assert len(span) < 2 or span[1] in ROLES, f"{case.name}: there is no role {span[1]!r}"

    def test_fits_the_room_it_is_given(self) -> None:
        for case in _cases():
            assert len(self.panel().draw(case.view, 79, 12)) <= 12, f"{case.name}: more lines than there is room for"

    def test_draws_plain_characters_where_nothing_else_can_be_shown(self) -> None:
        lines = self.panel().draw(example_view(ascii_only=True), 79, 12)
        text = "".join(span[0] for line in lines for span in line)
        assert text.isascii(), f"not ASCII: {[letter for letter in text if not letter.isascii()][:5]}"

    def test_changes_nothing_of_what_it_is_shown(self) -> None:
        view = example_view()
        before = view.state.to_json()
        self.panel().draw(view, 79, 12)
        assert view.state.to_json() == before
