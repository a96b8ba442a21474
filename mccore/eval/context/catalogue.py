"""The conditions under which the same tokens are predicted: what the model reads in each, and what it is compared with.

A new condition is a row here and the context made for it: by `conditions` within a sequence, by `far` behind a history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

# control: without a choice. policy: far blocks or spans are chosen, by the history alone. teacher: chosen with the full context's
# attention. oracle: chosen by the losses themselves, one pass per candidate. other: lengths or models of their own.
Role = Literal["control", "policy", "teacher", "oracle", "other"]


@dataclass(frozen=True)
class Condition:
    """One way of predicting the scored tokens."""

    name: str
    role: Role
    reads: str  # what the model reads, in a few words
    against: tuple[str, ...] = ()  # conditions that a report lists its difference from
    on_demand: bool = False  # only where asked for: slow, or a length that the model may never have read
    looks_up: bool = False  # fitted to documents apart


_CHOICES = ("unexpanded", "random", "recency", "bm25", "ngram", "raw_attention", "teacher_attention")

# Within the sequence length of training. Every policy shows e blocks of `unexpanded` as tokens.
WITHIN_SEQUENCE = (
    Condition("full", "other", "all tokens"),
    Condition("window", "control", "the last W tokens"),
    Condition("tail", "control", "the raw tail of `gists`, without the gists"),
    Condition("gists", "control", "gists of the far past and the raw tail", ("tail",)),
    Condition("gists_zeroed", "control", "`gists` with gists of zeros", ("gists",)),
    Condition("gists_swapped", "control", "`gists` with the gists of another row", ("gists",)),
    Condition("gists_mean", "control", "`gists` with mean-pooled gists", ("gists",)),
    Condition("unexpanded", "control", "gists of e more blocks; shorter than W by e (K - 1) entries"),
    Condition("random", "policy", "e blocks drawn at random"),
    Condition("recency", "policy", "the newest e blocks, next to the tail"),
    Condition("bm25", "policy", "the blocks that share most with the newest tokens"),
    Condition("ngram", "policy", "the blocks that share rare n-grams with them, as a session's search scores spans"),
    Condition("raw_attention", "policy", "the blocks whose gists the newest tokens attend to most"),
    Condition(
        "teacher_attention",
        "teacher",
        "the blocks that the scored tokens attend to in the full context, weighted by what they lose without it",
    ),
    Condition("lens", "policy", "the blocks that LensNet scores highest", _CHOICES),
    Condition(
        "oracle",
        "oracle",
        "the blocks that lower the loss of every second scored token most, each half chosen by the other one's losses",
        _CHOICES,
    ),
    Condition("oracle_bound", "oracle", "the blocks that lower the loss of the scored tokens themselves", ("oracle",)),
)

# Far behind in long documents, as sessions read them.
LONG_HISTORY = (
    Condition(
        "context",
        "policy",
        "the session's Working Context, by its own allocator and search, without its lookup",
        (
            "window",
            "sink_window",
            "window_full",
            "twin",
            "twin_full",
            "tail",
            "nothing_found",
            "random",
            "recency",
            "bm25",
            "raw_attention",
            "lens",
            "oracle",
            "full",
        ),
    ),
    Condition("window", "control", "the newest W - interval tokens: as many entries as `context`", ("full", "twin")),
    Condition("sink_window", "control", "`window` with the first tokens in place of its oldest", ("window",)),
    Condition("window_full", "control", "the newest W tokens: more than `context` ever has"),
    Condition("tail", "control", "the raw tail of `context` alone"),
    Condition("nothing_found", "control", "a session whose search finds nothing: gists and a longer tail", ("window",)),
    Condition(
        "lookup",
        "other",
        "the session as it is in a chat: its Working Context, and what it looks up at every token",
        ("context", "window", "window_lookup", "twin", "twin_lookup", "context_ngram_cache"),
        looks_up=True,
    ),
    Condition(
        "lookup_elsewhere",
        "control",
        "the lookup in the window and another document's far past",
        ("context",),
        looks_up=True,
    ),
    Condition(
        "window_lookup", "control", "`window`, with a lookup in the whole history", ("window", "context"), looks_up=True
    ),
    Condition("context_ngram_cache", "control", "`context` with a table of n-grams", ("context",), looks_up=True),
    Condition("context_bag", "control", "`context` with the words of the far past", ("context",), looks_up=True),
    Condition("context_bag_window", "control", "`context` with the window's words", ("context",), looks_up=True),
    Condition("window_ngram_cache", "control", "`window` with a table of n-grams", ("window",), looks_up=True),
    Condition("window_bag", "control", "`window` with the words of the far past", ("window",), looks_up=True),
    Condition("window_bag_window", "control", "`window` with its own words", ("window",), looks_up=True),
    Condition("gists_hidden", "control", "`context` without its gists", ("context",)),
    Condition("gists_to_tail", "control", "`context` with tokens of the tail for its gists", ("context",)),
    Condition("gists_zeroed", "control", "`context` with gists of zeros", ("context",)),
    Condition("gists_swapped", "control", "`context` with gists of another document's history", ("context",)),
    Condition("history_swapped", "control", "with its spans of tokens from that history, too", ("context",)),
    Condition(
        "absolute", "control", "`context` with tokens at their own positions, if the model closes gaps", ("context",)
    ),
    Condition("contiguous", "control", "`context` without gaps between tokens, if the model keeps them", ("context",)),
    Condition("random", "policy", "spans drawn at random", ("window",)),
    Condition("recency", "policy", "the newest spans"),
    Condition("bm25", "policy", "the spans that BM25 scores highest", ("window",)),
    Condition("raw_attention", "policy", "the spans whose gists the newest tokens attend to most"),
    Condition(
        "lens",
        "policy",
        "the spans whose gists LensNet scores highest",
        ("random", "recency", "bm25", "raw_attention", "window"),
    ),
    Condition(
        "oracle",
        "oracle",
        "the spans that lower the loss of every second scored token most, each half chosen by the other one's losses",
        on_demand=True,
    ),
    Condition(
        "oracle_bound", "oracle", "the spans that lower the loss of the scored tokens themselves", ("oracle",), True
    ),
    Condition("full", "other", "all of the history as tokens, for models trained on rows so long", on_demand=True),
    Condition("twin", "other", "`window` of another model, trained on tokens alone"),
    Condition("twin_full", "other", "`window_full` of that model"),
    Condition("twin_lookup", "other", "`twin`, with a lookup in the whole history", ("twin",), looks_up=True),
)


def names(conditions: Iterable[Condition], *roles: Role) -> tuple[str, ...]:
    """The names of conditions in these roles, of all where none is given."""
    return tuple(each.name for each in conditions if not roles or each.role in roles)


def pairs(conditions: Sequence[Condition], there: Iterable[str]) -> list[tuple[str, str]]:
    """Every two conditions that are compared, of those that are `there`, as (one, other)."""
    known = set(there)
    return [(each.name, other) for each in conditions for other in each.against if {each.name, other} <= known]


POLICIES = names(WITHIN_SEQUENCE, "policy", "teacher", "oracle")  # who chooses blocks to show
