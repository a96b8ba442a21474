"""`mccore completion`: print the script that completes commands, flags and plugin names in a shell."""

from __future__ import annotations

import os
from pathlib import PurePath

import click
from click.shell_completion import get_completion_class

from mccore.errors import UsageError
from mccore.host.terminal import echo

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.pass_context
def completion(ctx: click.Context, shell: str | None) -> None:
    """Print the completion script of a SHELL, by default that of $SHELL.

    \b
    bash: mccore completion bash >> ~/.bashrc
    zsh:  mccore completion zsh >> ~/.zshrc
    fish: mccore completion fish > ~/.config/fish/completions/mccore.fish
    """
    shell = shell or PurePath(os.environ.get("SHELL", "")).name
    script = get_completion_class(shell) if shell in SHELLS else None
    if script is None:
        raise UsageError(f"no completion for shell {shell!r}", hint=f"name one: mccore completion {'|'.join(SHELLS)}")
    echo(script(ctx.find_root().command, {}, "mccore", "_MCCORE_COMPLETE").source())
