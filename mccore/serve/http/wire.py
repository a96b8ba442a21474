"""The bodies of requests, checked by pydantic: of the type they should be, within limits, and nothing that is ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from mccore.host.json_file import BadJson, parse_json
from mccore.host.text import mend
from mccore.serve.exchanges import Refused
from mccore.serve.ledger.dialogues import Utterance

MOST_TOKENS = 2**16  # of an answer
MOST_ANSWERS = 8  # of one request
MOST_TITLE = 200

B = TypeVar("B", bound=BaseModel)

Text = Annotated[str, AfterValidator(mend)]
StopText = Annotated[Text, Field(min_length=1, max_length=256)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Body(BaseModel):
    """A body: no value of another type is taken for the right one, and no field is passed over in silence."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class SamplingFields(Body):
    """How answers are drawn; what isn't given is the run's."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    seed: Seed | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    stream: bool | None = False


class StreamOptions(Body):
    """What a stream has beside the answer."""

    include_usage: bool | None = False
    include_obfuscation: bool | None = None


class OpenAIFields(SamplingFields):
    """What both of OpenAI's endpoints take. What would have an effect that there isn't here is refused."""

    model: Text
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = 1
    stream_options: StreamOptions | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = 0
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = 0
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: Text | None = None  # without effect: a token is who asks


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class ChatMessage(Body):
    """A message of a list."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]
    name: Text | None = None
    refusal: None = None

    @property
    def text(self) -> str:
        """What it says."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(Body):
    """Text is all there is."""

    type: Literal["text"]


class ChatBody(OpenAIFields):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=20_000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    session_id: Annotated[str, Field(max_length=100)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None


class CompletionBody(OpenAIFields):
    """`POST /v1/completions`."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=16)]
        | Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] | None = False
    best_of: Literal[1] | None = 1
    suffix: Literal[""] | None = None


class SessionBody(Body):
    """`POST /v1/sessions`."""

    title: Annotated[Text, Field(max_length=MOST_TITLE)] = ""
    system: Text | None = None


class TitleBody(Body):
    """`PATCH /v1/sessions/{id}`."""

    title: Annotated[Text, Field(min_length=1, max_length=MOST_TITLE)]


class BranchBody(Body):
    """`POST /v1/sessions/{id}/branch`: the first `at` messages, default all."""

    at: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    title: Annotated[Text, Field(max_length=MOST_TITLE)] = ""


class MessageBody(SamplingFields):
    """`POST /v1/sessions/{id}/messages`: a message to answer, or null to answer the last one."""

    content: Annotated[Text, Field(min_length=1)] | None = None


async def read_body(request: Request, kind: type[B]) -> B:
    """The body of a request. Raises Refused for what isn't JSON, or not of this kind."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise Refused(415, "unsupported_media_type", "the body is to be application/json", hint="set Content-Type")
    try:
        return kind.model_validate(parse_json(await request.body()))
    except BadJson as error:
        raise Refused(400, "invalid_json", f"the body can't be read: {error}") from None
    except ValidationError as error:
        raise refusal_of(error) from None


def refusal_of(error: ValidationError) -> Refused:
    """The first fault of a body as an error for its sender."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ".".join(
        str(part) for part in first["loc"] if not (isinstance(part, str) and part[:1] in "(nl" and "[" in part)
    )
    what = "there is no such parameter" if first["type"] == "extra_forbidden" else first["msg"]
    return Refused(400, "invalid_value", f"{param}: {what}" if param else what, param=param or None)


def utterances(messages: list[ChatMessage]) -> list[Utterance]:
    """The messages of a list as a conversation has them: a system message at most first, then turns, the user's last.

    Messages of one role that follow each other are one. Raises Refused for other lists.
    """
    said: list[Utterance] = []
    for place, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        if said and said[-1].role == role:
            said[-1] = Utterance(role, f"{said[-1].text}\n\n{message.text}")
        elif role == "system" and place:
            raise Refused(400, "invalid_messages", "a system message comes first", param=f"messages.{place}.role")
        else:
            said.append(Utterance(role, message.text))
    if said[-1].role != "user":
        raise Refused(400, "invalid_messages", "the last message isn't the user's", param="messages")
    if said[0].role == "assistant":
        raise Refused(400, "invalid_messages", "the first message is the assistant's", param="messages.0.role")
    return said
