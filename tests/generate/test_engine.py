from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import CheckpointError
from mccore.generate.answer import ContextOverflow, Prefix, Request, batch
from mccore.generate.engine import Engine
from mccore.generate.sampling import Sampling, choose
from mccore.model import GPT


def prompts_of(lengths: Sequence[int], bos: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [[bos, *torch.randint(0, 256, (length,), generator=generator).tolist()] for length in lengths]


def greedy_uncached(model: GPT, ids: list[int], count: int, stop: set[int]) -> list[int]:
    """Greedy decoding by its definition: the whole sequence is read anew for every token."""
    added: list[int] = []
    while len(added) < count:
        with torch.no_grad():
            token = int(model(torch.tensor([ids + added]))[0, -1].argmax())
        if token in stop:
            break
        added.append(token)
    return added


@pytest.mark.parametrize("changes", [{}, {"smear": True, "smear_init": 0.5, "window_pattern": "SL", "window_short": 8}])
def test_cached_and_batched_greedy_equal_uncached(
    changes: dict[str, object], tokenizer: Tokenizer, random_gpt: Callable[..., GPT]
) -> None:
    model = random_gpt(1, depth=3, **changes)
    engine = Engine(model, tokenizer)
    prompts = prompts_of((3, 17, 0, 40, 9), tokenizer.bos_id)
    stop = {*range(0, 256, 8), tokenizer.bos_id}  # frequent enough that rows end at different steps
    expected = [greedy_uncached(model, prompt, 30, stop) for prompt in prompts]
    assert len({len(tokens) for tokens in expected}) >= 3
    assert [
        list(engine.stream(Request(prompt, Sampling(max_new_tokens=30), stop=stop))) for prompt in prompts
    ] == expected
    assert [row.tokens for row in engine.run(batch(prompts, Sampling(max_new_tokens=30), stop=stop))] == expected


def test_long_prompts_are_read_in_chunks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of((50, 31), engine.tokenizer.bos_id)
    whole = engine.run(batch(prompts, Sampling(max_new_tokens=10)))
    monkeypatch.setattr("mccore.generate.readers.PREFILL_CHUNK", 7)
    assert engine.run(batch(prompts, Sampling(max_new_tokens=10))) == whole


def test_a_row_draws_the_same_whatever_is_beside_it(engine: Engine) -> None:
    prompts = prompts_of((5, 12, 3), engine.tokenizer.bos_id)
    together = engine.run(batch(prompts, Sampling(max_new_tokens=25, temperature=1.0, top_k=40, seed=3)))
    alone = list(engine.stream(Request(prompts[0], Sampling(max_new_tokens=25, temperature=1.0, top_k=40, seed=3))))
    assert together[0].tokens == alone
    assert engine.run(batch(prompts, Sampling(max_new_tokens=25, temperature=1.0, top_k=40, seed=3))) == together
    assert engine.run(batch(prompts, Sampling(max_new_tokens=25, temperature=1.0, top_k=40, seed=4))) != together


def test_rows_of_one_prompt_draw_independently_from_the_first_token_on(engine: Engine) -> None:
    prompt = prompts_of((5,), engine.tokenizer.bos_id)[0]
    rows = engine.run(batch([prompt] * 12, Sampling(max_new_tokens=1, temperature=1.5)))
    assert len({row.tokens[0] for row in rows if row.tokens}) > 3


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    draws = [(i + 0.5) / 1000 for i in range(1000)]
    for temperature, top_k in ((1.0, 0), (0.5, 0), (2.0, 2)):
        counts = Counter(choose(logits.expand(1000, -1), draws, temperature, top_k))
        kept = (
            logits[0]
            if not top_k
            else torch.where(logits[0] >= logits[0].topk(top_k).values[-1], logits[0], -torch.inf)
        )
        expected = (kept / temperature).softmax(-1)
        found = torch.tensor([counts[i] / 1000 for i in range(4)])
        assert torch.allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"), [(0, 0.5, {0}), (0, 0.6, {0, 2}), (2, 0.9, {0, 2}), (0, 1.0, {0, 1, 2, 3})]
)
def test_top_p_takes_the_fewest_that_come_to_it(top_k: int, top_p: float, expected: set[int]) -> None:
    logits = torch.tensor([0.5, 0.1, 0.3, 0.1]).log()
    draws = [i / 1000 for i in range(1000)]
    assert set(choose(logits.expand(1000, -1), draws, 1.0, top_k, top_p)) == expected
    with pytest.raises(ValueError, match="top_p"):
        Sampling(top_p=0.0)


