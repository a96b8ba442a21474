"""What the server may ask of its worker: the shapes of orders, checked on the way in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Item(BaseModel):
    """A part of what goes into a history: a turn, a document with its name, a text or token ids as they are."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["system", "user", "assistant", "text", "ids"]
    text: str = ""
    ids: list[int] = Field(default_factory=list)


class Generate(BaseModel):
    """How an answer is drawn. `stream` is which of the seed's streams, `logprobs` how many likeliest tokens to tell of."""

    model_config = ConfigDict(extra="forbid")

    temperature: float
    top_k: int
    top_p: float
    max_tokens: Annotated[int, Field(ge=1)]
    seed: int
    stream: int = 0
    stop: list[str] = Field(default_factory=list)
    logprobs: int | None = None
    plain: bool = False  # the text goes on, no turn begins


class Hello(BaseModel):
    """The first order: which model, and the limits of the worker."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str
    device: str = "auto"
    flags: dict[str, str | int | None] = Field(default_factory=dict)
    context: str | None = None
    threads: int = 0
    most_rows: int = 64
    most_open: int = 64
    most_bytes: int = 2 * 2**30
