"""The parts of a report on evaluation, and its samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mccore.config.stages import CHAT_STAGES, TEXT_STAGE, evaluations
from mccore.report.pages.markdown import table
from mccore.report.pages.words import accuracy_text, fenced, mean_text, number_text, percent_text, shortened
from mccore.report.shape import Result, Results, SampleEntry


def text_lines(results: Results) -> Iterable[str]:
    """What models of text were found to be."""
    for spec in evaluations(chat=False):
        if result := results.get(spec.name):
            yield f"## {str(spec.evaluates).capitalize()} model"
            yield (
                f"Held-out documents: {result['val_bpb']:.4f} bits per byte, {result['val_loss']:.4f} nat per token, over "
                f"{result['tokens']:,} tokens of {result['bytes']:,} bytes."
            )


def core_lines(results: Results) -> Iterable[str]:
    """CORE of models of text, task by task."""
    for spec in evaluations(chat=False):
        measured = (results.get(spec.name) or {}).get("core")
        if not measured or not measured["tasks"]:
            continue
        yield f"### CORE, {spec.evaluates}"
        yield "Accuracies with their 95 % interval; centred is 0 for guessing, 1 for no mistake. CORE is the mean of the latter."
        rows = [
            (label, accuracy_text(one), number_text(one["centred"], ".4f"), str(one["n"]))
            for label, one in measured["tasks"].items()
        ]
        yield table(
            ("task", "accuracy", "centred", "n"), [*rows, ("**CORE**", "", _centred_text(measured["core"]), "")]
        )


def benchmark_lines(results: Results) -> Iterable[str]:
    """Published benchmarks of chat models, and ChatCORE."""
    found = [(name, result["benchmarks"]) for name, result in _chat_results(results) if result.get("benchmarks")]
    rows: list[tuple[str, ...]] = []
    for name, measured in found:
        rows += [
            (name, task, accuracy_text(one), str(one["n"]), str(one["skipped"] or ""))
            for task, one in measured["tasks"].items()
        ]
        if measured["chatcore"]:
            rows.append((name, "**ChatCORE**", _centred_text(measured["chatcore"]), "", ""))
    if rows:
        yield "### Benchmarks"
        yield "Test questions of published benchmarks. ChatCORE is the mean of its six, each centred by what guessing gives."
        yield table(("model", "task", "right", "n", "too long"), rows)


def _centred_text(found: Result | None) -> str:
    if found is None:
        return "not known: a task is missing"
    return f"{found['value']:.4f}" + (f" ± {found['stderr']:.4f}" if found["stderr"] is not None else "")


def _chat_results(results: Results) -> list[tuple[str, Result]]:
    """Name and evaluation of every chat model that was measured."""
    rows = ((str(spec.evaluates), results.get(spec.name)) for spec in evaluations(chat=True))
    return [(name, result) for name, result in rows if result]


def chat_lines(results: Results) -> Iterable[str]:
    """How chat models answer held-out questions."""
    found = _chat_results(results)
    if not found:
        return
    yield "## Chat model"
    yield (
        "Questions about objects of the standard library, sums and words that were held out of training. Accuracies are "
        "in percent with their 95 % interval (Wilson); z is the distance from chance in standard deviations of a guesser."
    )
    choices = [(name, result["choice"]) for name, result in found if result.get("choice")]
    if choices:
        yield "### Multiple choice"
        for name, choice in choices:
            yield f"**{name}**. " + _how_scored(choice)
            rows = [("all", choice), *sorted(choice["kinds"].items())]
            rows += [
                ("subject and answer share a word", choice["with_overlap"]),
                ("they share none", choice["without_overlap"]),
            ]
            rows += [("answered by letter", choice["letters"])]
            yield table(
                ("questions", "accuracy", "chance", "z", "n"),
                [
                    (
                        kind,
                        accuracy_text(one),
                        percent_text(one["chance"]),
                        number_text(one["z"], "+.1f"),
                        str(one["n"]),
                    )
                    for kind, one in rows
                ],
            )
    answers = [(name, result["generated"]) for name, result in found if result.get("generated")]
    if answers:
        yield "### Free answers"
        yield "Greedy, with the calculator. Right: the reply holds the answer; the other scores are means in percent."
        rows = []
        for name, tasks in answers:
            for task, one in tasks.items():
                others = ", ".join(
                    f"{score} {mean_text(value)}" for score, value in one["scores"].items() if score != "correct"
                )
                rows.append((name, f"**{task}**", accuracy_text(one), others, str(one["n"]), str(one["skipped"] or "")))
                rows += [
                    (name, f"{task}: {kind}", accuracy_text(part), "", str(part["n"]), "")
                    for kind, part in one["kinds"].items()
                ]
        yield table(("model", "task", "right", "other scores", "n", "too long"), rows)


def _how_scored(choice: Result) -> str:
    rules = ", ".join(f"{rule} {percent_text(one['accuracy'])}" for rule, one in choice["rules"].items())
    text = f"Ranked by the likelihood of the whole reply, rule `{choice['rule']}`"
    if chosen := choice.get("chosen_on"):
        on_val = ", ".join(f"{rule} {percent_text(value)}" for rule, value in chosen["rules"].items())
        text += f", the best on {chosen['n']} validation questions ({on_val})"
    text += f". For comparison, every rule on the questions reported: {rules}."
    if choice.get("cropped"):
        text += f" {choice['cropped']} questions were cropped to the model's context."
    return text


def sample_lines(results: Results, samples: Mapping[str, Sequence[SampleEntry]]) -> Iterable[str]:
    """The last samples of the models."""
    measured = [results.get(spec.name) or {} for spec in evaluations(chat=False)]
    completions = next((found["samples"] for found in measured if found.get("samples")), None)
    completions = completions or samples.get(TEXT_STAGE) or []
    name, chat = next(reversed(_chat_results(results)), ("", {}))
    early = [(stage, sample) for stage in CHAT_STAGES for sample in samples.get(stage, []) if not chat]
    if not completions and not chat and not early:
        return
    yield "## Samples"
    if completions:
        yield "### The base model continues"
        for sample in completions:
            yield fenced(f"{sample['prompt']}⟶{sample['text']}")
    if early:
        yield "### Answers during training"
        for stage, sample in early:
            yield f"**{stage}**, validation question:"
            yield fenced(f"{shortened(sample['prompt'])}\n⟶ {shortened(sample['text'])}")
    if chat.get("choice"):
        yield f"### Multiple choice, {name}"
        yield table(
            ("question", "chosen", "right"),
            [
                (
                    shortened(one["question"], 200),
                    ("✓ " if one["chosen"] == one["right"] else "✗ ") + one["chosen"],
                    one["right"],
                )
                for one in chat["choice"]["examples"]
            ],
        )
    for task, found in (chat.get("generated") or {}).items():
        if found["examples"]:
            yield f"### {task}, {name}"
            for one in found["examples"]:
                mark = "✓" if one["scores"].get("correct", 0) >= 1 else "✗"
                said = shortened(one["reply"]) or "(nothing)"
                yield fenced(
                    f"question: {shortened(one['question'])}\nmodel {mark}:  {said}\nright:    {shortened(one['right'])}"
                )
