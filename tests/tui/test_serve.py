"""The monitor in a browser: nobody without the token gets anything, and nothing comes from outside."""

from __future__ import annotations

import asyncio
import re

from aiohttp import ClientResponse, CookieJar
from aiohttp.test_utils import TestClient, TestServer

from mccore.tui.serve import MonitorServer

TOKEN = "right"


def asked(*requests: tuple[str, dict[str, str]]) -> list[tuple[int, str, ClientResponse]]:
    """What these requests for (path, headers) are answered, one after the other, by one browser."""

    async def go() -> list[tuple[int, str, ClientResponse]]:
        app = await MonitorServer([], 8787, TOKEN).make_app()
        app.on_startup.clear()
        answers = []
        async with TestClient(TestServer(app), cookie_jar=CookieJar(unsafe=True)) as client:
            for path, headers in requests:
                async with client.get(path, headers=headers, allow_redirects=False) as answer:
                    answers.append((answer.status, await answer.text(), answer))
        return answers

    return asyncio.run(go())


def test_without_the_token_nothing_is_given() -> None:
    paths = ["/", "/?token=", "/?token=wrong", "/?token=%C3%A9", "/ws", "/static/js/textual.js", "/download/x"]
    assert [status for status, _, _ in asked(*((path, {}) for path in paths))] == [403] * len(paths)


def test_the_token_opens_the_page_and_only_the_page() -> None:
    (first, _, answer), (second, page, shown), (third, _, _) = asked(
        (f"/?token={TOKEN}", {}), ("/", {}), ("/static/css/xterm.css", {})
    )
    assert (first, second, third) == (302, 200, 200)
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in page
    assert set(re.findall(r"\w+://[^/\"]+", page)) == {"http://127.0.0.1:8787", "ws://127.0.0.1:8787"}
    assert "default-src 'self'" in shown.headers["Content-Security-Policy"]


def test_a_page_of_another_site_is_refused() -> None:
    answers = asked((f"/?token={TOKEN}", {}), ("/ws", {"Origin": "http://127.0.0.1:9999"}))
    assert answers[1][0] == 403
