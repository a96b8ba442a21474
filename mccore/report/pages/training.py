"""The part of a report on training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mccore.config import TRAINING_STAGES, stage_spec
from mccore.report.pages.markdown import table
from mccore.report.pages.words import number_text, pictures
from mccore.report.shape import Report, Results


def training_lines(data: Report) -> Iterable[str]:
    reached = {
        stage["stage"]: stage for stage in data["stages"] if stage["reached"] or stage["stage"] in data["results"]
    }
    stages = [stage for stage in TRAINING_STAGES if stage in reached]
    if not stages:
        return
    yield "## Training"
    own, whole = data["token_loss"], data["objective_loss"]
    rows = []
    for stage in stages:
        result, last = data["results"].get(stage) or {}, reached[stage]["reached"] or {}
        step, steps = result.get("step", last.get("step")), result.get("steps", last.get("steps"))
        metrics = last.get("metrics", {})
        rows.append(
            (
                stage,
                f"{step:,} of {steps:,}" if step is not None and steps else "",
                number_text(result.get("tokens", last.get("tokens")), ","),
                number_text(result.get("flops", metrics.get("flops_total")), ".3g"),
                number_text(own.get(stage, result.get("loss", metrics.get("loss"))), ".4f"),
                *([number_text(whole.get(stage, own.get(stage)), ".4f")] if whole else []),
                number_text(result.get("val_loss"), ".4f"),
                number_text(result.get("val_bpb"), ".4f"),
                number_text(result.get("tokens_per_second", metrics.get("tokens_per_second")), ",.0f"),
                number_text(result.get("epoch", metrics.get("epoch")), ".2f"),
            )
        )
    yield table(
        (
            "stage",
            "steps",
            "tokens",
            "FLOPs",
            "training loss (nat)",
            *(["whole objective (nat)"] if whole else []),
            "validation loss (nat)",
            "validation bits/byte",
            "tokens/s",
            "epochs",
        ),
        rows,
    )
    if any(stage_spec(stage).rollouts for stage in stages):
        yield "The loss of a stage that learns from rewards is minus its gain, near 0 throughout: its reward says how it went."
    yield "Losses of mid and sft are on conversations, those of base on documents: they don't compare." + (
        " The training loss is that of the language model with the full context, as without MegaContext; the objective has "
        "the variants and the focus beside it."
        if whole
        else ""
    )
    yield from _source_lines(data["results"], stages)
    yield from pictures("training", data.get("plots", ()))


def _source_lines(results: Results, stages: Sequence[str]) -> Iterable[str]:
    """Validation losses of stages on conversations, by source."""
    found = {stage: (results.get(stage) or {}).get("val_by_source") for stage in stages}
    rows = [
        (stage, f"`{source}`", number_text(one["loss"], ".4f"), f"{one['tokens']:,}", f"{one['conversations']:,}")
        for stage, sources in found.items()
        if sources
        for source, one in sources.items()
    ]
    if rows:
        yield "Validation losses by source, of held-out conversations read one by one:"
        yield table(("stage", "source", "loss (nat)", "trained tokens", "conversations"), rows)
