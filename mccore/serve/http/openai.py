"""OpenAI's endpoints: chat completions, completions, models."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mccore.errors import MccoreError
from mccore.serve.exchanges import Exchange, Refused
from mccore.serve.frames import Frame
from mccore.serve.http.responses import EventStream, error_body, unless_gone
from mccore.serve.http.serving import finish_of, owner_of, serving_of, usage_of
from mccore.serve.http.wire import ChatBody, CompletionBody, OpenAIFields, read_body, utterances
from mccore.serve.ledger.dialogues import Dialogue, Utterance, keys_of


async def models(request: Request) -> Response:
    """The one model that is served."""
    return JSONResponse({"object": "list", "data": [_model(request)]})


async def model(request: Request) -> Response:
    """What there is to say of a model."""
    serving_of(request).require_model(request.path_params["model"])
    return JSONResponse(_model(request))


def _model(request: Request) -> dict[str, Any]:
    serving = serving_of(request)
    info = serving.link.info
    return {
        "id": serving.model,
        "object": "model",
        "created": serving.created,
        "owned_by": "mccore",
        "window": info.get("window"),
        "megacontext": info.get("megacontext"),
        "chat": info.get("chat"),
        "source": info.get("source"),
        "defaults": serving.defaults.model_dump(),
    }


async def chat_completions(request: Request) -> Response:
    """Answer the last of a list of messages."""
    serving, owner = serving_of(request), owner_of(request)
    body = await read_body(request, ChatBody)
    serving.require_model(body.model)
    if not serving.link.info.get("chat", True):
        raise Refused(400, "no_chat_model", "this model was never taught to answer", hint="use /v1/completions")
    messages, copies = utterances(body.messages), body.n or 1
    how = serving.generate(body, most=body.max_completion_tokens)
    if body.logprobs:
        how = how.model_copy(update={"logprobs": body.top_logprobs or 0})
    elif body.top_logprobs is not None:
        raise Refused(400, "invalid_value", "top_logprobs goes with logprobs", param="top_logprobs")
    dialogues, known = await _dialogues(request, body, messages, copies)
    exchanges: list[Exchange] = []
    try:
        for stream, dialogue in enumerate(dialogues):
            mine = how.model_copy(update={"stream": stream})
            exchanges.append(await serving.conversations.reply(dialogue, messages[known:], mine))
    except BaseException:
        for exchange in exchanges:
            await exchange.cancel()
        for dialogue in dialogues:
            if not dialogue.marks and not dialogue.kept and dialogue.owner == owner:
                await serving.conversations.delete(dialogue)
        raise
    form = ChatForm("chatcmpl-", "chat.completion", serving.model, body)
    form.extra = {"session_id": dialogues[0].id}
    return await _answer(request, form, exchanges)


async def _dialogues(
    request: Request, body: ChatBody, messages: Sequence[Utterance], copies: int
) -> tuple[list[Dialogue], int]:
    """The conversations that answer, one for each answer, and how many of the messages they have."""
    conversations, owner = serving_of(request).conversations, owner_of(request)
    if body.session_id is None:
        return await conversations.continued(owner, messages, copies)
    if copies > 1:
        raise Refused(400, "invalid_value", "a session takes one answer at a time", param="n")
    dialogue = conversations.get(body.session_id, owner)
    last = dialogue.marks[-1].key if dialogue.marks else b""
    keys = keys_of(messages)
    return [dialogue], keys.index(last) + 1 if last in keys else 0


async def completions(request: Request) -> Response:
    """Let texts go on."""
    serving, owner = serving_of(request), owner_of(request)
    body = await read_body(request, CompletionBody)
    serving.require_model(body.model)
    prompts: list[Frame]
    if isinstance(body.prompt, str):
        prompts = [{"kind": "text", "text": body.prompt}]
    elif isinstance(body.prompt[0], str):
        prompts = [{"kind": "text", "text": text} for text in body.prompt]
    else:
        prompts = [{"kind": "ids", "ids": body.prompt}]
        if max(body.prompt) >= serving.link.info.get("vocabulary", 0):  # type: ignore[type-var]
            raise Refused(400, "invalid_value", "the model doesn't know a token of the prompt", param="prompt")
    how = serving.generate(body).model_copy(update={"plain": True, "logprobs": body.logprobs})
    exchanges: list[Exchange] = []
    try:
        for prompt in prompts:
            for stream in range(body.n or 1):
                mine = how.model_copy(update={"stream": stream})
                exchanges.append(await serving.conversations.complete(owner, prompt, mine))
    except BaseException:
        for exchange in exchanges:
            await exchange.cancel()
        raise
    return await _answer(request, TextForm("cmpl-", "text_completion", serving.model, body), exchanges)


@dataclass
class AnswerForm:
    """The shape of an endpoint's answers."""

    prefix: str
    object: str
    model: str
    body: OpenAIFields

    def __post_init__(self) -> None:
        self.extra: dict[str, Any] = {}
        self._id, self._created = f"{self.prefix}{secrets.token_hex(12)}", int(time.time())

    def envelope(self, choices: list[dict[str, Any]], *, chunk: bool = False) -> dict[str, Any]:
        """An answer, or a part of one, around its choices."""
        name = f"{self.object}.chunk" if chunk and self.object == "chat.completion" else self.object
        head = {"id": self._id, "object": name, "created": self._created, "model": self.model}
        return {**head, "system_fingerprint": None, "choices": choices, **self.extra}

    def choice(self, index: int, exchange: Exchange) -> dict[str, Any]:
        """A whole answer."""
        raise NotImplementedError

    def delta(self, index: int, text: str | None, logprobs: list[Any], finish: str | None) -> dict[str, Any]:
        """What is new of an answer; None for its beginning."""
        raise NotImplementedError


