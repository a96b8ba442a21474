"""The application: every endpoint, behind the guard."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from mccore.config.training import ChatConfig
from mccore.errors import MccoreError
from mccore.serve.conversations import Conversations
from mccore.serve.exchanges import Exchange, Refused
from mccore.serve.http.figures import ServingFigures
from mccore.serve.http.guard import Guard, Rules
from mccore.serve.http.responses import error_response
from mccore.serve.http.routes import ENDPOINTS, openapi_document
from mccore.serve.http.serving import Serving, serving_of
from mccore.serve.ledger.dialogues import Dialogues
from mccore.serve.link import WorkerLink

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/page/api.js": ("api.js", "text/javascript; charset=utf-8"),
    "/page/strip.js": ("strip.js", "text/javascript; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
}

OnRequest = Callable[[str, int, float, Exchange | None], None]


@dataclass(frozen=True)
class Served:
    """What is served and how: the model's name, its process, how answers are drawn by default, the rules, who is told."""

    model: str
    link: WorkerLink
    dialogues: Dialogues
    defaults: ChatConfig
    rules: Rules
    most_kept: int = 10_000
    on_request: OnRequest = lambda endpoint, status, seconds, exchange: None
    on_failed: Callable[[list[str]], None] = lambda failed: None


def make_app(served: Served) -> ASGIApp:
    """The application. It starts the worker when the server starts, and lets it save everything when that stops."""
    link = served.link
    figures = ServingFigures(link, served.dialogues)

    def answered(exchange: Exchange) -> None:
        figures.answered(exchange)
        served.on_request("answer", 0, exchange.figures.seconds, exchange)

    conversations = Conversations(link, served.dialogues, most_kept=served.most_kept, on_end=answered)

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            failed = await link.stop()
            await conversations.settled()
            served.on_failed(failed)

    async def metrics(request: Request) -> Response:
        """What the server counts."""
        return Response(figures.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def document(request: Request) -> Response:
        """The OpenAPI document."""
        return JSONResponse(openapi_document(tokens=bool(served.rules.tokens)))

    app = Starlette(
        routes=[
            *(Route(path, _page, methods=["GET"]) for path in PAGE),
            Route("/health", health, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/openapi.json", document, methods=["GET"]),
            *(Route(each.path, each.handler, methods=[each.method]) for each in ENDPOINTS),
        ],
        exception_handlers={MccoreError: _refuse, HTTPException: _refuse, Exception: _refuse},
        lifespan=life,
    )
    app.state.serving = Serving(served.model, served.defaults, conversations)

    def ended(scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        endpoint = f"{scope['method']} {route.path}" if isinstance(route, Route) else "other"
        figures.requests.labels(endpoint, str(status)).inc()
        figures.seconds.labels(endpoint).observe(seconds)
        served.on_request(endpoint, status, seconds, None)

    return Guard(app, served.rules, ended)


async def health(request: Request) -> Response:
    """Whether the model is there."""
    link = serving_of(request).link
    return JSONResponse({"status": link.state, "restarts": link.restarts}, 200 if link.state == "ready" else 503)


async def _page(request: Request) -> Response:
    name, media = PAGE[request.url.path]
    content = resources.files("mccore.serve").joinpath("page", name).read_bytes()
    return Response(content, media_type=media, headers={"Cache-Control": "no-cache"})


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
        refused = Refused(error.status_code, code, f"{request.method} {request.url.path[:200]}: {error.detail.lower()}")
        response = error_response(refused)
        response.headers.update(error.headers or {})
        return response
    return error_response(error)
