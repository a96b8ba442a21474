"""Talk to the model of a run; its Working Context is drawn beside what is said."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import Resize
from textual.widgets import Input, Static

from mccore.host.terminal import visible
from mccore.tui.conversation import STAGE, RunTalk
from mccore.tui.drawing.glyphs import Glyphs
from mccore.tui.panels import StateView, load_panel
from mccore.tui.screens.run_screen import RunScreen, ViewLine
from mccore.tui.widgets.keys import Keys
from mccore.tui.widgets.panel import PanelPane
from mccore.tui.workers import while_shown

NARROW = 100  # columns below which the Working Context is below what is said
MAP = "lod_map"  # the panel that draws it
DRAW_SECONDS = 0.1
SHOWN_CHARACTERS = 20_000  # of what was said; older turns are kept, not drawn
STYLES = {"you": "bold", "model": "", "note": "bright_black", "error": "red"}
WORDS = {"you": "you  ", "model": "model  ", "note": "", "error": ""}


class ChatScreen(RunScreen):
    """The conversation itself is a `RunTalk`, which goes on while another screen is looked at."""

    VIEW: ClassVar[str] = "chat"
    DEFAULT_CSS = """
    #chat { height: 1fr; }
    #said { width: 2fr; height: 1fr; padding: 0 1; }
    #context { width: 1fr; height: 1fr; border-left: solid $primary; }
    ChatScreen.-narrow #chat { layout: vertical; }
    ChatScreen.-narrow #said { width: 1fr; height: 2fr; }
    ChatScreen.-narrow #context { width: 1fr; height: 8; border-left: none; border-top: solid $primary; }
    #model { height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape", "leave", "Stop/back", tooltip="Stop the answer; else back to the screen before", priority=True
        ),
        Binding("ctrl+n", "new", "New", tooltip="Forget the conversation and begin a new one", priority=True),
        Binding(
            "ctrl+r", "again", "Start again", show=False, tooltip="Start the chat again after it ended", priority=True
        ),
        Binding("pageup", "scroll(-1)", "Up", show=False, tooltip="Scroll up", priority=True),
        Binding("pagedown", "scroll(1)", "Down", show=False, tooltip="Scroll down", priority=True),
    ]

    def __init__(self, conversation: RunTalk, glyphs: Glyphs) -> None:
        super().__init__(conversation.run, glyphs)
        self.conversation = conversation
        self._map = load_panel(MAP, conversation.run.path)
        self._changed = True

    def compose(self) -> ComposeResult:
        yield ViewLine(self.run_dir, self.VIEW)
        yield Static("", id="model")
        with Horizontal(id="chat"):
            with VerticalScroll(id="said", can_focus=False):
                yield Static("", id="turns")
            with Vertical(id="context"):
                yield PanelPane()
        yield Input(placeholder="say something", id="message")
        yield Keys()

    def on_mount(self) -> None:
        self.query_one("#message").focus()
        self.conversation.on_change = self._change
        self.set_interval(DRAW_SECONDS, self._draw)
        if self.conversation.status == "new":
            self._start()

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.width < NARROW, "-narrow")

    @work
    @while_shown
    async def _start(self) -> None:
        try:
            await self.conversation.start()
        except OSError as error:
            self.notify(f"can't start the chat: {error.strerror}", severity="error")

    def _change(self) -> None:
        self._changed = True

    def _draw(self) -> None:
        if not self._changed or not self.is_current:
            return
        self._changed, talk = False, self.conversation
        status = {"new": "", "starting": "reading the model", "ready": "", "answering": "answering (escape stops)"}
        words = status.get(talk.status, "ended; ctrl+r starts it again")
        line = Text(f"{visible(talk.model)}  ").append(words, style="bold yellow")
        self.query_one("#model", Static).update(line)
        self.query_one("#turns", Static).update(_turns(talk))
        self.query_one("#said", VerticalScroll).scroll_end(animate=False)
        view = StateView(self.run_dir.name, STAGE, talk.state, self.glyphs)
        self.query_one("#context").display = bool(view.events("working_context_snapshot"))
        self.query_one(PanelPane).show(lambda width, height: self._map.draw(view, width, height))

    @on(Input.Submitted, "#message")
    def _asked(self, event: Input.Submitted) -> None:
        if self.conversation.ask(event.value):
            event.input.value = ""
        elif event.value.strip():
            self.notify("wait: it isn't ready for a message", severity="warning")

    def action_new(self) -> None:
        if not self.conversation.forget():
            self.notify("it isn't ready: stop the answer first", severity="warning")

    def action_again(self) -> None:
        if self.conversation.status == "ended":
            self._start()

    def action_scroll(self, pages: int) -> None:
        said = self.query_one("#said", VerticalScroll)
        said.scroll_relative(y=pages * max(1, said.size.height - 1), animate=False)

    def action_leave(self) -> None:
        if not self.conversation.stop():
            super().action_leave()


def _turns(talk: RunTalk) -> Text:
    """The newest of what was said."""
    parts: list[Text] = []
    room = SHOWN_CHARACTERS
    for turn in reversed(talk.turns):
        text = turn.text[-room:]
        parts.append(
            Text.assemble(
                (WORDS[turn.who], "bold cyan" if turn.who == "you" else "bold green"), (visible(text), STYLES[turn.who])
            )
        )
        room -= len(text)
        if room <= 0:
            break
    return Text("\n\n").join(reversed(parts))
