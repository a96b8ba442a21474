"""Start a run: recipe, plugins, every setting, what it will cost, and the command that does the same.

The plan and the errors below the form are those of `mccore run ... --dry-run`, run in the background: what is refused there is
refused here in the same words.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import Button, DataTable, Footer, Header, Input, Label, Select, Static, Switch

from mccore.host.files import write_atomic
from mccore.host.json_file import read_object
from mccore.host.terminal import one_line, visible
from mccore.plugins import KindName, names
from mccore.runs.rundir import RunDir
from mccore.tui import actions
from mccore.tui.form import Form, FormField, settings
from mccore.tui.workers import while_shown

DEBOUNCE_SECONDS = 0.4
PRESETS = "monitor-presets.json"


class LaunchScreen(Screen[None]):
    """The form. `f5` starts the run and watches it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back"),
        Binding("f5", "start", "Start", tooltip="Start this run and watch it"),
        Binding("f2", "save_preset", "Save preset", tooltip="Keep these choices under the recipe's name"),
        Binding("f3", "load_preset", "Load preset", tooltip="Take the kept choices of this recipe"),
        Binding("f4", "copy", "Copy command", tooltip="Copy the command that starts this run"),
    ]

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self.form = Form()
        self._settings = {each.path: each for each in settings()}
        self._chosen: FormField | None = None
        self._started: actions.Started | None = None

    def compose(self) -> ComposeResult:
        yield Header()
        with VerticalScroll(id="form"):
            yield _row("recipe", Select(_options("recipe"), value="tiny", allow_blank=False, id="recipe"))
            yield _row("name of the run", Input(placeholder="made of recipe and time", id="name"))
            yield _row("MegaContext (--mc)", Switch(id="megacontext"))
            yield _row("allocator", Select(_options("allocator"), prompt="the recipe's", id="allocator", disabled=True))
            yield _row("tree", Select(_options("tree"), prompt="the recipe's", id="tree", disabled=True))
            yield _row("telemetry", Input(placeholder="names, with spaces between", id="telemetry"))
            yield _row("ranks (--nproc)", Input(placeholder="the recipe's", type="integer", id="ranks"))
            yield _row("search the settings", Input(placeholder="a part of a name or a description", id="search"))
            yield DataTable(id="settings", cursor_type="row")
            with Vertical(id="editor"):
                yield Static("", id="meaning")
                yield Input(id="value")
                yield Select([], id="choice", prompt="the default")
        yield Static("", id="plan")
        with Horizontal(id="buttons"):
            yield Button("Start (f5)", id="start", variant="success")
        yield Footer()

    def on_mount(self) -> None:
        table = self.query_one("#settings", DataTable)
        for name, width in (("setting", 38), ("value", 16), ("default", 22), ("description", None)):
            table.add_column(name, width=width)
        table.styles.height = 12
        self.query_one("#choice").display = False
        self._fill()
        self._plan()
        self.set_interval(0.25, self._follow)

    # --- the form -----------------------------------------------------------------------------------------------------

    @on(Select.Changed, "#recipe,#allocator,#tree")
    def _plugin_chosen(self, event: Select.Changed) -> None:
        value = "" if event.value is Select.NULL else str(event.value)
        setattr(self.form, str(event.select.id), value)
        self._plan()

    @on(Switch.Changed, "#megacontext")
    def _megacontext_chosen(self, event: Switch.Changed) -> None:
        self.form.megacontext = event.value
        for name in ("allocator", "tree"):
            self.query_one(f"#{name}", Select).disabled = not event.value
        self._plan()

    @on(Input.Changed, "#name,#ranks")
    def _typed(self, event: Input.Changed) -> None:
        setattr(self.form, str(event.input.id), event.value.strip())
        self._plan()

    @on(Input.Changed, "#telemetry")
    def _telemetry_typed(self, event: Input.Changed) -> None:
        self.form.telemetry = tuple(event.value.split())
        self._plan()

    @on(Input.Changed, "#search")
    def _fill(self) -> None:
        wanted = self.query_one("#search", Input).value.lower()
        table = self.query_one("#settings", DataTable)
        table.clear()
        for path, each in self._settings.items():
            if wanted in path.lower() or wanted in each.description.lower():
                value = self.form.sets.get(path, "")
                table.add_row(
                    path, Text(one_line(value), style="bold"), Text(one_line(each.default)), each.description, key=path
                )

    @on(DataTable.RowHighlighted, "#settings")
    def _setting_chosen(self, event: DataTable.RowHighlighted) -> None:
        path = str(event.row_key.value) if event.row_key is not None else ""
        self._chosen = each = self._settings.get(path)
        if each is None:
            return
        self.query_one("#meaning", Static).update(
            Text(f"{path}: {each.description} (default {each.default or 'none'})")
        )
        value, choice = self.query_one("#value", Input), self.query_one("#choice", Select)
        now = self.form.sets.get(path, "")
        choice.display = bool(each.choices)
        value.display = not each.choices
        with self.prevent(Input.Changed, Select.Changed):
            if each.choices:
                choice.set_options([(text or "(empty)", text) for text in each.choices])
                choice.value = now if now in each.choices and path in self.form.sets else Select.NULL
            else:
                value.value = now

    @on(Input.Changed, "#value")
    def _value_typed(self, event: Input.Changed) -> None:
        self._set(event.value if event.value != "" else None)

    @on(Select.Changed, "#choice")
    def _value_chosen(self, event: Select.Changed) -> None:
        self._set(None if event.value is Select.NULL else str(event.value))

    def _set(self, value: str | None) -> None:
        if self._chosen is None:
            return
        path = self._chosen.path
        if value is None:
            self.form.sets.pop(path, None)
        else:
            self.form.sets[path] = value
        table = self.query_one("#settings", DataTable)
        column = list(table.columns)[1]
        if path in {str(key.value) for key in table.rows}:
            table.update_cell(path, column, Text(one_line(value or ""), style="bold"))
        self._plan()

    # --- the plan -----------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="plan")
    @while_shown
    async def _plan(self) -> None:
        await asyncio.sleep(DEBOUNCE_SECONDS)
        arguments = self.form.arguments()
        process = await asyncio.create_subprocess_exec(
            *actions.command(*arguments, "--dry-run"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        text = said.decode("utf-8", "replace").strip()
        words = Text.assemble(
            (f"$ {one_line(actions.spelled(arguments))}\n", "bold"),
            (visible(text)[:4000], "red" if process.returncode else ""),
        )
        self.query_one("#plan", Static).update(words)
        self.query_one("#start", Button).disabled = bool(process.returncode)

    # --- keys ---------------------------------------------------------------------------------------------------------

    @on(Button.Pressed, "#start")
    def action_start(self) -> None:
        if self._started is not None:
            self.notify("it is starting", severity="warning")
            return
        self._known = {path.name for path in self._root.glob("*")} if self._root.is_dir() else set()
        try:
            self._started = actions.start(self.form.arguments())
        except OSError as error:
            self.notify(f"can't start it: {error.strerror}", severity="error")

    def _follow(self) -> None:
        """Once the launcher has made its directory, watch it; when it refused, say why."""
        if self._started is None:
            return
        if (said := self._started.failure()) is not None:
            self._started = None
            self.query_one("#plan", Static).update(Text(visible(said)[:4000], style="red"))
            return
        new = [path for path in self._root.glob("*/run.json") if path.parent.name not in self._known]
        if new:
            self._started = None
            newest = max(new, key=lambda path: path.stat().st_mtime)
            self.app.pop_screen()
            self.app.attach(RunDir(newest.parent))  # type: ignore[attr-defined]

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(actions.spelled(self.form.arguments()))
        self.notify("copied the command")

    def action_save_preset(self) -> None:
        presets = self._presets()
        presets[self.form.recipe] = self.form.to_json()
        try:
            write_atomic(self._root.parent / PRESETS, json.dumps(presets, indent=1) + "\n")
        except Exception as error:  # RunError or OSError: said on the screen either way
            self.notify(one_line(str(error)), severity="error")
        else:
            self.notify(f"kept under {self.form.recipe!r}")

    def action_load_preset(self) -> None:
        kept = self._presets().get(self.form.recipe)
        if kept is None:
            self.notify(f"nothing is kept for {self.form.recipe!r}", severity="warning")
            return
        try:
            self.form = Form.from_json(kept)
        except (ValueError, AttributeError, TypeError) as error:
            self.notify(f"{PRESETS} is damaged: {one_line(str(error))}", severity="error")
            return
        with self.prevent(Input.Changed, Select.Changed, Switch.Changed):
            self.query_one("#megacontext", Switch).value = self.form.megacontext
            for name in ("allocator", "tree"):
                select = self.query_one(f"#{name}", Select)
                select.disabled = not self.form.megacontext
                select.value = getattr(self.form, name) or Select.NULL
            self.query_one("#telemetry", Input).value = " ".join(self.form.telemetry)
            self.query_one("#ranks", Input).value = self.form.ranks
        self._fill()
        self._plan()

    def _presets(self) -> dict[str, dict[str, object]]:
        try:
            found = read_object(self._root.parent / PRESETS)
        except (OSError, ValueError):
            return {}
        return found


def _row(label: str, widget: Input | Select[str] | Switch) -> Horizontal:
    return Horizontal(Label(label), widget, classes="setting")


def _options(kind: KindName) -> list[tuple[str, str]]:
    return [(name, name) for name in names(kind)]
