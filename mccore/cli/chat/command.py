"""`mccore chat`: talk to a trained model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mccore.cli.named_path import NamedPath
from mccore.cli.setting_flags import NumberRange
from mccore.config.stages import stage_spec
from mccore.errors import UsageError
from mccore.host.text import stdin_text, typed
from mccore.runtime.open import STAGES, find_checkpoint, find_run, open_on

if TYPE_CHECKING:
    from mccore.cli.chat.sessions import ChatHistory
    from mccore.cli.chat.stream import Stream
    from mccore.cli.chat.terminal import Terminal
    from mccore.config import ChatConfig
    from mccore.generate.chat import ChatSession
    from mccore.generate.engine import Engine
    from mccore.generate.memory import Memory, TextMemory, WindowMemory
    from mccore.generate.sampling import Sampling
    from mccore.runs.rundir import RunDir
    from mccore.runtime.open import OpenModel

_SAMPLING = {  # flag -> the field of a message to a server
    "temperature": "temperature",
    "top_k": "top_k",
    "max_new_tokens": "max_tokens",
    "seed": "seed",
}


@click.command()
@click.argument("run", required=False)
@click.option("-p", "--prompt", help="Answer this one message and leave; `-` reads it from standard input.")
@click.option("--stage", type=click.Choice(STAGES), help="Which training stage's model; default: the last there is.")
@click.option("--temperature", type=NumberRange(0, 2), help="0 is greedy; default: the run's.")
@click.option(
    "--top-k", type=click.IntRange(0), help="Sample among the k likeliest tokens, 0 among all; default: the run's."
)
@click.option("--max-new-tokens", type=click.IntRange(1), help="Longest answer in tokens; default: the run's.")
@click.option("--seed", type=click.IntRange(0), help="Seed of sampling; default: another one every time.")
@click.option("--system", help="System message: what the assistant should know or be.")
@click.option("--session", "name", metavar="NAME", help="Go on with the conversation of this name, or begin it; kept.")
@click.option(
    "--context",
    "context",
    metavar="PATH",
    help="Start from a context that `mccore context build` made, or from a saved session.",
)
@click.option(
    "--file",
    "files",
    multiple=True,
    type=NamedPath(path_type=Path),
    help="A text file to go before the first message.",
)
@click.option(
    "--mc/--no-mc", "megacontext", default=None, help="With a Working Context or a window; default: what the run has."
)
@click.option("--wc-length", type=click.IntRange(1), help="Entries of the Working Context; default: the run's.")
@click.option("--refocus-interval", type=click.IntRange(1), help="Tokens between two refocuses; default: the run's.")
@click.option("--allocator", help="Focus allocator; default: the run's.")
@click.option(
    "--search",
    type=click.Choice(["none", "ngram"]),
    help="Search the history for what the newest tokens ask for; goes with --allocator spans. Default: the run's.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--server",
    metavar="URL",
    help="Talk to a server that `mccore serve` started; --session takes the id of a session there.",
)
@click.option("--step", type=click.IntRange(0), help="Which checkpoint of the stage; default: the newest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per answer.")
@click.option("--stream", is_flag=True, help="For programs: JSON lines in, JSON lines out, the answer as it comes.")
def chat(
    run: str | None,
    prompt: str | None,
    stage: str | None,
    system: str | None,
    name: str | None,
    context: str | None,
    files: tuple[Path, ...],
    megacontext: bool | None,
    device: str,
    server: str | None,
    step: int | None,
    as_json: bool,
    stream: bool,
    **flags: Any,
) -> None:
    """Talk to the model of RUN: a run's name, its directory, or `latest`. Default: the newest run that has a model.

    In the chat, /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves. When standard input isn't a terminal,
    every line of it is a message.

    A run with MegaContext remembers everything that was said, however long; with --session it still does tomorrow.
    """
    from mccore.cli.chat.sessions import SessionPlace, saved_model

    sampling = {field: flags.pop(flag) for flag, field in _SAMPLING.items()}
    if server is not None:
        from mccore.cli.chat.remote import RemoteChat

        elsewhere = (run, stage, context, megacontext, step, stream or None, *flags.values())
        return RemoteChat(server, sampling, system, name, as_json=as_json).run(prompt, files, elsewhere)
    place, known = SessionPlace(name, context), None
    session_wanted = any(value is not None for value in (name, context, *flags.values()))
    if megacontext is False and session_wanted:
        raise UsageError("--no-mc goes with a window, and a window has no session", hint="leave one of them away")
    if run is None and (name is not None or context is not None):
        run, stage, known = saved_model(place, stage)
    chosen = find_run(run)
    stage, checkpoint = find_checkpoint(chosen, stage, step)
    checkpoint = checkpoint if step is not None else known or checkpoint
    text = _message(prompt)
    if stream and (text is not None or as_json):
        raise UsageError("--stream takes its messages from standard input", hint="leave -p and --json away")

    from mccore.cli.setting_flags import open_sessions

    opened = open_on(checkpoint, device)
    engine, plain, history = opened.engine(), not stage_spec(stage).chat, None
    if megacontext is not False and (megacontext or session_wanted or chosen.config.megacontext.enabled):
        from mccore.cli.chat.sessions import open_history

        history = open_history(engine, open_sessions(opened, **flags), place, plain, opened.source)
    memory = history.memory if history else _window(engine, plain)
    session = _session(engine, memory, _sampling(chosen.config.chat, sampling), system)
    try:
        front = _front(session, {**opened.source, **place.source}, history, stream=stream, as_json=as_json)
        _talk(front, chosen, files, text, describe(opened, engine))
    finally:
        if history is not None:
            history.close()


def _message(prompt: str | None) -> str | None:
    """The one message to answer, None for a chat. Raises UsageError for an empty one."""
    text = stdin_text() if prompt == "-" else None if prompt is None else typed(prompt)
    if text is not None and not text.strip():
        raise UsageError("the prompt is empty", hint="give a message with -p, or leave -p away to chat")
    return text


def _window(engine: Engine, plain: bool) -> TextMemory | WindowMemory:
    """The memory of a conversation without a session; `plain` for a model that was never taught to answer."""
    from mccore.generate.memory import TextMemory, WindowMemory

    return TextMemory(engine) if plain else WindowMemory(engine)


def _session(engine: Engine, memory: Memory, sampling: Sampling, system: str | None) -> ChatSession:
    from mccore.generate.chat import ChatSession

    return ChatSession(engine.tokenizer, memory, sampling, None if system is None else typed(system))


def _front(
    session: ChatSession, source: dict[str, Any], history: ChatHistory | None, *, stream: bool, as_json: bool
) -> Terminal | Stream:
    """Who talks with the model: a program by lines of JSON, or a person."""
    from mccore.cli.chat.stream import Stream
    from mccore.cli.chat.terminal import Terminal

    return Stream(session, source, history=history) if stream else Terminal(session, source, as_json, history=history)


def _sampling(defaults: ChatConfig, flags: dict[str, Any]) -> Sampling:
    """How tokens are drawn: by the flags, else by the run, and by a seed of its own every time."""
    from mccore.generate.sampling import Sampling

    return Sampling(
        temperature=defaults.temperature if flags["temperature"] is None else flags["temperature"],
        top_k=defaults.top_k if flags["top_k"] is None else flags["top_k"],
        max_new_tokens=flags["max_tokens"] or defaults.max_new_tokens,
        seed=int.from_bytes(os.urandom(4)) if flags["seed"] is None else flags["seed"],
    )


def _talk(front: Terminal | Stream, run: RunDir, files: tuple[Path, ...], text: str | None, banner: str) -> None:
    """Answer the one message, or what comes; the first goes with the files."""
    from mccore.cli.chat.lines import note
    from mccore.cli.chat.recorder import recorded
    from mccore.cli.chat.terminal import Terminal

    with recorded(run, lambda: front.history) as front.on_answer:
        for path in files:
            note(f"({front.attach(path)})")
        if text is not None and isinstance(front, Terminal):
            front.answer_once(text)
        else:
            front.converse(banner)


def describe(opened: OpenModel, engine: Engine) -> str:
    """One line on who is talking."""
    parameters = sum(parameter.numel() for parameter in opened.gpt.parameters())
    run, stage, step = opened.source.values()
    return (
        f"mccore chat: {run}, {stage} step {step:,}, {parameters / 1e6:.1f}M parameters, "
        f"context {engine.max_tokens:,} tokens, on {opened.gpt.device.type}"
    )
