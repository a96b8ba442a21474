"""What the Working Contexts of trained runs are worth far behind in long documents: which models, which documents, which rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mccore.config.stages import TEXT_STAGE
from mccore.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mccore.eval.context.long_history import LongHistoryReport
    from mccore.runs.rundir import RunDir
    from mccore.runtime.open import OpenModel
    from mccore.runtime.sessions import Sessions

FIT_ROWS = 8  # of a document, for what conditions that look up are fitted to
RECALL_K = (1, 2, 8)  # most useful candidates, of which a choice is asked how many it has found
KIND_TOKENS = 256  # newest tokens of a row that say what kind of text it is


@dataclass(frozen=True)
class FocusChoices:
    """How sessions focus where they are measured: with spans that a search finds. None: as the run was trained."""

    wc_length: int | None = 512
    refocus_interval: int = 32
    spans: int = 2
    recent_tokens: int = 128
    token_positions: str | None = None


@dataclass(frozen=True)
class HistoryChoices:
    """Which ends of documents are predicted, behind how many tokens, under which conditions.

    also: conditions beside the usual ones, or beside `conditions` where those are named. fit_rows: rows that conditions which
    look up are fitted to, at most; the others are in `mccore.eval.context.rows.HistoryRows`.
    """

    history: int
    horizon: int = 32
    every: int = 1300
    offset: int = 0
    per_document: int = 24
    chunks: int = 1
    conditions: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    fit_rows: int | None = None

    def wanted(self) -> list[str] | None:
        """The conditions to evaluate; None for the usual ones."""
        from mccore.eval.context.catalogue import LONG_HISTORY

        if not self.conditions and not self.also:
            return None
        usual = [each.name for each in LONG_HISTORY if not each.on_demand]
        return [*(self.conditions or usual), *self.also]


@dataclass(frozen=True)
class Telling:
    """Who is told meanwhile: `show` how far it is, `warn` what a user should know."""

    show: Callable[[str], None] = lambda text: None
    warn: Callable[[str], None] = lambda text: None


def base_of(name: str) -> RunDir:
    """A run with a base model. Raises UsageError, CheckpointError."""
    from mccore.runtime.open import find_checkpoint, find_run

    run = find_run(name)
    find_checkpoint(run, TEXT_STAGE)
    return run


def open_base(name: str) -> OpenModel:
    """The newest base model of a run. Raises UsageError, CheckpointError."""
    from mccore.runtime.open import find_checkpoint, open_model

    return open_model(find_checkpoint(base_of(name), TEXT_STAGE)[1])


def open_twin(name: str, opened: OpenModel) -> OpenModel:
    """The base model of a run that was trained on tokens alone. Raises UsageError for one with another tokenizer."""
    twin = open_base(name)
    if twin.meta.tokenizer != opened.meta.tokenizer:
        raise UsageError(
            f"{name} has another tokenizer than {opened.run.name}", hint="train the twin on the run's tokenizer"
        )
    return twin


def focused_sessions(opened: OpenModel, focus: FocusChoices, telling: Telling) -> Sessions:
    """Sessions that show what a search finds. Raises UsageError, ConfigError, FocusError for what doesn't go together."""
    from mccore.config import Choice
    from mccore.runtime.sessions import session_options

    options = session_options(
        opened.config.megacontext,
        allocator=Choice(name="spans", options={"spans": focus.spans, "recent_tokens": focus.recent_tokens}),
        wc_length=focus.wc_length,
        refocus_interval=focus.refocus_interval,
        token_positions=focus.token_positions,
        search="ngram",
    )
    sessions = opened.sessions(options)
    if sessions.missing_lookup is not None:
        telling.warn(f"({opened.run.name}: {sessions.missing_lookup})")
    return sessions


