"""Every endpoint of the API in one table, from which the application and its OpenAPI document are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from mccore.serve.http import openai, sessions
from mccore.serve.http.wire import BranchBody, ChatBody, CompletionBody, MessageBody, SessionBody, TitleBody

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """One endpoint. `body` is what it takes, `query` its parameters with their JSON types, `status` that of success."""

    method: str
    path: str
    handler: Handler
    body: type[BaseModel] | None = None
    query: tuple[tuple[str, str], ...] = ()
    status: int = 200
    streams: bool = False
    takes_text: bool = False

    @property
    def summary(self) -> str:
        """One line on it."""
        return (self.handler.__doc__ or "").partition("\n")[0].rstrip(".")


_ONE = "/v1/sessions/{session}"

ENDPOINTS = (
    Endpoint("POST", "/v1/chat/completions", openai.chat_completions, ChatBody, streams=True),
    Endpoint("POST", "/v1/completions", openai.completions, CompletionBody, streams=True),
    Endpoint("GET", "/v1/models", openai.models),
    Endpoint("GET", "/v1/models/{model}", openai.model),
    Endpoint("POST", "/v1/sessions", sessions.create, SessionBody, status=201),
    Endpoint(
        "GET", "/v1/sessions", sessions.listing, query=(("q", "string"), ("limit", "integer"), ("offset", "integer"))
    ),
    Endpoint("GET", _ONE, sessions.show),
    Endpoint("PATCH", _ONE, sessions.rename, TitleBody),
    Endpoint("DELETE", _ONE, sessions.delete),
    Endpoint("GET", f"{_ONE}/messages", sessions.messages),
    Endpoint("POST", f"{_ONE}/messages", sessions.post_message, MessageBody, streams=True),
    Endpoint("POST", f"{_ONE}/stop", sessions.stop),
    Endpoint("POST", f"{_ONE}/files", sessions.upload, query=(("name", "string"),), status=201, takes_text=True),
    Endpoint("GET", f"{_ONE}/cut", sessions.cut),
    Endpoint("GET", f"{_ONE}/text", sessions.passage, query=(("start", "integer"), ("stop", "integer"))),
    Endpoint("POST", f"{_ONE}/branch", sessions.branch, BranchBody, status=201),
)

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}


def openapi_document(*, tokens: bool) -> dict[str, Any]:
    """The OpenAPI document of all endpoints. tokens: whether requests need one."""
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, Any] = {}
    for each in ENDPOINTS:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, schemas)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "mccore serve", "version": metadata.version("mccore")},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if tokens:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _links() -> dict[str, Any]:
    """What can be done with a session that was made: every endpoint that takes its id."""
    return {
        other.handler.__name__: {
            "operationId": other.handler.__name__,
            "parameters": {"session": "$response.body#/id"},
        }
        for other in ENDPOINTS
        if "{session}" in other.path
    }


def _operation(each: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if each.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    error = {
        "description": "what is wrong",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    done: dict[str, Any] = {"description": each.summary, "content": content}
    if each.path in ("/v1/sessions", f"{_ONE}/branch") and each.status == 201:
        done["links"] = _links()
    operation: dict[str, Any] = {
        "operationId": each.handler.__name__,
        "summary": each.summary,
        "responses": {str(each.status): done, "4XX": error, "5XX": error},
    }
    named = [part[1:-1] for part in each.path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in named]
    for name, kind in each.query:
        schema: dict[str, Any] = {"type": kind, **({"minimum": 0} if kind == "integer" else {})}
        parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    if parameters:
        operation["parameters"] = parameters
    if each.body is not None:
        schema = each.body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[each.body.__name__] = schema
        reference = {"$ref": f"#/components/schemas/{each.body.__name__}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    if each.takes_text:
        operation["requestBody"] = {"required": True, "content": {"text/plain": {"schema": {"type": "string"}}}}
    return operation
