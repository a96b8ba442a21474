"""`mccore serve`: a trained model over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mccore.cli.named_path import NamedPath
from mccore.config.stages import stage_spec
from mccore.errors import DataError, MccoreError, UsageError
from mccore.host import paths
from mccore.host.terminal import echo
from mccore.host.text import read_text
from mccore.runtime.open import STAGES, find_checkpoint, find_run

if TYPE_CHECKING:
    from mccore.events import Event
    from mccore.runs.rundir import RunDir
    from mccore.serve.exchanges import Exchange
    from mccore.serve.http.guard import Rules
    from mccore.telemetry.emitter import Emitter

TOKEN_VARIABLE = "MCCORE_SERVE_TOKEN"
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@click.command()
@click.argument("run", required=False)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen at; any but loopback needs a token."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--stage", type=click.Choice(STAGES), help="Which training stage's model; default: the last there is.")
@click.option("--context", metavar="PATH", help="New conversations start from this saved context.")
@click.option("--sessions", type=NamedPath(path_type=Path), help="Where conversations are kept.")
@click.option(
    "--token-file",
    type=NamedPath(path_type=Path),
    help=f"A file with a token on each line; default: ${TOKEN_VARIABLE}.",
)
@click.option("--allow-host", multiple=True, metavar="NAME", help="Another name that requests may be addressed to.")
@click.option("--allow-origin", multiple=True, metavar="URL", help="A page elsewhere that may use this server.")
@click.option("--wc-length", type=click.IntRange(1), help="Entries of the Working Context; default: the run's.")
@click.option("--refocus-interval", type=click.IntRange(1), help="Tokens between two refocuses; default: the run's.")
@click.option("--allocator", help="Focus allocator; default: the run's.")
@click.option("--search", type=click.Choice(["none", "ngram"]), help="Search histories; default: the run's.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--threads", type=click.IntRange(0), default=0, help="Of the model's process; default: all cores but one."
)
@click.option("--most-running", type=click.IntRange(1), default=64, show_default=True, help="Answers side by side.")
@click.option("--most-waiting", type=click.IntRange(1), default=256, show_default=True, help="More requests get a 429.")
@click.option(
    "--most-open", type=click.IntRange(0), default=32, show_default=True, help="Idle sessions kept in memory."
)
@click.option("--memory", type=click.IntRange(1), default=2048, show_default=True, help="MiB for idle keys and values.")
@click.option("--most-kept", type=click.IntRange(1), default=10_000, show_default=True, help="Conversations on disk.")
@click.option("--telemetry/--no-telemetry", default=True, help="Tell the run's telemetry providers of requests.")
def serve(run: str | None, host: str, port: int, stage: str | None, telemetry: bool, **options: Any) -> None:
    """Serve the model of RUN: a run's name, its directory, or `latest`. Default: the newest run that has a model.

    OpenAI's endpoints are at /v1, a page to talk at /, the OpenAPI document at /openapi.json. Ctrl-C saves all and leaves.
    """
    from mccore.runs.checkpoints import identity_of, read_meta
    from mccore.serve.http.server import open_socket
    from mccore.serve.orders import Hello

    chosen = find_run(run)
    stage, checkpoint = find_checkpoint(chosen, stage)
    rules = _rules(host, options)
    root = options["sessions"] or paths.served_dir()
    directory = root / identity_of(checkpoint, read_meta(checkpoint).tokenizer)[:16]
    flags = {name: options[name] for name in ("wc_length", "refocus_interval", "allocator", "search")}
    hello = Hello(
        checkpoint=str(checkpoint.resolve()),
        device=options["device"],
        flags=flags,
        context=options["context"],
        threads=options["threads"] or max(1, (os.cpu_count() or 2) - 1),
        most_rows=options["most_running"],
        most_open=options["most_open"],
        most_bytes=options["memory"] * 2**20,
    )
    lock = _lock(directory)
    try:
        with open_socket(host, port) as listener:
            address = listener.getsockname()
            shown = f"[{address[0]}]" if ":" in address[0] else address[0]
            if not stage_spec(stage).chat:
                echo("(a base model continues text: it was never taught to answer)", err=True)
            limits = (directory, options["most_waiting"], options["most_kept"])
            at = (listener, f"http://{shown}:{address[1]}")
            asyncio.run(_serve(chosen, hello, rules, limits, at, telemetry=telemetry))
    finally:
        os.close(lock)


async def _serve(
    run: RunDir, hello: Any, rules: Rules, limits: tuple[Path, int, int], listener: tuple[Any, str], *, telemetry: bool
) -> None:
    from mccore.serve.http.app import Served, make_app
    from mccore.serve.http.server import new_server
    from mccore.serve.ledger.dialogues import Dialogues
    from mccore.serve.link import WorkerLink
    from mccore.telemetry.recording import recording

    def tell(text: str) -> None:
        echo(text, err=True)

    def changed(state: str) -> None:
        if state == "restarting":
            tell("the model's process died; it is started again")

    (directory, most_waiting, most_kept), (socket, url) = limits, listener
    dialogues = Dialogues(directory)
    count = await asyncio.to_thread(dialogues.load)
    link = WorkerLink(hello, most_jobs=most_waiting, on_state=changed)
    await link.start()
    with recording(run, "serve", "served", tell) if telemetry else contextlib.nullcontext() as emitter:
        teller = _Teller(emitter)
        served = Served(
            run.name,
            link,
            dialogues,
            run.config.chat,
            rules,
            most_kept,
            teller.request,
            lambda failed: _tell_failed(failed),
        )
        tell(f"mccore serve: {run.name} on {link.info['device']}, {count:,} conversations, at {url}")
        try:
            await new_server(make_app(served)).serve(sockets=[socket])
        finally:
            await link.stop()


class _Teller:
    """Tells telemetry of requests and answers."""

    def __init__(self, emitter: Emitter | None) -> None:
        self._emitter = emitter

    def request(self, endpoint: str, status: int, seconds: float, exchange: Exchange | None) -> None:
        """A request, or the answer of an exchange, is over."""
        if self._emitter is None:
            return
        from mccore.events import Event

        event: Event
        if exchange is None:
            event = Event.now("request", None, {"endpoint": endpoint, "status": status, "seconds": round(seconds, 6)})
        else:
            figures = exchange.figures
            turn = {
                "prompt_tokens": figures.prompt_tokens,
                "new_tokens": figures.new_tokens,
                "first_token_seconds": round(figures.first_token_seconds or 0.0, 6),
                "seconds": round(figures.seconds, 6),
                "finish": figures.finish or "interrupted",
            }
            event = Event.now("chat.turn", None, turn)
        self._emitter.emit(event)


def _tell_failed(failed: list[str]) -> None:
    for line in failed:
        echo(f"warning: keys and values weren't saved: {line}", err=True)


def _rules(host: str, options: dict[str, Any]) -> Rules:
    """Who may ask. Raises UsageError for an address that others reach without a token."""
    from mccore.serve.http.guard import Rules

    tokens = _tokens(options["token_file"])
    name = f"[{host}]" if ":" in host else host.lower()
    if not tokens and not _is_loopback(host):
        raise UsageError(
            f"anybody could use the model at {host}: a server that others reach needs a token",
            hint=f"set {TOKEN_VARIABLE}, give --token-file, or leave --host away",
        )
    hosts = frozenset((*_LOOPBACK, name, *(each.lower() for each in options["allow_host"])))
    return Rules(hosts, tokens, frozenset(options["allow_origin"]))


def _tokens(file: Path | None) -> tuple[str, ...]:
    if file is None:
        found = [os.environ.get(TOKEN_VARIABLE, "").strip()]
    else:
        try:
            found = [line.strip() for line in read_text(file, most=2**20).splitlines()]
        except DataError as error:
            raise UsageError(error.message, hint=error.hint) from error
    tokens = tuple(token for token in found if token)
    if file is not None and not tokens:
        raise UsageError(f"{file} has no token", hint="write one on each line")
    if any(len(token) < 16 for token in tokens):
        raise UsageError("a token of fewer than 16 characters can be guessed", hint="openssl rand -hex 32 makes one")
    return tokens


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _lock(directory: Path) -> int:
    """Hold the directory of conversations. Raises UsageError where another server has it, MccoreError where it can't be made."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MccoreError(
            f"can't keep conversations in {directory}: {error.strerror}", hint="choose --sessions"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UsageError(
            f"another server has the conversations in {directory}", hint="stop it, or choose --sessions"
        ) from None
    except OSError:
        pass  # a file system without locks
    return lock
