"""CORE and ChatCORE: prompts, which tokens count, centring, errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mccore.errors import DataError
from mccore.eval.chatcore import GUESSES, BenchmarkResult, chatcore_metric
from mccore.eval.core import (
    CoreTask,
    _continuations,
    bundle_digest,
    common_length,
    core_metric,
    evaluate_core,
    evaluate_core_task,
    few_shot_examples,
    read_bundle,
    render,
)
from mccore.eval.statistics import share
from tests.support.core_bundle import ITEMS, write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "eval_bundle")


def task(kind, *, few_shot=1, delimiter=" ", path=Path("x.jsonl")):
    return CoreTask("a task", kind, path, few_shot, delimiter, 0.25)


def test_the_bundle_is_read(bundle):
    tasks = {each.label: each for each in read_bundle(bundle)}
    assert list(tasks) == ["hellaswag", "winograd", "lambada_openai"]
    hellaswag = tasks["hellaswag"]
    assert (hellaswag.kind, hellaswag.few_shot, hellaswag.delimiter, hellaswag.guess) == (
        "multiple_choice",
        2,
        " ",
        0.25,
    )
    assert tasks["lambada_openai"].delimiter == "\nAnswer: "
    assert len(hellaswag.items()) == len(ITEMS["multiple_choice"])
    assert hellaswag.items(3) == hellaswag.items()[:3]
    assert hellaswag.items() != ITEMS["multiple_choice"], "shuffled"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("core.yaml", None, "core.yaml doesn't exist"),
        ("core.yaml", "icl_tasks: 3", "isn't a bundle of CORE"),
        ("core.yaml", "a: [", "isn't a bundle of CORE"),
        ("eval_meta_data.csv", "Eval Task,Random baseline\nother,25\n", "isn't a bundle of CORE: KeyError"),
        ("core.yaml", "[" * 5000, "isn't a bundle of CORE: RecursionError"),
        ("core.yaml", "x" * (2**24 + 1), "core.yaml is larger than 16 MiB"),
        ("eval_meta_data.csv", f"Eval Task,Random baseline\nother,{'2' * 200_000}\n", "isn't a bundle of CORE: Error"),
        ("eval_meta_data.csv", "Eval Task,Random baseline\nother,nan\n", "a guesser can't be right in nan %"),
        ("eval_meta_data.csv", "Eval Task,Random baseline\nother,100\n", "a guesser can't be right in 100 %"),
        ("eval_data/hellaswag.jsonl", "", "holds no question"),
        ("eval_data/hellaswag.jsonl", '{"context": "a", "continuation": "b"}\n', "isn't of the kind multiple_choice"),
    ],
)
def test_what_isnt_a_bundle(bundle, random_gpt, byte_tokenizer, file, content, message):
    (bundle / file).unlink() if content is None else (bundle / file).write_text(content)
    with pytest.raises(DataError, match=message):
        evaluate_core_task(random_gpt(), byte_tokenizer, read_bundle(bundle)[0])


def test_prompts():
    mc = {"query": "The sky is", "choices": ["red", "blue"], "gold": 1}
    assert render(task("multiple_choice"), mc, [{"query": "Grass is", "choices": ["green", "pink"], "gold": 0}]) == [
        "Grass is green\n\nThe sky is red", "Grass is green\n\nThe sky is blue"
    ]  # fmt: skip
    schema = {"context_options": ["The cup", "The box"], "continuation": "was full.", "gold": 0}
    assert render(task("schema"), schema, [schema]) == [
        "The cup was full.\n\nThe cup was full.", "The cup was full.\n\nThe box was full."
    ]  # fmt: skip
    lm = {"context": " Two and two make ", "continuation": "four"}
    shown = "Two and two make\nAnswer: four"
    assert render(task("language_modeling", delimiter="\nAnswer: "), lm, [lm]) == [
        f"{shown}\n\nTwo and two make\nAnswer:",
        f"{shown}\n\n{shown}",
    ]


def test_what_counts_of_a_prompt(byte_tokenizer):
    def counted(kind, *items):
        asked = task(kind, few_shot=0)
        return [bytes(one.tokens).decode() for one in _continuations(asked, items, 0, byte_tokenizer)]

    assert counted("multiple_choice", {"query": "It is", "choices": ["bad", "big"], "gold": 0}) == ["ad", "ig"]
    assert counted("multiple_choice", {"query": "It is", "choices": ["a", "ab"], "gold": 0}) == ["a", "ab"[1:]]
    assert counted("schema", {"context_options": ["He", "She"], "continuation": "ran", "gold": 0}) == ["e ran", "e ran"]
    assert counted("language_modeling", {"context": "Two ", "continuation": "three"}) == [" three"]


def test_the_examples_are_others_and_fixed():
    items = [{"n": n} for n in range(20)]
    chosen = few_shot_examples(items, 4, 10)
    assert chosen == few_shot_examples(items, 4, 10)
    assert {"n": 4} not in chosen
    assert len(few_shot_examples(items[:3], 0, 10)) == 2  # nanochat ends with an error here


def test_common_length():
    assert common_length([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert common_length([[1, 2], [1, 2, 3]]) == 2
    assert common_length([[1], [2]]) == 0


def test_the_batch_size_changes_nothing(bundle, random_gpt, byte_tokenizer):
    model = random_gpt(3, max_seq_len=512)
    tasks = read_bundle(bundle)
    results = [list(evaluate_core(model, byte_tokenizer, tasks, batch_rows=rows)) for rows in (1, 3, 64)]
    assert results[0] == results[1] == results[2]
    assert all(0 <= each.accuracy.accuracy <= 1 for each in results[0])


def test_by_hand(bundle, random_gpt, byte_tokenizer):
    """One question of each kind, scored from the logits of whole prompts."""
    import torch

    model = random_gpt(5, max_seq_len=512)

    def logprobs(prompt: str) -> torch.Tensor:
        ids = torch.tensor([[byte_tokenizer.bos_id, *prompt.encode()]])
        with torch.inference_mode():
            found = model.logits(model.hidden(ids))[0].log_softmax(-1)
        return found[:-1].gather(1, ids[0, 1:, None])[:, 0]

    item = {"query": "The sky is", "choices": ["red and wide", "blue"], "gold": 1}
    path = bundle / "one.jsonl"
    path.write_text(json.dumps(item) + "\n")
    losses = [-logprobs(f"The sky is {choice}")[len("The sky is ") :].mean().item() for choice in item["choices"]]
    found = evaluate_core_task(model, byte_tokenizer, task("multiple_choice", path=path))
    assert found.accuracy.accuracy == float(losses[1] < losses[0])


def test_known_results_arent_computed_again(bundle, random_gpt, byte_tokenizer):
    tasks = read_bundle(bundle)
    first = list(evaluate_core(random_gpt(3, max_seq_len=512), byte_tokenizer, tasks))
    have = {each.label: each for each in first}
    assert list(evaluate_core(None, None, tasks, known=lambda one: have[one.label])) == first  # type: ignore[arg-type]


def test_centring_and_its_error():
    from mccore.eval.core import CoreResult

    results = [
        CoreResult("a", share([True, True, True, False]), 0.25), CoreResult("b", share([True, False]), 0.0)
    ]  # fmt: skip
    mean, error = core_metric(results)
    assert mean == pytest.approx(((0.75 - 0.25) / 0.75 + 0.5) / 2)
    expected = math.sqrt((math.sqrt(0.75 * 0.25 / 4) / 0.75) ** 2 + (math.sqrt(0.25 / 2)) ** 2) / 2
    assert error == pytest.approx(expected)
    assert results[0].to_json()["centred"] == pytest.approx(2 / 3)
    assert core_metric([CoreResult("a", share([True]), 0.25)]) == (1.0, None)


def test_chatcore_needs_all_six():
    results = [BenchmarkResult(name, share([True, False, False, False]), 0) for name in GUESSES]
    mean, error = chatcore_metric(results)  # type: ignore[misc]
    assert mean == pytest.approx((3 * 0.0 + 3 * 0.25) / 6)
    assert error is not None
    assert error > 0
    assert chatcore_metric(results[:-1]) is None


def test_another_bundle_has_another_digest(bundle):
    before = bundle_digest(read_bundle(bundle))
    path = bundle / "eval_data" / "hellaswag.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    assert bundle_digest(read_bundle(bundle)) != before