class ChatForm(AnswerForm):
    """`chat.completion` and its chunks."""

    def choice(self, index: int, exchange: Exchange) -> dict[str, Any]:
        message = {"role": "assistant", "content": exchange.text, "refusal": None}
        told = {"content": [_chat_logprob(each) for each in exchange.logprobs]} if self._tells else None
        return {"index": index, "message": message, "logprobs": told, "finish_reason": finish_of(exchange)}

    def delta(self, index: int, text: str | None, logprobs: list[Any], finish: str | None) -> dict[str, Any]:
        part: dict[str, Any] = (
            {"role": "assistant", "content": ""} if text is None else {"content": text} if text else {}
        )
        told = {"content": [_chat_logprob(each) for each in logprobs]} if self._tells and logprobs else None
        return {"index": index, "delta": part, "logprobs": told, "finish_reason": finish}

    @property
    def _tells(self) -> bool:
        return isinstance(self.body, ChatBody) and bool(self.body.logprobs)


class TextForm(AnswerForm):
    """`text_completion`, in parts of the same shape."""

    def choice(self, index: int, exchange: Exchange) -> dict[str, Any]:
        return self._one(index, exchange.text, exchange.logprobs, finish_of(exchange))

    def delta(self, index: int, text: str | None, logprobs: list[Any], finish: str | None) -> dict[str, Any]:
        return self._one(index, text or "", logprobs, finish)

    def _one(self, index: int, text: str, logprobs: list[Any], finish: str | None) -> dict[str, Any]:
        told = (
            _text_logprobs(logprobs)
            if isinstance(self.body, CompletionBody) and self.body.logprobs is not None
            else None
        )
        return {"index": index, "text": text, "logprobs": told, "finish_reason": finish}


async def _answer(request: Request, form: AnswerForm, exchanges: list[Exchange]) -> Response:
    """The answers as one body, or as a stream."""
    headers = {"X-Session-Id": form.extra["session_id"]} if form.extra else {}
    if not form.body.stream:
        await unless_gone(request, exchanges, asyncio.gather(*(each.whole() for each in exchanges)))
        choices = [form.choice(index, each) for index, each in enumerate(exchanges)]
        return JSONResponse({**form.envelope(choices), "usage": usage_of(exchanges)}, headers=headers)
    merged = _merged(exchanges)
    first = await unless_gone(request, exchanges, anext(merged))  # an error so far has a status of its own
    if isinstance(first[1], Exception):
        for exchange in exchanges:
            await exchange.cancel()
        raise first[1]

    async def close() -> None:
        for exchange in exchanges:
            await exchange.cancel()

    return EventStream(_chunks(form, exchanges, merged), close, **headers)


async def _chunks(
    form: AnswerForm, exchanges: list[Exchange], merged: AsyncIterator[tuple[int, Frame | Exception]]
) -> AsyncIterator[list[Any]]:
    if isinstance(form, ChatForm):
        for index in range(len(exchanges)):
            yield [form.envelope([form.delta(index, None, [], None)], chunk=True)]
    async for index, frame in merged:
        if isinstance(frame, Exception):
            yield [error_body(frame)[1]]
            return
        if frame["kind"] == "said":
            text = "".join(piece[1] for piece in frame["pieces"] if piece[0] == "text")
            logprobs = frame.get("logprobs", [])
            if text or logprobs:
                yield [form.envelope([form.delta(index, text, logprobs, None)], chunk=True)]
        elif frame["kind"] == "done":
            yield [form.envelope([form.delta(index, "", [], finish_of(exchanges[index]))], chunk=True)]
    options = form.body.stream_options
    if options is not None and options.include_usage:
        yield [{**form.envelope([], chunk=True), "usage": usage_of(exchanges)}]
    yield ["[DONE]"]


async def _merged(exchanges: list[Exchange]) -> AsyncIterator[tuple[int, Frame | Exception]]:
    """The reports on several exchanges as they come, each with its number; an error is the last of all."""
    queue: asyncio.Queue[tuple[int, Frame | Exception | None]] = asyncio.Queue()

    async def follow(index: int, exchange: Exchange) -> None:
        try:
            async for frame in exchange.events():
                queue.put_nowait((index, frame))
            queue.put_nowait((index, None))
        except MccoreError as error:
            queue.put_nowait((index, error))

    tasks = [asyncio.create_task(follow(index, each)) for index, each in enumerate(exchanges)]
    try:
        running = len(tasks)
        while running:
            index, frame = await queue.get()
            if frame is None:
                running -= 1
                continue
            yield index, frame
            if isinstance(frame, Exception):
                return
    finally:
        for task in tasks:
            task.cancel()


def _chat_logprob(told: Frame) -> dict[str, Any]:
    top = [_token(token, logprob) for token, logprob in told["top"]]
    return {**_token(told["token"], told["logprob"]), "top_logprobs": top}


def _token(token: list[int], logprob: float) -> dict[str, Any]:
    return {"token": bytes(token).decode("utf-8", "replace"), "logprob": logprob, "bytes": token}


def _text_logprobs(logprobs: list[Frame]) -> dict[str, Any]:
    tokens = [bytes(each["token"]).decode("utf-8", "replace") for each in logprobs]
    offsets = [0]
    for token in tokens:
        offsets.append(offsets[-1] + len(token))
    return {
        "tokens": tokens,
        "token_logprobs": [each["logprob"] for each in logprobs],
        "top_logprobs": [
            {bytes(token).decode("utf-8", "replace"): logprob for token, logprob in each["top"]} for each in logprobs
        ],
        "text_offset": offsets[:-1],
    }