def held_out(opened: OpenModel) -> tuple[list[str], list[str]]:
    """The validation documents of a run's corpus: those that lookups are fitted to, and all others."""
    from mccore.data.corpora.catalogue import open_corpus
    from mccore.host import paths
    from mccore.stages.lookup import is_fitted_to

    apart: list[str] = []
    others: list[str] = []
    for document in open_corpus(opened.run.config.data.corpus, cache_dir=paths.cache_dir()).documents("val"):
        (apart if is_fitted_to(document) else others).append(document.text)
    return apart, others


@dataclass(frozen=True)
class Compared:
    """A run with its twin, where it has one."""

    run: str
    twin: str | None = None


def measure_far_behind(
    compared: Sequence[Compared], rows: int | None, choices: HistoryChoices, focus: FocusChoices, telling: Telling
) -> tuple[dict[str, Any], list[LongHistoryReport]]:
    """What a summary says of the rows beside the comparison of runs, and the report of each. rows: of all there are, at most.

    Raises UsageError, DataError for runs or documents that nothing can be measured on.
    """
    import numpy as np

    from mccore.eval.context.far.words import REPETITION, by_kind, by_place, places, repetition
    from mccore.eval.context.summary import mean_of

    found = [_behind(each, rows, choices, focus, telling) for each in compared]
    reports, (ids, kinds, window) = [report for report, *_ in found], found[0][1:]
    first = reports[0]
    mean = mean_of(reports)
    place = places(ids, choices.horizon, window)
    repeated = np.array([REPETITION[kind] for kind in repetition(ids, choices.horizon)])
    return {
        "runs": [each.run for each in compared],
        "history": choices.history,
        "horizon": choices.horizon,
        "entries": first.entries,
        "far_tokens": first.far_tokens,
        "tail": first.tail,
        "by_place": by_place(mean.losses, place, mean.documents, "window"),
        "by_kind": by_kind(mean.losses, {"text": kinds, "repetition": repeated}, mean.documents, "window"),
    }, reports


def _behind(
    compared: Compared, limit: int | None, choices: HistoryChoices, focus: FocusChoices, telling: Telling
) -> tuple[LongHistoryReport, NDArray[np.int64], NDArray[np.str_], int]:
    """One run, far behind in the held-out documents that no lookup is fitted to: what was found, the rows, the kind of text
    that each ends in, and the tokens of a window."""
    import numpy as np

    from mccore.eval.context.far.row import LongHistoryOptions
    from mccore.eval.context.far.words import text_kind
    from mccore.eval.context.long_history import evaluate_long_histories
    from mccore.eval.context.rows import HistoryRows

    opened = open_base(compared.run)
    sessions, tokenizer = focused_sessions(opened, focus, telling), opened.tokenizer
    twin = None if compared.twin is None else open_twin(compared.twin, opened)
    picked = HistoryRows(
        choices.history, choices.horizon, choices.every, choices.offset, choices.per_document, choices.chunks
    )
    apart, others = held_out(opened)

    def rows(texts: Sequence[str], picked: HistoryRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return picked.of(np.array([tokenizer.bos_id, *tokenizer.encode_to_array(text)]) for text in texts)

    ids, documents = rows(others, picked)
    ids, documents = ids[:limit], documents[:limit]
    fit_rows, _ = rows(apart, replace(picked, per_document=FIT_ROWS, chunks=1))
    kinds = np.array([text_kind(tokenizer.decode(row[-KIND_TOKENS:].tolist())) for row in ids])
    report = evaluate_long_histories(
        sessions.model,
        lambda: sessions.new().tree,
        ids,
        documents.tolist(),
        LongHistoryOptions(
            choices.horizon,
            choices.wanted(),
            None if twin is None else twin.gpt,
            fit_rows[: choices.fit_rows],
            focus.spans,
        ),
        on_progress=lambda done: telling.show(f"{compared.run}: {done} of {len(ids)} rows"),
    )
    return report, ids, kinds, sessions.model.options.wc_length - sessions.model.options.refocus_interval
