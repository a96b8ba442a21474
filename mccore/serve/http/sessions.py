"""Sessions: conversations by name, their messages, files, branches, and what the model looks at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mccore.data.tokenizer.reply import merge
from mccore.errors import DataError, MccoreError
from mccore.host.text import TextFeed
from mccore.serve.exchanges import Exchange, Refused
from mccore.serve.frames import Frame
from mccore.serve.http.responses import EventStream, error_body, unless_gone
from mccore.serve.http.serving import owner_of, serving_of
from mccore.serve.http.wire import BranchBody, MessageBody, SessionBody, TitleBody, read_body
from mccore.serve.ledger.dialogues import Dialogue, Utterance, title_of

MOST_LISTED = 200
UPLOAD_PIECE = 2**18  # bytes that go to the worker at once


def _dialogue(request: Request) -> Dialogue:
    return serving_of(request).conversations.get(request.path_params["session"], owner_of(request))


async def create(request: Request) -> Response:
    """A new session."""
    body = await read_body(request, SessionBody)
    conversations = serving_of(request).conversations
    dialogue = await conversations.create(owner_of(request), title=title_of(body.title), system=body.system)
    return JSONResponse(dialogue.summary(), 201)


async def listing(request: Request) -> Response:
    """The sessions of the asker, the newest first; `q` are words that occur in them, `offset` and `limit` a part of the list."""
    conversations, owner = serving_of(request).conversations, owner_of(request)
    query = request.query_params.get("q", "")[:200]
    limit, offset = _number(request, "limit", MOST_LISTED, MOST_LISTED), _number(request, "offset", 0, 2**31)
    found = await conversations.search(owner, query) if query.strip() else conversations.dialogues.of(owner)
    data = [each.summary() for each in found[offset : offset + limit]]
    return JSONResponse({"object": "list", "data": data, "total": len(found)})


async def show(request: Request) -> Response:
    """What there is to say of a session."""
    return JSONResponse(_dialogue(request).summary())


async def rename(request: Request) -> Response:
    """Give it another title."""
    dialogue, body = _dialogue(request), await read_body(request, TitleBody)
    await serving_of(request).conversations.rename(dialogue, body.title)
    return JSONResponse(dialogue.summary())


async def delete(request: Request) -> Response:
    """Remove it, its history and its files."""
    dialogue = _dialogue(request)
    await serving_of(request).conversations.delete(dialogue)
    return JSONResponse({"id": dialogue.id, "object": "session.deleted", "deleted": True})


async def messages(request: Request) -> Response:
    """What was said, in order."""
    dialogue = _dialogue(request)
    said = [
        {"index": index, **{name: value for name, value in record.items() if name not in ("type", "ids")}}
        for index, record in enumerate(await serving_of(request).conversations.messages(dialogue))
    ]
    return JSONResponse({"object": "list", "data": said})


async def post_message(request: Request) -> Response:
    """Say something and be answered, as a whole or as a stream of events."""
    serving, dialogue = serving_of(request), _dialogue(request)
    body = await read_body(request, MessageBody)
    said = [] if body.content is None else [Utterance("user", body.content)]
    exchange = await serving.conversations.reply(dialogue, said, serving.generate(body))
    if not body.stream:
        await unless_gone(request, [exchange], exchange.whole())
        return JSONResponse({**_figures(exchange), "text": exchange.text, "parts": _parts_of(exchange)})
    events = exchange.events()
    first = await unless_gone(request, [exchange], anext(events))
    return EventStream(_stream(exchange, first, events), exchange.cancel)


async def _stream(exchange: Exchange, first: Frame, events: AsyncIterator[Frame]) -> AsyncIterator[list[Any]]:
    """`read`, when the message is safe; `said` for each piece; `done` with what it took, or `error`."""
    yield [{"event": "read", "tokens": first["tokens"], "before": first["before"]}]
    waiting: list[Any] = []
    try:
        async for frame in events:
            if frame["kind"] == "said":
                waiting += [{"event": "said", "type": kind, "text": text} for kind, text in frame["pieces"]]
            elif frame["kind"] == "done":
                waiting.append({"event": "done", **_figures(exchange)})
            if waiting and not exchange.more:
                yield waiting
                waiting = []
        yield waiting
    except MccoreError as error:
        yield [*waiting, {"event": "error", **error_body(error)[1]}]


def _figures(exchange: Exchange) -> dict[str, Any]:
    dialogue = exchange.dialogue
    return {
        "session_id": None if dialogue is None else dialogue.id,
        **exchange.figures.as_json(),
        "tokens": exchange.ending.get("tokens", 0),
        "entries": exchange.ending.get("entries", 0),
        "refocuses": exchange.ending.get("refocuses", 0),
        "seen": exchange.ending.get("seen", []),
    }


def _parts_of(exchange: Exchange) -> list[dict[str, str]]:
    return [piece._asdict() for piece in merge(exchange.pieces)]


async def upload(request: Request) -> Response:
    """Take a text into the history: the body as it comes. `name` is what the model is told it is called."""
    conversations, dialogue = serving_of(request).conversations, _dialogue(request)
    name = " ".join(request.query_params.get("name", "file.txt").split())[:200] or "file.txt"
    exchange = await conversations.upload(dialogue, name)
    try:
        await _feed(request, exchange, TextFeed(name))
        await unless_gone(request, [exchange], exchange.whole())
    except BaseException as error:
        await exchange.cancel()
        if isinstance(error, DataError):
            raise Refused(400, "invalid_text", error.message, hint=error.hint) from error
        raise
    figures = exchange.figures
    tokens = figures.prompt_tokens - figures.cached_tokens
    return JSONResponse({"object": "session.file", "name": name, "tokens": tokens, "total": dialogue.tokens}, 201)


async def _feed(request: Request, exchange: Exchange, text: TextFeed) -> None:
    """Hand a body on piece by piece, each when the one before it has been read."""
    assert exchange.job is not None
    events = exchange.events()

    async def wanted() -> None:
        async for frame in events:
            if frame["kind"] == "wants":
                return

    await wanted()
    waiting = bytearray()
    async for data in request.stream():
        waiting += data
        if len(waiting) >= UPLOAD_PIECE:
            piece = text.feed(bytes(waiting))
            waiting.clear()
            if piece:
                await exchange.job.send(order="text", text=piece)
                await wanted()
            await asyncio.sleep(0)
    await exchange.job.send(order="text", text=text.feed(bytes(waiting), final=True), last=True)


async def cut(request: Request) -> Response:
    """What the Working Context shows of the history: runs `[start, stop, level]`."""
    frame = await serving_of(request).conversations.look(_dialogue(request))
    return JSONResponse({name: value for name, value in frame.items() if name not in ("kind", "job")})


async def passage(request: Request) -> Response:
    """The text of tokens `[start, stop)` of the history."""
    span = (_number(request, "start", 0, 2**48), _number(request, "stop", 0, 2**48))
    frame = await serving_of(request).conversations.look(_dialogue(request), span)
    return JSONResponse({name: frame.get(name) for name in ("start", "stop", "text")})


async def branch(request: Request) -> Response:
    """A session of its own that begins with the first messages of this one."""
    dialogue, body = _dialogue(request), await read_body(request, BranchBody)
    count = len(dialogue.marks) if body.at is None else body.at
    made = await serving_of(request).conversations.branch(dialogue, count, title_of(body.title))
    return JSONResponse(made.summary(), 201)


async def stop(request: Request) -> Response:
    """End the answer that is on its way; what was said of it stays."""
    dialogue = _dialogue(request)
    running = dialogue.running
    if isinstance(running, Exchange):
        await running.cancel()
        await running.settled()
    return JSONResponse({"id": dialogue.id, "stopped": isinstance(running, Exchange)})


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) > most:
        raise Refused(400, "invalid_value", f"{name} is a whole number up to {most}", param=name)
    return int(text)
