"""The command line. Commands are imported when they are called, so `mccore --help` needs neither torch nor plugin code."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence

import click

from mccore.errors import Interrupted, MccoreError
from mccore.host.processes import NOTHING_INSTALLED
from mccore.host.terminal import echo, visible

# command -> (module:function, one line for the overview). The overview is here so that it needs no import.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("mccore.cli.run:run", "Train a model by a recipe, from raw text to a chat."),
    "runs": ("mccore.cli.runs:runs", "List, show, stop, compare and delete runs."),
    "monitor": ("mccore.cli.monitor:monitor", "Watch runs on a screen; start, stop and resume them."),
    "events": ("mccore.cli.events:events", "Read, follow and export the events of a run."),
    "chat": ("mccore.cli.chat.command:chat", "Talk to a trained model."),
    "serve": ("mccore.cli.serve:serve", "Serve a trained model: OpenAI's API, sessions, a page."),
    "context": ("mccore.cli.context:context", "Turn files into contexts for chats, look at them, check them."),
    "eval": ("mccore.cli.eval:evaluate", "Measure what the contexts of trained models are worth."),
    "bench": ("mccore.cli.bench:bench", "Measure what sessions cost on this machine."),
    "report": ("mccore.cli.report:report", "Write the report of a run again and show it."),
    "data": ("mccore.cli.data:data", "Fetch data sets of the hub, list, check and remove them."),
    "import": ("mccore.cli.imports:import_", "Make runs of models of others; take tokenizers of others."),
    "export": ("mccore.cli.export:export", "Write a trained model in a format that others load."),
    "tok": ("mccore.cli.tok:tok", "Train a tokenizer on files, or measure one."),
    "plugins": ("mccore.cli.plugins:plugins", "List and check plugins, or start a new one."),
    "setup": ("mccore.cli.setup:setup", "Look at this machine and write the settings file .mc_env."),
    "doctor": ("mccore.cli.doctor:doctor", "Check that everything mccore needs is there."),
    "completion": ("mccore.cli.completion:completion", "Print the completion script of a shell."),
}

# Commands below another that have a file of their own.
COMMANDS_BELOW: dict[str, tuple[str, ...]] = {"eval": ("mccore.cli.tasks:tasks",)}


class VisibleHelp(click.HelpFormatter):
    """Help texts, in which names and words of plugins occur."""

    def getvalue(self) -> str:
        return visible(super().getvalue())


class CommandContext(click.Context):
    """The context of every command."""

    formatter_class = VisibleHelp


def make_help_visible(command: click.Command) -> None:
    """Let the help of a command and of those below it pass the door to the terminal."""
    command.context_class = CommandContext
    for inner in getattr(command, "commands", {}).values():
        make_help_visible(inner)


class LazyGroup(click.Group):
    """A group whose commands are modules of their own, imported by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        for place in COMMANDS_BELOW.get(cmd_name, ()):
            assert isinstance(command, click.Group)
            module, _, attribute = place.partition(":")
            command.add_command(getattr(importlib.import_module(module), attribute))
        make_help_visible(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            if close := get_close_matches(args[0], COMMANDS, n=1):
                error.message += f" Did you mean {close[0]!r}?"
            raise


def print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Print the version and leave."""
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    echo(f"mccore {version('mccore')}")
    ctx.exit()


@click.command(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),  # gets an option's name without its dashes
    },
)
@click.option(
    "--version", is_flag=True, callback=print_version, expose_value=False, is_eager=True, help="Print the version."
)
def cli() -> None:
    """Train a small language model from raw text to a chat, with an unbounded, tree-shaped context.

    Start with `mccore run tiny`, then `mccore chat`.
    """
    from mccore.host.env import FILE_NAME, apply_settings

    if taken := apply_settings():
        echo(f"({FILE_NAME}: {', '.join(taken)})", err=True)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the `mccore` command. Returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    open_streams()
    for variable, value in NOTHING_INSTALLED.items():
        os.environ.setdefault(variable, value)
    try:
        result = cli.main(args=args, prog_name="mccore", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except MccoreError as error:
        _tell(error)
        return error.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        with contextlib.suppress(OSError):
            echo(shown.getvalue(), err=True, nl=False)
        return 2
    except (click.Abort, KeyboardInterrupt):
        _tell(Interrupted("interrupted"))
        return Interrupted.exit_code
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        _give_up_output()
        return 1
    except OSError as error:
        _give_up_output()
        _tell(_explain(error))
        return 1


def open_streams() -> None:
    """See to it that there are three standard streams: a file that is opened later must not become one of them.

    What was closed by the caller takes no output and gives no input; for standard output that is an error when it's used.
    """
    for fd, mode, name in ((0, os.O_RDONLY, "stdin"), (1, os.O_RDONLY, "stdout"), (2, os.O_WRONLY, "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # the lowest that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "r" if fd == 0 else "w", encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115


def _tell(error: MccoreError) -> None:
    with contextlib.suppress(OSError):
        echo(error.render(), err=True)


def _explain(error: OSError) -> MccoreError:
    """What a system call that failed means to a person: the machine's doing, not a bug."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return MccoreError(f"can't write the output: {reason}", hint="see where standard output goes")
    return MccoreError(f"can't use {error.filename}: {reason}", hint="check that path and its permissions")


def _give_up_output() -> None:
    """Let what is still in standard output's buffer go, so that leaving doesn't fail over it again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
