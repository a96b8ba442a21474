"""What stands before every request: each refusal, in OpenAI's shape, before anything of the request is done."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mccore.errors import MccoreError
from mccore.serve.exchanges import Refused
from mccore.serve.http.guard import Guard, Rules
from mccore.serve.http.responses import error_response
from mccore.serve.http.wire import ChatBody, read_body, utterances

HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
TOKEN = "a-token-of-some-length"


async def _refused(request: Request, error: Exception) -> Response:
    return error_response(error)


async def _echo(request: Request) -> Response:
    body = await request.body()
    return JSONResponse({"owner": request.state.owner, "bytes": len(body)})


async def _chat(request: Request) -> Response:
    body = await read_body(request, ChatBody)
    return JSONResponse([list(each) for each in utterances(body.messages)])


def ask(rules: Rules, method: str = "POST", path: str = "/v1/echo", **options: Any) -> httpx.Response:
    app = Starlette(
        routes=[
            Route("/v1/echo", _echo, methods=["GET", "POST"]),
            Route("/v1/chat", _chat, methods=["POST"]),
            Route("/health", _echo),
            Route("/v1/sessions/x/files", _echo, methods=["POST"]),
        ],
        exception_handlers={MccoreError: _refused},
    )
    seen: list[int] = []
    guard = Guard(app, rules, lambda scope, status, seconds: seen.append(status))

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(guard)
        async with httpx.AsyncClient(
            transport=transport, base_url=options.pop("base_url", "http://127.0.0.1:8000")
        ) as client:
            return await client.request(method, path, **options)

    answer = asyncio.run(go())
    assert seen == [answer.status_code]
    return answer


def code(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])


def test_another_name_is_refused() -> None:
    assert ask(Rules(HOSTS)).status_code == 200
    for name in ("http://evil.example", "http://127.0.0.1.evil.example:8000", "http://10.0.0.1"):
        answer = ask(Rules(HOSTS), base_url=name)
        assert (answer.status_code, code(answer)) == (403, "host_not_allowed")
    assert ask(Rules(HOSTS), base_url="http://[::1]:8000").status_code == 200


def test_pages_elsewhere_are_refused_unless_named() -> None:
    elsewhere = {"Origin": "https://page.example"}
    assert code(ask(Rules(HOSTS), headers=elsewhere)) == "origin_not_allowed"
    assert code(ask(Rules(HOSTS), headers={"Origin": "null"})) == "origin_not_allowed"
    assert code(ask(Rules(HOSTS), headers={"Origin": "http://127.0.0.1:9000"})) == "origin_not_allowed"
    assert ask(Rules(HOSTS), headers={"Origin": "http://127.0.0.1:8000"}).status_code == 200
    named = Rules(HOSTS, origins=frozenset({"https://page.example"}))
    assert ask(named, headers=elsewhere).headers["access-control-allow-origin"] == "https://page.example"
    assert ask(named, "OPTIONS", headers=elsewhere).status_code == 204
    assert "access-control-allow-origin" not in ask(named).headers


def test_without_a_token_nothing_is_told_but_the_health() -> None:
    rules = Rules(HOSTS, (TOKEN, "another-token-of-length"))
    for header in (None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"):
        answer = ask(rules, headers={} if header is None else {"Authorization": header.encode("latin-1")})  # type: ignore[dict-item]
        assert (answer.status_code, code(answer)) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert ask(rules, "GET", "/health").status_code == 200
    owners = {ask(rules, headers={"Authorization": f"Bearer {token}"}).json()["owner"] for token in rules.tokens}
    assert len(owners) == 2
    assert not any(TOKEN in owner for owner in owners)


def test_large_bodies_are_refused_whether_they_say_so_or_not() -> None:
    rules = Rules(HOSTS, most_body=1000, most_upload=3000)

    async def pieces() -> Any:
        for _ in range(40):
            yield b"x" * 100

    for body in (b"x" * 1001, pieces()):
        answer = ask(rules, content=body)
        assert (answer.status_code, code(answer)) == (413, "body_too_large")
    assert ask(rules, content=b"x" * 1000).json()["bytes"] == 1000
    assert ask(rules, path="/v1/sessions/x/files", content=b"x" * 3000).status_code == 200
    assert ask(rules, path="/v1/sessions/x/files", content=pieces()).status_code == 413
    for length in ("-1", "1e3", "9" * 5000):
        assert ask(rules, headers={"Content-Length": length}).status_code == 413


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def stalls() -> Any:
        yield b"x"
        await asyncio.sleep(60)

    answer = ask(Rules(HOSTS, patience=0.05), content=stalls())
    assert (answer.status_code, code(answer)) == (408, "body_timeout")


def test_every_answer_has_the_headers_that_keep_a_page_safe() -> None:
    for answer in (ask(Rules(HOSTS)), ask(Rules(HOSTS), base_url="http://evil.example")):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


GOOD = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"n": 99}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"unknown": 1}, "unknown"),
        ({"tools": [{}]}, "tools"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]}, "messages.1.role"),
        ({"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]}, "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(change: dict[str, Any], param: str) -> None:
    answer = ask(Rules(HOSTS), path="/v1/chat", json={**GOOD, **change})
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"] or "").startswith(param)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b'{"model": NaN}',
        b"[" * 100_000,
        b'{"model":"m","messages":' + b"9" * 5000 + b"}",
    ],
    ids=["empty", "half", "no text", "list", "null", "nan", "deep", "huge number"],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    answer = ask(Rules(HOSTS), path="/v1/chat", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert code(answer) in ("invalid_json", "invalid_value")


def test_not_a_number_is_no_temperature() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":NaN}'
    answer = ask(Rules(HOSTS), path="/v1/chat", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "temperature")


def test_a_form_of_another_page_is_no_request() -> None:
    answer = ask(Rules(HOSTS), path="/v1/chat", content=b"{}", headers={"Content-Type": "text/plain"})
    assert (answer.status_code, code(answer)) == (415, "unsupported_media_type")


def test_neighbours_of_one_role_are_one_message() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "\ud800"}]},
    ]
    body = json.dumps({**GOOD, "messages": messages}).encode()
    answer = ask(Rules(HOSTS), path="/v1/chat", content=body, headers={"Content-Type": "application/json"})
    assert answer.json() == [
        ["system", "be brief"],
        ["user", "a\n\nb\ufffd"],
    ]


def test_refusals_are_of_openais_types() -> None:
    assert error_response(Refused(404, "x", "y")).body.startswith(b'{"error":{"message":"y","type":"not_found_error"')
    assert error_response(ValueError("secret")).status_code == 500
    assert b"secret" not in error_response(ValueError("secret")).body
