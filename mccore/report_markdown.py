"""The wording of a report: Markdown from the data of `report.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mccore.markdown import table
from mccore.report_megacontext_markdown import render_megacontext, render_violations
from mccore.units import duration, size

Data = Mapping[str, Any]
_CUT = 600  # characters of a question or an answer that are shown


def render_report(data: Data) -> str:
    """The whole report."""
    parts = [
        *_summary(data),
        *_missing(data),
        *render_violations(data),
        *_stages(data),
        *_environment(data),
        *_configuration(data),
        *_model(data),
        *_tokenizer(data),
        *_training(data),
        *_base_eval(data),
        *_chat_eval(data),
        *_samples(data),
        *render_megacontext(data),
    ]
    return "\n\n".join(parts) + "\n"


def render_summary(data: Data) -> str:
    """The first page: outcome, main figures, stages, what is missing."""
    return "\n\n".join([*_summary(data), *_missing(data), *_stages(data)]) + "\n"


# --- sections ---------------------------------------------------------------------------------------------------------


def _summary(data: Data) -> Iterable[str]:
    yield f"# Report of {data['run']}"
    outcome = data["outcome"]
    recipe = f"Recipe `{data['recipe']}`. " if data["recipe"] else ""
    line = f"{recipe}Outcome: **{outcome['state']}**"
    if outcome["stage"]:
        line += f" in {outcome['stage']}"
    if outcome["message"]:
        line += f" ({outcome['message']})"
    yield f"{line}. Written {data['written']}."
    if outcome["state"] != "finished":
        yield "**This run was cut short or goes on: what follows covers only what it reached.**"
    results, model = data["results"], data["model"]
    rows: list[tuple[str, str]] = []
    if model["parameters"]:
        rows.append(("parameters", f"{model['parameters']['total']:,}"))
    tokens = [results[stage]["tokens"] for stage in ("base", "mid", "sft") if results.get(stage)]
    if tokens:
        flops = sum(results[stage]["flops"] for stage in ("base", "mid", "sft") if results.get(stage))
        rows.append(("training tokens, FLOPs", f"{sum(tokens):,}, {flops:.3g}"))
    if base := results.get("base_eval"):
        rows.append(("base: bits per byte", f"{base['val_bpb']:.4f} over {base['bytes']:,} bytes"))
    for stage, name in (("chat_eval_mid", "mid"), ("chat_eval_sft", "sft")):
        result = results.get(stage) or {}
        if choice := result.get("choice"):
            rows.append(
                (
                    f"{name}: held-out multiple choice",
                    f"{_accuracy(choice)}, chance {_percent(choice['chance'])}, n = {choice['n']}",
                )
            )
        for task, found in (result.get("generated") or {}).items():
            rows.append((f"{name}: {task}, free answers", f"{_accuracy(found)}, n = {found['n']}"))
    rows.append(("wall clock", _duration(data["seconds"])))
    yield table(("figure", "value"), rows)


def _missing(data: Data) -> Iterable[str]:
    if data["missing"]:
        yield "## Missing"
        yield table(("what", "why"), [(entry["what"], entry["why"]) for entry in data["missing"]])
    if data["alerts"]:
        yield "## Alerts"
        yield table(
            ("time", "metric", "value", "advice"),
            [(entry["time"], entry.get("metric"), entry.get("value"), entry.get("advice")) for entry in data["alerts"]],
        )


def _stages(data: Data) -> Iterable[str]:
    yield "## Stages"
    rows = []
    for stage in data["stages"]:
        outcome = stage["outcome"] + (f": {stage['message']}" if stage["message"] else "")
        if stage["stage"] == "report" and stage["outcome"] in ("running", "not run"):
            outcome = "this report"
        rows.append((stage["stage"], outcome, str(stage["attempts"] or ""), _duration(stage["seconds"])))
    rows.append(("in total", "", "", _duration(data["seconds"])))
    yield table(("stage", "outcome", "starts", "wall clock"), rows)


def _environment(data: Data) -> Iterable[str]:
    found = data["environment"]
    yield "## Environment"
    if not found["during_run"]:
        yield "The machine this report was written on, after the run; the run itself may have been elsewhere."
    gpus = [f"{name}, {size(memory)}" for name, memory in zip(found["gpus"], found["gpu_memory_bytes"], strict=True)]
    yield table(
        ("what", "value"),
        [
            ("mccore, torch, Python", f"{found['mccore']}, {found['torch']}, {found['python']}"),
            ("commit of mccore", found["git_commit"] or "installed package, no commit"),
            ("system", found["system"]),
            ("CPU", f"{found['cpu']}, {found['cores']} cores usable"),
            ("memory", "unknown" if found["memory_bytes"] is None else size(found["memory_bytes"])),
            ("GPU", "; ".join(gpus) or "none"),
        ],
    )


def _configuration(data: Data) -> Iterable[str]:
    yield "## Configuration"
    changed = data["configuration"]
    if not changed:
        yield "All defaults."
        return
    yield "What differs from the defaults; `run.json` has everything. A default of 0 often means: derived."
    yield table(
        ("setting", "value", "default"),
        [(f"`{path}`", _code(entry["value"]), _code(entry["default"])) for path, entry in changed.items()],
    )


def _model(data: Data) -> Iterable[str]:
    model = data["model"]
    yield "## Model"
    yield (
        f"{model['depth']} layers of width {model['n_embd']}, {model['n_head']} heads ({model['n_kv_head']} for keys and "
        f"values), sequences of {model['max_seq_len']} tokens, {model['vocab_size']:,} rows of vocabulary."
    )
    if parameters := model["parameters"]:
        rows = [(name.replace("_", " "), f"{count:,}") for name, count in parameters.items()]
        yield table(("parameters", "count"), [*rows, ("FLOPs per training token", f"{model['flops_per_token']:,}")])


def _tokenizer(data: Data) -> Iterable[str]:
    trained, measured = data["results"].get("tokenizer"), data["results"].get("tokenizer_eval")
    if not trained and not measured:
        return
    yield "## Tokenizer"
    if trained:
        yield f"{trained['vocab_size']:,} ids, trained in {_duration(trained.get('seconds'))}."
    if measured:
        yield tokenizer_table(measured)
        if "tokenizer.png" in data.get("plots", ()):
            yield "![Bytes per token by kind of text](tokenizer.png)"


def tokenizer_table(measured: Mapping[str, Any]) -> str:
    """What `evaluate_tokenizer` measured: a row per text, a column per vocabulary it was compared with."""
    others = measured.get("others", {})
    head = ("text", "bytes", "tokens", "bytes per token", "decodes back")
    rows = [
        (
            name,
            f"{text['bytes']:,}",
            f"{text['tokens']:,}",
            f"{text['bytes_per_token']:.2f}",
            "yes" if text["round_trip"] else "**no**",
            *(f"{other['bytes_per_token'][name]:.2f}" for other in others.values()),
        )
        for name, text in measured["texts"].items()
    ]
    return table((*head, *(f"{name} ({other['vocab_size']:,} ids)" for name, other in others.items())), rows)


def _training(data: Data) -> Iterable[str]:
    reached = {
        stage["stage"]: stage for stage in data["stages"] if stage["reached"] or stage["stage"] in data["results"]
    }
    stages = [stage for stage in ("base", "mid", "sft") if stage in reached]
    if not stages:
        return
    yield "## Training"
    parts = data.get("token_loss") or {}  # the language model's own loss, where the objective has others
    rows = []
    for stage in stages:
        result, last = data["results"].get(stage) or {}, reached[stage]["reached"] or {}
        step, steps = result.get("step", last.get("step")), result.get("steps", last.get("steps"))
        metrics = last.get("metrics", {})
        rows.append(
            (
                stage,
                f"{step:,} of {steps:,}" if step is not None and steps else "",
                _number(result.get("tokens", last.get("tokens")), ","),
                _number(result.get("flops", metrics.get("flops_total")), ".3g"),
                _number(parts.get(stage, result.get("loss", metrics.get("loss"))), ".4f"),
                *([_number(result.get("loss", metrics.get("loss")), ".4f")] if parts else []),
                _number(result.get("val_loss"), ".4f"),
                _number(result.get("val_bpb"), ".4f"),
                _number(result.get("tokens_per_second", metrics.get("tokens_per_second")), ",.0f"),
                _number(result.get("epoch", metrics.get("epoch")), ".2f"),
            )
        )
    yield table(
        (
            "stage",
            "steps",
            "tokens",
            "FLOPs",
            "training loss (nat)",
            *(["whole objective (nat)"] if parts else []),
            "validation loss (nat)",
            "validation bits/byte",
            "tokens/s",
            "epochs",
        ),
        rows,
    )
    yield "Losses of mid and sft are on conversations, those of base on documents: they don't compare." + (
        " The training loss is that of the language model with the full context, as without MegaContext; the objective has "
        "the variants and the focus beside it."
        if parts
        else ""
    )
    for name, alt in (
        ("loss.png", "Loss against training tokens"),
        ("learning_rate.png", "Learning-rate multiplier against training tokens"),
        ("throughput.png", "Tokens per second against training tokens"),
    ):
        if name in data.get("plots", ()):
            yield f"![{alt}]({name})"


def _base_eval(data: Data) -> Iterable[str]:
    result = data["results"].get("base_eval")
    if not result:
        return
    yield "## Base model"
    yield (
        f"Held-out documents: {result['val_bpb']:.4f} bits per byte, {result['val_loss']:.4f} nat per token, over "
        f"{result['tokens']:,} tokens of {result['bytes']:,} bytes."
    )


def _chat_eval(data: Data) -> Iterable[str]:
    found = [(name, data["results"].get(f"chat_eval_{name}")) for name in ("mid", "sft")]
    found = [(name, result) for name, result in found if result]
    if not found:
        return
    yield "## Chat model"
    yield (
        "Questions about objects of the standard library, sums and words that were held out of training. Accuracies are "
        "in percent with their standard error; z is the distance from chance in standard deviations of a guesser."
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
                    (kind, _accuracy(one), _percent(one["chance"]), _number(one["z"], "+.1f"), str(one["n"]))
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
                    f"{score} {_mean(value)}" for score, value in one["scores"].items() if score != "correct"
                )
                rows.append((name, f"**{task}**", _accuracy(one), others, str(one["n"]), str(one["skipped"] or "")))
                rows += [
                    (name, f"{task}: {kind}", _accuracy(part), "", str(part["n"]), "")
                    for kind, part in one["kinds"].items()
                ]
        yield table(("model", "task", "right", "other scores", "n", "too long"), rows)


def _how_scored(choice: Data) -> str:
    rules = ", ".join(f"{rule} {_percent(one['accuracy'])}" for rule, one in choice["rules"].items())
    text = f"Ranked by the likelihood of the whole reply, rule `{choice['rule']}`"
    if chosen := choice.get("chosen_on"):
        on_val = ", ".join(f"{rule} {_percent(value)}" for rule, value in chosen["rules"].items())
        text += f", the best on {chosen['n']} validation questions ({on_val})"
    text += f". For comparison, every rule on the questions reported: {rules}."
    if choice.get("cropped"):
        text += f" {choice['cropped']} questions were cropped to the model's context."
    return text


def _samples(data: Data) -> Iterable[str]:
    base = data["results"].get("base_eval") or {}
    completions = base.get("samples") or data["samples"].get("base") or []
    name = next((name for name in ("sft", "mid") if data["results"].get(f"chat_eval_{name}")), "")
    chat: Data = data["results"][f"chat_eval_{name}"] if name else {}
    early = [(stage, sample) for stage in ("mid", "sft") for sample in data["samples"].get(stage, []) if not chat]
    if not completions and not chat and not early:
        return
    yield "## Samples"
    if completions:
        yield "### The base model continues"
        for sample in completions:
            yield _fenced(f"{sample['prompt']}⟶{sample['text']}")
    if early:
        yield "### Answers during training"
        for stage, sample in early:
            yield f"**{stage}**, validation question:"
            yield _fenced(f"{_cut(sample['prompt'])}\n⟶ {_cut(sample['text'])}")
    if chat.get("choice"):
        yield f"### Multiple choice, {name}"
        yield table(
            ("question", "chosen", "right"),
            [
                (
                    _cut(one["question"], 200),
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
                said = _cut(one["reply"]) or "(nothing)"
                yield _fenced(
                    f"question: {_cut(one['question'])}\nmodel {mark}:  {said}\nright:    {_cut(one['right'])}"
                )


# --- words and numbers ------------------------------------------------------------------------------------------------


def _code(value: object) -> str:
    return "" if value is None else f"`{value}`"


def _fenced(text: str) -> str:
    """Text as it is, in a fence longer than any it holds."""
    text = "".join(char if char in "\n\t" or char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def _cut(text: str, limit: int = _CUT) -> str:
    """The end of a long text is what a reply answers to: the middle is left out."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 3]} […] {text[-(limit - limit // 3) :]}"


def _accuracy(one: Data) -> str:
    if one["accuracy"] is None:
        return "no questions"
    return f"{100 * one['accuracy']:.1f} ± {100 * one['stderr']:.1f} %"


def _mean(value: Data) -> str:
    """A mean score, with its standard error where the sample is large enough to have one."""
    if value["mean"] is None or value["stderr"] is None:
        return _percent(value["mean"])
    return f"{100 * value['mean']:.1f} ± {100 * value['stderr']:.1f} %"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)
