"""Runs laid over each other: the plot, its axes, and the table of what was spent."""

from __future__ import annotations

from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from mccore.events import Event
from mccore.runs.live.comparison import Curve
from mccore.runs.rundir import RunDir
from mccore.tui.app import make_monitor
from mccore.tui.drawing.glyphs import ASCII, UNICODE
from mccore.tui.drawing.overlay import MARKS, OverlayView, overlay, value_under
from mccore.tui.pages.compare import CompareScreen
from tests.tui.conftest import write_run
from tests.tui.pilot import drive, until

RISING = Curve([10.0, 20.0, 30.0, 40.0], [0.0, 1.0, 2.0, 3.0])
FALLING = Curve([20.0, 40.0, 60.0, 80.0], [3.0, 2.0, 1.0, 0.0])


def text(rows: list[list[object]]) -> list[str]:
    return ["".join(cell.char for cell in row) for row in rows]  # type: ignore[attr-defined]


def test_curves_share_their_axes() -> None:
    rows = text(overlay([RISING, FALLING], OverlayView(budget="step"), 18, 6, ASCII))  # type: ignore[arg-type]
    plots = [row[10:] for row in rows[:4]]
    assert plots[0].index("*") == 4  # at its end, half of the other's way
    assert "*" not in plots[0][5:]
    assert plots[3].rstrip().endswith("o")
    assert rows[-1].rstrip().endswith("80")


def test_a_curve_without_a_place_on_the_axis_keeps_its_mark_free() -> None:
    rows = text(overlay([None, RISING, None], OverlayView(), 30, 8, ASCII))  # type: ignore[arg-type]
    drawn = "".join(rows[:6])
    assert MARKS[1] in drawn
    assert not {MARKS[0], MARKS[2]} & set(drawn)


def test_an_overlay_fits_its_room() -> None:
    for glyphs in (ASCII, UNICODE):
        for width in (1, 9, 10, 11, 30, 200):
            for height in (1, 2, 3, 20):
                rows = overlay([RISING, None, FALLING], OverlayView(log=True, cursor=0.3), width, height, glyphs)
                assert len(rows) <= height
                assert all(len(row) <= width for row in rows)


def test_the_cursor_reads_no_value_where_a_run_has_not_been() -> None:
    assert value_under(RISING, 0.25, 80.0) == 1.0
    assert value_under(RISING, 0.75, 80.0) is None


def spend(run: RunDir, *, variants: int, flops: float) -> None:
    """Let a run tell what it spends."""
    start = Event("stage.start", 1_700_000_000.5, 0, "base", data={"world_size": 1, "plan": {"rows": 4}})
    events = [start]
    for step in range(1, 201):
        metrics = {"loss": 4 / step, "flops_total": step * flops, "step_duration": 0.5}
        metrics |= {"token_loss": 4 / step, "loss": 7.0, "variants_total": float(variants * step)} if variants else {}
        events.append(Event("step", 1_700_000_001.0 + step, 0, "base", step, step * 512, metrics, {"steps": 200}))
    path = run.events_dir / "rank0.jsonl"
    path.write_text("".join(event.to_json() + "\n" for event in events))


def test_runs_are_compared_on_every_budget(root: Path) -> None:
    spend(write_run(root, "plain", 1), variants=0, flops=1e9)
    spend(write_run(root, "mc", 1), variants=8, flops=3e9)
    app = make_monitor(root)

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(DataTable).row_count == 2, "the list")
        await pilot.press("c")
        screen = app.screen
        assert isinstance(screen, CompareScreen)
        table = screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count > 10, "the table")
        rows = {str(table.get_row_at(row)[0]): [str(cell) for cell in table.get_row_at(row)[1:]] for row in range(10)}
        place = [str(column.label)[2:] for column in table.columns.values()][1:].index("mc")
        wanted = {
            "MC effective steps to loss 0.02": ("600", "200"),
            "FLOPs to loss 0.02": ("600G", "200G"),
            "training time to loss 0.02": ("1m 40s", "1m 40s"),
            "tokens to loss 0.02": ("102k", "102k"),
            "steps so far": ("200", "200"),
        }
        assert {name: (rows[name][place], rows[name][1 - place]) for name in wanted} == wanted
        words = screen.query_one("#compared", Static)
        for over in ("FLOPs", "training time", "MC effective steps", "steps", "tokens"):
            await pilot.press("x")
            assert str(words.render()).startswith("base/loss [nat]")
            assert f"over {over}" in str(words.render())
        for key in ("l", "m", "comma", "full_stop"):
            await pilot.press(key)
        assert (screen.view.log, screen.view.smooth) == (True, True)
        assert abs((screen.view.cursor or 0) - 0.52) < 1e-9
        await pilot.press("p")
        assert not str(words.render()).startswith("base/loss")
        await pilot.press("escape")
        assert not isinstance(app.screen, CompareScreen)

    drive(app, steps)


def test_what_a_run_does_not_tell_is_said(root: Path) -> None:
    write_run(root, "old", 20)
    app = make_monitor(root)

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(DataTable).row_count == 1, "the list")
        await pilot.press("c", "x")
        words = app.screen.query_one("#compared", Static)
        await until(pilot, lambda: "not told by old" in str(words.render()), "the words")

    drive(app, steps)
