"""Every setting with its value, searchable, and the editor of the one under the cursor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import DataTable, Input, Label, Select, Static

from mccore.config.inputs import SettingInput
from mccore.host.terminal import one_line, visible
from mccore.tui.form import group_of

COLUMNS = (("setting", 34), ("value", 16), ("without it", 16), ("meaning", None))


class Settings(Vertical):
    """A table of settings and an editor. It tells each change; the values themselves are the form's."""

    DEFAULT_CSS = """
    Settings { height: 1fr; min-height: 12; }
    Settings #find { height: 1; }
    Settings #find Label { width: 20; }
    Settings #search { width: 1fr; }
    Settings #group { width: 30; }
    Settings #settings { height: 1fr; min-height: 4; }
    Settings #meaning { height: auto; max-height: 3; color: $text-muted; }
    Settings #editor { height: auto; max-height: 6; padding: 0 0 0 1; border-top: solid $primary; }
    Settings #setting-problem { color: $text-error; height: auto; max-height: 2; }
    """

    class Changed(Message):
        """A setting was given a value, or none for the recipe's own."""

        def __init__(self, path: str, value: str | None) -> None:
            super().__init__()
            self.path = path
            self.value = value

    def __init__(self) -> None:
        super().__init__()
        self._inputs: dict[str, SettingInput] = {}
        self._values: Mapping[str, str] = {}
        self._own: Mapping[str, str] = {}
        self._blamed: frozenset[str] = frozenset()
        self._refusal = ""
        self._chosen: SettingInput | None = None
        self._choices: tuple[str, ...] = ()  # that the editor offers
        self._seen: str | None = None  # the value that it was given
        self._told: str | None = None  # the value that it has told last

    def compose(self) -> ComposeResult:
        with Horizontal(id="find"):
            yield Label("search the settings")
            yield Input(placeholder="a part of a name or a meaning", id="search", compact=True)
            yield Select([], prompt="all groups", id="group", compact=True)
        yield DataTable(id="settings", cursor_type="row")
        with Vertical(id="editor"):
            yield Static("", id="meaning")
            yield Input(id="value", compact=True)
            yield Select([], id="choice", prompt="as without it", compact=True)
            yield Static("", id="setting-problem")

    def on_mount(self) -> None:
        table = self.query_one("#settings", DataTable)
        for name, width in COLUMNS:
            table.add_column(name, width=width, key=name)
        self.query_one("#choice").display = False

    def show(self, inputs: Iterable[SettingInput], values: Mapping[str, str], own: Mapping[str, str]) -> None:
        """Show these settings with the values that were given; `own` is what holds where none was."""
        self._inputs = {each.path: each for each in inputs}
        self._values, self._own = values, own
        group, groups = self.query_one("#group", Select), list(dict.fromkeys(map(group_of, self._inputs)))
        with self.prevent(Select.Changed):
            before = group.value
            group.set_options([(each, each) for each in groups])
            group.value = before if before in groups else Select.NULL
        self._fill()

    def blame(self, paths: Iterable[str], words: str) -> None:
        """Say beside these settings why the command refuses them."""
        self._blamed, self._refusal = frozenset(paths), words
        table = self.query_one("#settings", DataTable)
        for path in {str(key.value) for key in table.rows} & self._values.keys():
            table.update_cell(path, "value", self._value(path))
        self._show_problem()

    def _value(self, path: str) -> Text:
        return Text(one_line(self._values.get(path, "")), style="bold red" if path in self._blamed else "bold")

    def _without(self, each: SettingInput) -> str:
        return self._own.get(each.path, each.default)

    @on(Input.Changed, "#search")
    @on(Select.Changed, "#group")
    def _fill(self) -> None:
        wanted = self.query_one("#search", Input).value.lower()
        group = self.query_one("#group", Select).value
        table = self.query_one("#settings", DataTable)
        at = self._chosen.path if self._chosen is not None else ""
        with self.prevent(DataTable.RowHighlighted):  # rows that come and go under the cursor are nobody's choice
            table.clear()
            for path, each in self._inputs.items():
                if group not in (Select.NULL, group_of(path)):
                    continue
                if wanted in path.lower() or wanted in each.description.lower():
                    without, meaning = one_line(self._without(each)), one_line(each.description)
                    table.add_row(Text(path), self._value(path), Text(without), Text(meaning), key=path)
            if at in {str(key.value) for key in table.rows}:
                table.move_cursor(row=table.get_row_index(at))
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key if table.row_count else None
        chosen = self._inputs.get(str(key.value)) if key is not None else None
        same = chosen is not None and chosen.path == at and chosen.choices == self._choices
        if same and self._values.get(at) in (self._seen, self._told):
            self._chosen = chosen  # what is being typed stays
            self._explain()
        else:
            self._choose(chosen)

    @on(DataTable.RowHighlighted, "#settings")
    def _row_chosen(self, event: DataTable.RowHighlighted) -> None:
        self._choose(self._inputs.get(str(event.row_key.value)) if event.row_key is not None else None)

    @on(DataTable.RowSelected, "#settings")
    def _edit(self) -> None:
        if self._chosen is not None:
            self.query_one("#choice" if self._chosen.choices else "#value").focus()

    def _choose(self, each: SettingInput | None) -> None:
        """Let the editor edit this one."""
        self._chosen = each
        value, choice = self.query_one("#value", Input), self.query_one("#choice", Select)
        choice.display = each is not None and bool(each.choices)
        value.display = each is not None and not each.choices
        self._choices = each.choices if each is not None else ()
        if each is not None:
            now = self._seen = self._told = self._values.get(each.path)
            with self.prevent(Input.Changed, Select.Changed):
                if each.choices:
                    choice.set_options([(text or "(empty)", text) for text in each.choices])
                    choice.value = now if now in each.choices else Select.NULL
                else:
                    value.value = now or ""
        self._explain()
        self._show_problem()

    def _explain(self) -> None:
        """Say what the chosen setting means."""
        each, words = self._chosen, "no setting is called so"
        if each is not None:
            about = "; ".join(filter(None, (each.bounds, f"without it {self._without(each) or 'derived or none'}")))
            words = f"{each.path}: {each.description} ({about})"
            shown = self._without(each) or {"number": "a number"}.get(each.widget, "")
            self.query_one("#value", Input).placeholder = shown
        self.query_one("#meaning", Static).update(Text(one_line(words)))

    def _show_problem(self) -> None:
        guilty = self._chosen is not None and self._chosen.path in self._blamed
        problem = self.query_one("#setting-problem", Static)
        problem.update(Text(visible(self._refusal) if guilty else ""))
        problem.display = guilty

    @on(Input.Changed, "#value")
    def _typed(self, event: Input.Changed) -> None:
        self._tell(event.value if event.value != "" else None)

    @on(Select.Changed, "#choice")
    def _picked(self, event: Select.Changed) -> None:
        self._tell(None if event.value is Select.NULL else str(event.value))

    def _tell(self, value: str | None) -> None:
        self._told = value
        if self._chosen is not None and self._values.get(self._chosen.path) != value:
            self.post_message(self.Changed(self._chosen.path, value))

    def refresh_value(self, path: str) -> None:
        """Show the value of one setting again."""
        table = self.query_one("#settings", DataTable)
        if path in {str(key.value) for key in table.rows}:
            table.update_cell(path, "value", self._value(path))
