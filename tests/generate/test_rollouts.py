"""Replies that are drawn: what the model wrote, what the tool wrote, and how a reply ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.generate.answer import ContextOverflow
from mccore.generate.engine import Engine
from mccore.generate.rollouts import draw_rollouts
from mccore.generate.sampling import Sampling
from mccore.model.gpt import GPT

DRAWN = Sampling(temperature=1.0, max_new_tokens=12, seed=3)


@pytest.fixture
def scripted(random_gpt: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], GPT]:
    """A model that says what it is told to, token by token, to any prompt of one token."""

    def make(said: list[int]) -> GPT:
        gpt = random_gpt(max_seq_len=64)

        def hidden(tokens: torch.Tensor, *, cache, **_: object) -> torch.Tensor:
            cache.reserve(*tokens.shape)
            places = torch.arange(cache.length, cache.length + tokens.size(1))
            cache.advance(tokens.size(1))
            return places[None, :, None].expand(tokens.size(0), -1, 1).float()

        def logits(states: torch.Tensor) -> torch.Tensor:
            out = torch.full((*states.shape[:-1], gpt.config.vocab_ids), -50.0)
            ids = torch.tensor([said[min(int(place), len(said) - 1)] for place in states.flatten().tolist()])
            return out.scatter(-1, ids.view(*states.shape[:-1], 1), 50.0)

        monkeypatch.setattr(gpt, "hidden", hidden)
        monkeypatch.setattr(gpt, "logits", logits)
        return gpt

    return make


def test_a_tool_call_is_the_models_and_its_result_isnt(scripted, byte_tokenizer: Tokenizer) -> None:
    call = [byte_tokenizer.special("python_start"), *byte_tokenizer.encode("6*7"), byte_tokenizer.special("python_end")]
    result = [
        byte_tokenizer.special("output_start"),
        *byte_tokenizer.encode("42"),
        byte_tokenizer.special("output_end"),
    ]
    end = byte_tokenizer.special("assistant_end")
    # What it would say in the places of the tool's tokens isn't drawn.
    gpt = scripted([*call, 0, 0, 0, 0, *byte_tokenizer.encode("42"), end])
    for rollout in draw_rollouts(Engine(gpt, byte_tokenizer), [1], Sampling(1.0, 0, 20), 3, 0):
        assert list(rollout.tokens) == [*call, *result, *byte_tokenizer.encode("42"), end]
        assert list(rollout.wrote) == [True] * len(call) + [False] * len(result) + [True] * 3
        assert rollout.ended
        assert list(rollout.said) == list(rollout.tokens[:-1])


def test_a_reply_that_is_cut_off_has_no_end(scripted, byte_tokenizer: Tokenizer) -> None:
    (rollout,) = draw_rollouts(Engine(scripted([65]), byte_tokenizer), [1], DRAWN, 1, 0)
    assert rollout.tokens == (65,) * 12
    assert not rollout.ended
    assert rollout.said == rollout.tokens


def test_a_reply_depends_on_its_stream_alone(random_gpt: Callable[..., GPT], byte_tokenizer: Tokenizer) -> None:
    engine = Engine(random_gpt(), byte_tokenizer)
    many = draw_rollouts(engine, [1, 2, 3], DRAWN, 6, 10)
    assert len({rollout.tokens for rollout in many}) > 1
    assert [rollout.tokens for rollout in draw_rollouts(engine, [1, 2, 3], DRAWN, 3, 10)] == [
        rollout.tokens for rollout in many[:3]
    ]
    assert [rollout.tokens for rollout in draw_rollouts(engine, [1, 2, 3], DRAWN, 2, 12)] == [
        rollout.tokens for rollout in many[2:4]
    ]


def test_a_prompt_without_room_is_refused(random_gpt: Callable[..., GPT], byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(ContextOverflow, match="no room"):
        draw_rollouts(Engine(random_gpt(), byte_tokenizer), [1] * 128, DRAWN, 2, 0)