def test_logprobs_are_those_of_the_whole_sequence_read_at_once(engine: Engine) -> None:
    (prompt,) = prompts_of((5,), engine.tokenizer.bos_id)
    request = Request(prompt, Sampling(temperature=1.0, max_new_tokens=6, seed=3), stop=(), logprobs=2)
    other = Request(prompt, Sampling(max_new_tokens=6), stop=())
    done, silent = engine.run([request, other])
    with torch.no_grad():
        whole = engine.model(torch.tensor([prompt + done.tokens]))[0].float().log_softmax(-1)
    for place, (token, told) in enumerate(zip(done.tokens, done.logprobs, strict=True), start=len(prompt) - 1):
        assert told.logprob == pytest.approx(float(whole[place, token]), abs=1e-4)
        assert [each for each, _ in told.likeliest] == whole[place].topk(2).indices.tolist()
    assert silent.logprobs == []


def test_sampling_never_takes_an_impossible_token() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    assert choose(logits.expand(2, -1), [0.0, 1 - 2**-53], 1.0, 0) == [1, 2]


def test_prefix_is_reused_and_changes_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = prompts_of((20,), engine.tokenizer.bos_id)[0]
    prefix = Prefix()
    said = list(engine.stream(Request(prompt, Sampling(max_new_tokens=8), prefix=prefix)))
    longer = [*prompt, *said, 65, 66, 67]
    fresh = list(engine.stream(Request(longer, Sampling(max_new_tokens=8))))
    read: list[int] = []
    hidden = engine.model.hidden

    def counting(tokens: Tensor, **inputs: object) -> Tensor:
        read.append(tokens.size(1))
        return hidden(tokens, **inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.model, "hidden", counting)
    assert list(engine.stream(Request(longer, Sampling(max_new_tokens=8), prefix=prefix))) == fresh
    assert read[0] == 4  # the last token of the answer was never read, and three are new
    assert list(engine.stream(Request(prompt[:10], Sampling(max_new_tokens=8), prefix=prefix))) == list(
        engine.stream(Request(prompt[:10], Sampling(max_new_tokens=8)))
    )


def scripted(engine: Engine, script: list[int], monkeypatch: pytest.MonkeyPatch) -> Engine:
    remaining = list(script)
    monkeypatch.setattr("mccore.generate.scheduler.choose", lambda logits, draws, *_: [remaining.pop(0) for _ in draws])
    return engine


def test_the_tool_writes_its_result_into_the_reply(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    t = engine.tokenizer
    start, end = t.special("python_start"), t.special("python_end")
    ignored = [0, 0, 0, 0]  # what the model would have said in place of the four tokens that the tool writes
    script = [start, *t.encode("12*3"), end, *ignored, *t.encode("!"), t.special("assistant_end")]
    generation = scripted(engine, script, monkeypatch).stream(Request([t.bos_id, 65], Sampling(max_new_tokens=40)))
    tokens = list(generation)
    assert t.decode(tokens) == "<|python_start|>12*3<|python_end|><|output_start|>36<|output_end|>!"
    assert generation.answer.forced == [False] * 6 + [True] * 4 + [False]
    assert generation.answer.finish == "stop"


def test_without_a_result_the_model_goes_on(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    t = engine.tokenizer
    script = [
        t.special("python_start"),
        *t.encode("import os"),
        t.special("python_end"),
        66,
        t.special("assistant_end"),
    ]
    tokens = list(scripted(engine, script, monkeypatch).stream(Request([t.bos_id], Sampling(max_new_tokens=40))))
    assert tokens == script[:-1]


def test_ends_are_told_apart(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = [engine.tokenizer.bos_id, *[65] * 99]
    never: frozenset[int] = frozenset()
    assert engine.run(batch([prompt], Sampling(max_new_tokens=5), stop=never))[0].finish == "length"
    full = engine.run(batch([prompt], Sampling(max_new_tokens=500), stop=never))[0]
    assert (full.finish, len(full.tokens)) == ("context", 28)
    assert engine.run(batch([prompt], Sampling(max_new_tokens=0)))[0].tokens == []
    assert engine.run(batch([], Sampling())) == []


def test_prompts_that_leave_no_room_are_refused(engine: Engine) -> None:
    with pytest.raises(ContextOverflow, match="128 tokens leaves no room for an answer in a context of 128"):
        engine.stream(Request([65] * 128, Sampling()))
    with pytest.raises(ValueError, match="at least one token"):
        engine.stream(Request([], Sampling()))
    with pytest.raises(ValueError, match="temperature"):
        Sampling(temperature=-1)


def test_a_diverged_model_is_an_error(tokenizer: Tokenizer, random_gpt: Callable[..., GPT]) -> None:
    model = random_gpt()
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="not a number"):
        next(Engine(model, tokenizer).stream(Request([65])))
