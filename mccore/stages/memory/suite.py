"""The suites of `mccore eval context`: one run measured on all that a memory is for, at a length that suits the time there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mccore.errors import DataError
from mccore.stages.memory.histories import (
    RECALL_K,
    Compared,
    FocusChoices,
    HistoryChoices,
    Telling,
    focused_sessions,
    held_out,
    measure_far_behind,
    open_base,
)

if TYPE_CHECKING:
    from mccore.eval.context.probes.probe import HistoryProbe
    from mccore.eval.context.probes.readers import SessionReader
    from mccore.runtime.open import OpenModel
    from mccore.runtime.sessions import Sessions


@dataclass(frozen=True)
class SuitePlan:
    """How much is measured.

    sizes: tokens of the histories that questions are asked in. depths: at how many places of a history, with `repeats`
    questions of each kind at each. histories, rows: which ends of documents are predicted, and how many. names: identifiers that
    are completed, behind so many tokens. costs: lengths of histories whose cost is measured, over so many generated tokens.
    """

    sizes: tuple[int, ...]
    depths: int
    repeats: int
    histories: HistoryChoices
    rows: int | None
    names: tuple[int, int]
    costs: tuple[int, ...]
    cost_tokens: int


PLANS = {
    "short": SuitePlan(
        (4096, 16_384),
        10,
        1,
        HistoryChoices(3000, per_document=2, also=("oracle",), fit_rows=24),
        24,
        (16, 4096),
        (8192, 65_536),
        128,
    ),
    "full": SuitePlan(
        (4096, 16_384, 65_536, 262_144, 1_048_576),
        10,
        3,
        HistoryChoices(6000, also=("oracle",)),
        None,
        (100, 16_384),
        (8192, 65_536, 262_144, 1_048_576),
        512,
    ),
}


def measure_suite(
    compared: Compared, name: str, plan: SuitePlan, focus: FocusChoices, telling: Telling
) -> dict[str, Any]:
    """All of a suite on a run's base model, as `results/context_suite.json` keeps it. What the run's corpus has no text for is
    named under `missing`. Raises UsageError, CheckpointError for a run without MegaContext or without a base model."""
    opened = open_base(compared.run)
    sessions = focused_sessions(opened, focus, telling)
    reader = _reader(opened, sessions)
    texts = held_out(opened)[1]
    found: dict[str, Any] = {
        "suite": name,
        **opened.source,
        "twin": compared.twin,
        "entries": sessions.model.options.wc_length,
        "lookup": sessions.model.mixer is not None,
        "missing": [],
        "seconds": {},
    }
    quiet = replace(telling, warn=lambda text: None)  # what is to be said of the run has been said
    parts: dict[str, Callable[[], Any]] = {
        "histories": lambda: _histories(compared, plan, focus, quiet),
        "recall": lambda: _recall(opened, reader, texts, plan, telling),
        "identifiers": lambda: _identifiers(opened, reader, texts, plan, telling),
        "costs": lambda: _costs(opened, sessions, plan, telling),
    }
    for part, measure in parts.items():
        began = time.perf_counter()
        try:
            found[part] = measure()
        except DataError as error:
            found[part] = None
            found["missing"].append({"what": part, "why": error.message})
        found["seconds"][part] = round(time.perf_counter() - began, 1)
    return found


def _reader(opened: OpenModel, sessions: Sessions) -> SessionReader:
    from mccore.eval.context.probes.readers import SessionReader

    trained = opened.config.megacontext.baseline_tokens or opened.config.model.max_seq_len
    return SessionReader(sessions.model, lambda: sessions.new().tree, trained)


def _histories(compared: Compared, plan: SuitePlan, focus: FocusChoices, telling: Telling) -> dict[str, Any]:
    from mccore.eval.context.catalogue import LONG_HISTORY
    from mccore.eval.context.summary import summarize_comparison

    about, reports = measure_far_behind([compared], plan.rows, plan.histories, focus, telling)
    return {**about, **summarize_comparison(reports, LONG_HISTORY, RECALL_K)}


def _recall(
    opened: OpenModel, reader: SessionReader, texts: Sequence[str], plan: SuitePlan, telling: Telling
) -> dict[str, Any]:
    import numpy as np

    from mccore.eval.context.probes.kinds import KINDS, depths, draw_probes
    from mccore.eval.context.probes.tally import ask, tally

    tokenizer = opened.tokenizer
    text = np.concatenate([tokenizer.encode_to_array(each) for each in _enough(texts, max(plan.sizes))])
    total = len(plan.sizes) * len(KINDS) * plan.depths * plan.repeats

    def probes() -> Iterator[HistoryProbe]:
        for seed in range(plan.repeats):
            yield from draw_probes(tokenizer.encode, text, plan.sizes, depths(plan.depths), seed)

    outcomes = ask(reader, probes(), lambda done: telling.show(f"{done} of {total} questions"))
    return {
        "by_size": tally(outcomes, "kind", "variant", "size"),
        "by_depth": tally(outcomes, "kind", "variant", "size", "depth"),
    }


def _enough(texts: Sequence[str], tokens: int) -> Iterator[str]:
    """The first texts that have so many tokens: of those there are one a character at most. All of them where they haven't."""
    held = 0
    for text in texts:
        yield text
        held += len(text)
        if held > 4 * tokens:
            return
    if not held:
        raise DataError("the corpus has no held-out document that no lookup is fitted to")


def _identifiers(
    opened: OpenModel, reader: SessionReader, texts: Sequence[str], plan: SuitePlan, telling: Telling
) -> list[dict[str, Any]]:
    from mccore.eval.context.probes.identifiers import NameTask, identifier_probes
    from mccore.eval.context.probes.tally import ask, tally

    count, size = plan.names
    options = reader.model.options
    task = NameTask(
        opened.tokenizer.encode, opened.tokenizer.decode, size, options.wc_length - options.refocus_interval
    )
    probes = identifier_probes(texts, task, count)
    outcomes = ask(reader, probes, lambda done: telling.show(f"{done} of {count} names"))
    if not outcomes:
        raise DataError(
            f"no held-out text has a name that is told in another file, among the {size:,} tokens before it"
        )
    return tally(outcomes, "kind", "size")


def _costs(opened: OpenModel, sessions: Sessions, plan: SuitePlan, telling: Telling) -> dict[str, Any]:
    from mccore.contexts.cost import measure_context, read_text
    from mccore.host import paths

    corpus = opened.run.config.data.corpus
    text = read_text(opened.tokenizer, corpus, (), max(plan.costs), paths.cache_dir())
    found = measure_context(sessions, text, plan.costs, tokens=plan.cost_tokens, on_progress=telling.show)
    return asdict(found)
