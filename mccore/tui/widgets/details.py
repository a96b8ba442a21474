"""What lies below the plots: the logs, alerts, samples, all metrics, and where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import DataTable, RichLog, Static, TabbedContent, TabPane

from mccore.events import METRICS
from mccore.host.terminal import one_line, visible
from mccore.runs.live.state import Last, RunState
from mccore.tui.drawing.colours import SERIES
from mccore.tui.drawing.glyphs import Glyphs
from mccore.tui.widgets.table import Table
from mccore.units import number, size

BAR_WIDTH = 60
# What a rank uses of its machine: the title of the column, the field or metric, how it is spelt.
RESOURCES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("rank", "rank", str),
    ("host", "host", str),
    ("pid", "pid", str),
    ("CPU cores", "process_cpu", "{:.2f}".format),
    ("memory", "process_memory", size),
    ("GPU", "gpu", str),
    ("busy", "gpu_utilisation", "{:.0%}".format),
    ("GPU memory", "gpu_memory", size),
    ("of", "gpu_memory_total", size),
    ("power", "gpu_power", "{:.0f} W".format),
    ("heat", "gpu_temperature", "{:.0f} °C".format),
)


class Details(Vertical):
    """Tabs over one state."""

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._glyphs = glyphs
        self._samples_until = 0.0  # time of the newest sample that is shown
        self._state = RunState()
        self._failure = ""
        self._logged = False
        self.ready = False  # its tabs are there, so that something can be shown

    def compose(self) -> ComposeResult:
        with TabbedContent():
            with TabPane("Log", id="tab-log"):
                yield RichLog(id="log", max_lines=2000, wrap=False)
            with TabPane("Alerts", id="tab-alerts"):
                yield Table(id="alerts", cursor_type="row")
            with TabPane("Samples", id="tab-samples"):
                yield RichLog(id="samples", max_lines=500, wrap=True)
            with TabPane("Metrics", id="tab-metrics"):
                yield Table(id="metrics", cursor_type="row")
            with TabPane("Machine", id="tab-machine"):
                yield Table(id="machine", cursor_type="row")
            with TabPane("Failure", id="tab-failure"):
                yield VerticalScroll(Static("", id="failure"))
            with TabPane("Timings", id="tab-timings"):
                yield Static("", id="timings")

    def on_mount(self) -> None:
        self.query_one("#alerts", DataTable).add_columns("at", "metric", "value", "band", "stage", "look at")
        self.query_one("#metrics", DataTable).add_columns("metric", "value", "unit", "stage", "step", "band")

        self.query_one("#machine", DataTable).add_columns(*(title for title, _, _ in RESOURCES))
        self.query_one(TabbedContent).hide_tab("tab-failure")
        self.ready = True

    @property
    def has_log(self) -> bool:
        """Whether the tab of the logs is there: tabs come later than the widget itself."""
        return bool(self.query("#log"))

    def add_log(self, lines: Sequence[str]) -> None:
        """Append lines of the logs."""
        log = self.query_one("#log", RichLog)
        if lines and not self._logged:
            self._logged = True
            log.clear()
        elif not self._logged and not log.lines:
            log.write(Text("no log yet", style="bright_black"))
        for line in lines:
            log.write(Text(visible(line)))

    def show(self, state: RunState) -> None:
        """Show a state in the tab that is open; the others follow when they are."""
        self._state = state
        self._show_failure(state)
        match self.query_one(TabbedContent).active:
            case "tab-alerts":
                self._show_alerts(state)
            case "tab-samples":
                self._show_samples(state)
            case "tab-metrics":
                self._show_metrics(state)
            case "tab-machine":
                self._show_machine(state)
            case "tab-timings":
                self.query_one("#timings", Static).update(self._timings(state.timings))

    def on_tabbed_content_tab_activated(self) -> None:
        self.show(self._state)

    def _show_machine(self, state: RunState) -> None:
        table = self.query_one("#machine", DataTable)
        table.clear()
        for rank, event in sorted(state.resources.items()):
            known: dict[str, object] = {"rank": rank, **event.data, **event.metrics}
            table.add_row(
                *(Text(one_line(spell(known[name]) if name in known else "")) for _, name, spell in RESOURCES)
            )
        _say_nothing(table, "no rank has told yet")

    def _show_failure(self, state: RunState) -> None:
        """A tab of its own once a stage has failed: what was raised, and what to do."""
        tabs, failed = self.query_one(TabbedContent), state.failure()
        if failed is None:
            self._failure = ""
            tabs.hide_tab("tab-failure")
            return
        words = "\n".join(filter(None, (failed.traceback.rstrip(), failed.message, failed.hint)))
        if words != self._failure:
            self._failure = words
            todo = "Read the end of the log (tab Log, key 2 for all of it). When the cause is gone, r goes on with the run."
            self.query_one("#failure", Static).update(
                Text.assemble(
                    (f"{one_line(failed.name)} failed on rank {failed.rank}\n\n", "bold red"),
                    visible(failed.traceback.rstrip()[-8000:]),
                    (f"\n\n{one_line(failed.message)}\n", "bold"),
                    f"{one_line(failed.hint)}\n" if failed.hint else "",
                    todo,
                )
            )
            tabs.show_tab("tab-failure")

    def _show_metrics(self, state: RunState) -> None:
        table = self.query_one("#metrics", DataTable)
        table.clear()
        for name, last in state.metrics.items():
            table.add_row(*_metric_row(name, last))
        _say_nothing(table, "nothing measured yet")

    def _show_alerts(self, state: RunState) -> None:
        table = self.query_one("#alerts", DataTable)
        table.clear()
        for event in reversed(state.alerts):
            told = (str(event.data.get(name, "")) for name in ("metric", "value", "band"))
            table.add_row(
                time.strftime("%H:%M:%S", time.localtime(event.time)),
                *(Text(one_line(text)) for text in told),
                Text(one_line(event.stage or "")),
                Text(one_line(str(event.data.get("advice", "")))),
            )
        _say_nothing(table, "no alert")

    def _show_samples(self, state: RunState) -> None:
        samples = self.query_one("#samples", RichLog)
        if not state.samples and not samples.lines:
            samples.write(Text("no sample yet", style="bright_black"))
        for event in state.samples:
            if event.time > self._samples_until:
                if not self._samples_until:
                    samples.clear()
                prompt, text = str(event.data.get("prompt")), str(event.data.get("text"))
                samples.write(Text.assemble((one_line(prompt), "bold"), visible(text)))
                self._samples_until = event.time

    def _timings(self, timings: dict[str, float]) -> Text:
        parts = {name: value for name, value in timings.items() if name != "total_ms"}
        total = sum(parts.values())
        if not total:
            return Text("no timings yet (steps with MegaContext are timed now and then)")
        bar, key = Text(), Text()
        for place, (name, value) in enumerate(parts.items()):
            colour = SERIES[place % len(SERIES)]
            bar.append(self._glyphs.bar * round(BAR_WIDTH * value / total), style=colour)
            key.append(f"{self._glyphs.bar} {one_line(name.removesuffix('_ms'))} {value:.1f} ms\n", style=colour)
        return Text.assemble(bar, "\n\n", key)


def _say_nothing(table: DataTable[Any], words: str) -> None:
    """Say in an empty table that there is nothing."""
    if not table.row_count:
        table.add_row(Text(words, style="bright_black"), *[""] * (len(table.columns) - 1))


def _metric_row(name: str, last: Last) -> list[str | Text]:
    known = METRICS.get(name)
    band = "" if known is None or known.band is None else f"{known.band[0]:g} to {known.band[1]:g}"
    return [
        Text(one_line(name)),
        Text(number(last.value), style="red" if last.in_band(name) is False else ""),
        known.unit if known else "",
        Text(one_line(last.stage)),
        str(last.step if last.step is not None else ""),
        band,
    ]
