"""The part of a report on the tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mccore.config.stages import stage_of_work
from mccore.report.pages.markdown import table
from mccore.report.pages.words import duration_text
from mccore.report.shape import Report


def tokenizer_lines(data: Report) -> Iterable[str]:
    trained = data["results"].get(stage_of_work("prepare.train_tokenizer"))
    measured = data["results"].get(stage_of_work("prepare.measure_tokenizer"))
    if not trained and not measured:
        return
    yield "## Tokenizer"
    if trained:
        if source := trained.get("source"):
            yield f"{trained['vocab_size']:,} ids, taken from `{source}`."
        else:
            yield f"{trained['vocab_size']:,} ids, trained in {duration_text(trained.get('seconds'))}."
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
