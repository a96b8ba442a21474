"""Start a run: recipe, plugins, every setting, what it will cost, and the command that does the same.

The plan and the errors are those of `mccore run ... --dry-run --json`, run in the background: what is refused there is refused
here in the same words, beside the setting that it names. What a plugin's options are says `mccore plugins show`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import Button, Header, Input, Label, Select, SelectionList, Static, Switch

from mccore.config import STAGES
from mccore.host.files import write_atomic
from mccore.host.json_file import BadJson, parse_json, read_object
from mccore.host.terminal import one_line, visible
from mccore.plugins import KindName, names
from mccore.runs.rundir import RunDir
from mccore.tui import actions
from mccore.tui.facts import Facts
from mccore.tui.form import Form, settings
from mccore.tui.widgets.choices import Choices
from mccore.tui.widgets.keys import Keys
from mccore.tui.widgets.settings import Settings
from mccore.tui.workers import while_shown

DEBOUNCE_SECONDS = 0.4
PRESETS = "monitor-presets.json"
SHOWN_DIFFERENCES = 12
Chooser = Input | Select[str] | SelectionList[str] | Switch


class LaunchScreen(Screen[None]):
    """The form. `f5` starts the run and watches it."""

    DEFAULT_CSS = """
    LaunchScreen #form { height: 1fr; padding: 0 1; }
    LaunchScreen #choices { height: auto; }
    LaunchScreen .setting { height: auto; }
    LaunchScreen .setting Label { width: 20; }
    LaunchScreen .setting Input, LaunchScreen .setting Select { width: 1fr; }
    LaunchScreen .setting SelectionList { height: auto; max-height: 3; width: 1fr; }
    LaunchScreen Switch { border: none; height: 1; padding: 0; }
    LaunchScreen Switch > .switch--slider { color: $foreground; background: $surface-lighten-2; }
    LaunchScreen Switch.-on > .switch--slider { color: $success; }
    LaunchScreen Switch:focus { border: none; background-tint: $foreground 20%; }
    LaunchScreen .problem { color: $text-error; padding: 0 0 0 20; height: auto; max-height: 2; display: none; }
    LaunchScreen #plan-room { height: auto; max-height: 12; border-top: solid $primary; padding: 0 1; }
    LaunchScreen #buttons { height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back", tooltip="Back to the list of runs"),
        Binding("f5", "start", "Start", tooltip="Start this run and watch it"),
        Binding("f2", "save_preset", "Save preset", tooltip="Keep these choices under the recipe's name"),
        Binding("f3", "load_preset", "Load preset", tooltip="Take the kept choices of this recipe"),
        Binding("f4", "copy", "Copy command", tooltip="Copy the command that starts this run"),
    ]

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self.form = Form()
        self.refusal = ""  # the command's, of what is chosen now
        self._schema = settings()
        self._facts = Facts()
        self._started: actions.Started | None = None

    def compose(self) -> ComposeResult:
        yield Header()
        with VerticalScroll(id="form", can_focus=False):
            with Vertical(id="choices"):
                recipes = Select(_options("recipe"), value="tiny", allow_blank=False, id="recipe", compact=True)
                yield from _row("recipe", recipes)
                yield from _row("machine (--gpu)", Select([], prompt="the recipe's", id="profile", compact=True))
                yield from _row(
                    "name of the run", Input(placeholder="made of recipe and time", id="name", compact=True)
                )
                yield from _row(_megacontext_words(False), Switch(id="megacontext"))
                for kind in ("allocator", "tree"):
                    choice = Select(_options(kind), prompt="the recipe's", id=kind, disabled=True, compact=True)
                    yield from _row(kind, choice)
                providers = [(name, name) for name in names("telemetry")]
                yield from _row("telemetry", Choices(*providers, id="telemetry", compact=True))
                yield from _row("ranks (--nproc)", Input(placeholder="the recipe's", id="ranks", compact=True))
                yield from _row("stages", Input(placeholder="the recipe's", id="stages", compact=True))
            yield Settings()
        with VerticalScroll(id="plan-room"):
            yield Static("", id="plan")
        with Horizontal(id="buttons"):
            yield Button("Start (f5)", id="start", variant="success", compact=True)
        yield Keys()

    def on_mount(self) -> None:
        self.query_one("#stages", Input).tooltip = f"names with commas between: {', '.join(STAGES)}"
        self._changed()
        self.set_interval(0.25, self._follow)

    # --- the form -----------------------------------------------------------------------------------------------------

    @on(Select.Changed, "#recipe,#allocator,#tree,#profile")
    def _plugin_chosen(self, event: Select.Changed) -> None:
        value, what = "" if event.value is Select.NULL else str(event.value), str(event.select.id)
        if value == getattr(self.form, what):
            return
        setattr(self.form, what, value)
        if what in ("allocator", "tree"):
            self.form.forget_options(what)
        if what == "recipe":
            self.form.profile = ""
            self._offer_profiles()
        self._changed()

    @on(Switch.Changed, "#megacontext")
    def _megacontext_chosen(self, event: Switch.Changed) -> None:
        self.form.megacontext = event.value
        self.query_one("#megacontext-row Label", Label).update(_megacontext_words(event.value))
        for name in ("allocator", "tree"):
            self.query_one(f"#{name}", Select).disabled = not event.value
        self._changed()

    @on(Input.Changed, "#name,#ranks,#stages")
    def _typed(self, event: Input.Changed) -> None:
        setattr(self.form, str(event.input.id), event.value.strip())
        self._plan()

    @on(SelectionList.SelectedChanged, "#telemetry")
    def _telemetry_chosen(self, event: SelectionList.SelectedChanged[str]) -> None:
        chosen = tuple(event.selection_list.selected)
        for name in set(self.form.telemetry) - set(chosen):
            self.form.forget_options("telemetry", name)
        self.form.telemetry = chosen
        self._changed()

    @on(Settings.Changed)
    def _set(self, event: Settings.Changed) -> None:
        if event.value is None:
            self.form.sets.pop(event.path, None)
        else:
            self.form.sets[event.path] = event.value
        self.query_one(Settings).refresh_value(event.path)
        self._plan()

    def _changed(self) -> None:
        """Something was chosen on which the settings depend."""
        self._show_settings()
        self._ask_plugins()
        self._plan()

    def _show_settings(self) -> None:
        inputs = [*self._schema, *self._facts.options(self.form)]
        self.query_one(Settings).show(inputs, self.form.sets, self._facts.values(self.form))

    def _offer_profiles(self) -> None:
        profiles = self._facts.profiles(self.form)
        select = self.query_one("#profile", Select)
        with self.prevent(Select.Changed):
            select.set_options([(name, name) for name in profiles])
            select.value = self.form.profile if self.form.profile in profiles else Select.NULL

    @work(exclusive=True, group="plugins")
    @while_shown
    async def _ask_plugins(self) -> None:
        while await self._facts.learn(self.form):
            self._offer_profiles()
            self._show_settings()

    # --- the plan -----------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="plan")
    @while_shown
    async def _plan(self) -> None:
        await asyncio.sleep(DEBOUNCE_SECONDS)
        arguments = self.form.arguments()
        code, said, errors = await actions.answer([*arguments, "--dry-run", "--json"])
        self._show_plan(arguments, "" if code == 0 else errors.strip() or f"it ended with exit code {code}", said)

    def _show_plan(self, arguments: Sequence[str], refusal: str, said: str) -> None:
        self.refusal = refusal
        words = Text.assemble((f"$ {one_line(actions.spelled(arguments))}\n", "bold"))
        words.append(visible(refusal)[:4000], "bold red") if refusal else words.append(_plan_words(said))
        self.query_one("#plan", Static).update(words)
        self.query_one("#start", Button).disabled = bool(refusal)
        self._blame(refusal)

    def _blame(self, refusal: str) -> None:
        """Say beside what a refusal names why it is refused."""
        blamed = self.form.blamed(refusal) if refusal else set()
        self.query_one(Settings).blame(blamed & self.form.sets.keys(), refusal)
        for problem in self.query(".problem").results(Static):
            guilty = str(problem.id).removesuffix("-problem") in blamed
            problem.display = guilty
            problem.update(Text(visible(refusal) if guilty else ""))

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
            self._show_plan(self.form.arguments(), said, "")
            return
        made = (RunDir(path.parent) for path in self._root.glob("*/run.json") if path.parent.name not in self._known)
        pid = self._started.process.pid
        if (run := next((run for run in made if run.holder() == pid), None)) is not None:  # others may start runs too
            self._started = None
            self.app.pop_screen()
            self.app.attach(run)  # type: ignore[attr-defined]

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
        self._show_form()
        self._changed()

    def _show_form(self) -> None:
        """Show in the widgets what the form holds."""
        form = self.form
        with self.prevent(Input.Changed, Select.Changed, Switch.Changed, SelectionList.SelectedChanged):
            self.query_one("#megacontext", Switch).value = form.megacontext
            self.query_one("#megacontext-row Label", Label).update(_megacontext_words(form.megacontext))
            for name in ("allocator", "tree"):
                select = self.query_one(f"#{name}", Select)
                select.disabled = not form.megacontext
                chosen = getattr(form, name)
                select.value = chosen if chosen in names(name) else Select.NULL  # type: ignore[arg-type]
            providers = self.query_one("#telemetry", SelectionList)
            providers.deselect_all()
            for name in set(form.telemetry) & set(names("telemetry")):
                providers.select(name)
            self.query_one("#ranks", Input).value = form.ranks
            self.query_one("#stages", Input).value = form.stages
        self._offer_profiles()

    def _presets(self) -> dict[str, dict[str, object]]:
        try:
            found = read_object(self._root.parent / PRESETS)
        except (OSError, ValueError):
            return {}
        return found


