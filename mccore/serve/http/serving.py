"""What every handler of a request needs: the conversations, the model's name, how answers are drawn by default."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from starlette.requests import Request

from mccore.config.training import ChatConfig
from mccore.serve.conversations import Conversations
from mccore.serve.exchanges import Exchange, Refused
from mccore.serve.http.wire import SamplingFields
from mccore.serve.link import WorkerLink
from mccore.serve.orders import Generate


@dataclass
class Serving:
    """A model being served."""

    model: str
    defaults: ChatConfig
    conversations: Conversations
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def link(self) -> WorkerLink:
        """The model's process."""
        return self.conversations.link

    def require_model(self, name: str) -> None:
        """Raise Refused for another model than the one that is served."""
        if name != self.model:
            raise Refused(
                404, "model_not_found", f"the model {name[:100]!r} isn't served here, but {self.model!r}", param="model"
            )

    def generate(self, body: SamplingFields, *, stream: int = 0, most: int | None = None) -> Generate:
        """How an answer is drawn, by a request and the run's defaults."""
        defaults = self.defaults
        stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
        return Generate(
            temperature=defaults.temperature if body.temperature is None else body.temperature,
            top_k=defaults.top_k if body.top_k is None else body.top_k,
            top_p=1.0 if body.top_p is None else body.top_p,
            max_tokens=most or body.max_tokens or defaults.max_new_tokens,
            seed=secrets.randbits(31) if body.seed is None else body.seed,
            stream=stream,
            stop=stop,
        )


def serving_of(request: Request) -> Serving:
    """The model that a request is for."""
    serving: Serving = request.app.state.serving
    return serving


def owner_of(request: Request) -> str:
    """Whose request it is."""
    owner: str = request.state.owner
    return owner


def finish_of(exchange: Exchange) -> str:
    """Why an answer ended, in OpenAI's words."""
    return "stop" if exchange.figures.finish == "stop" else "length"


def usage_of(exchanges: list[Exchange]) -> dict[str, object]:
    """What answers to one prompt took, in OpenAI's words."""
    prompt = exchanges[0].figures.prompt_tokens
    written = sum(each.figures.new_tokens for each in exchanges)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": exchanges[0].figures.cached_tokens},
    }