def _row(label: str, widget: Chooser) -> ComposeResult:
    yield Horizontal(Label(label), widget, classes="setting", id=f"{widget.id}-row")
    yield Static("", id=f"{widget.id}-problem", classes="problem")


def _megacontext_words(on: bool) -> str:
    """Also where a switch's colours can't be told."""
    return f"MegaContext: {'on' if on else 'off'}"


def _options(kind: KindName) -> list[tuple[str, str]]:
    return [(name, name) for name in names(kind)]


def _plan_words(said: str) -> Text:
    """What a run will do and cost, and in what it differs from its recipe."""
    try:
        plan = parse_json(said)
        lines, differs = [str(line) for line in plan["words"]], dict(plan["differs"])
    except (BadJson, KeyError, TypeError, ValueError):
        return Text.assemble(("the plan can't be read", "red"))
    words = Text(visible("\n".join(lines)))
    if differs:
        shown = [
            f"{path} {_spell(old)} > {_spell(new)}" for path, (old, new) in list(differs.items())[:SHOWN_DIFFERENCES]
        ]
        more = f", and {len(differs) - SHOWN_DIFFERENCES} more" if len(differs) > SHOWN_DIFFERENCES else ""
        words.append(f"\ndiffers     from the recipe: {visible(', '.join(shown))}{more}", style="yellow")
    return words


def _spell(value: object) -> str:
    return "-" if value is None else json.dumps(value)
