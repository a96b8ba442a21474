"""The shape of report.json: what every section of a report may read, and what `collect` has to give.

Results of stages are kept as the stages wrote them; a run of another version may have written fewer of their fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

Result = Mapping[str, Any]  # what a stage found, by its own names
Results = Mapping[str, Result]  # by stage


class Absent(TypedDict):
    """Something that a reader may look for and not find."""

    what: str
    why: str


class OutcomeEntry(TypedDict):
    """What became of the run: `runs.rundir.Outcome`."""

    state: str
    stage: str | None
    message: str
    hint: NotRequired[str]


class Environment(TypedDict):
    """The machine and the software of the run, or of the report where the run is over."""

    during_run: bool
    run_started: float | None
    python: str
    system: str
    mccore: str | None
    torch: str | None
    git_commit: str | None
    cpu: str
    cores: int
    memory_bytes: int | None
    gpus: list[str]
    gpu_memory_bytes: list[int]


class SettingEntry(TypedDict):
    """A setting that isn't the schema's default."""

    default: Any
    value: Any


class ModelEntry(TypedDict):
    """The shape of the model; None where nothing derived it yet."""

    depth: int
    n_embd: int | None
    n_head: int | None
    n_kv_head: int | None
    max_seq_len: int
    vocab_size: int | None
    parameters: dict[str, int] | None  # by part, and `total`
    flops_per_token: int | None


class Reached(TypedDict):
    """The last step of a training stage."""

    step: int | None
    steps: int | None
    tokens: int | None
    metrics: dict[str, float]


class StageEntry(TypedDict):
    """How one stage went, over all its attempts."""

    stage: str
    outcome: str
    attempts: int
    seconds: float | None
    message: str
    reached: Reached | None


class SampleEntry(TypedDict):
    """What a model said while it was trained."""

    step: int | None
    prompt: str
    text: str


class RewardEntry(TypedDict):
    """The mean reward of the first and of the last `steps` steps."""

    steps: int
    first: float
    last: float


class AlertEntry(TypedDict):
    """A metric outside its band. Times are words; `until` is None where it was so at the end."""

    metric: str
    value: float
    band: list[float | None]
    since: float
    began: str
    advice: str
    stage: str | None
    step: int | None
    until: str | None
    seconds: float


class MetricEntry(TypedDict):
    """The values of one metric over one stage. `outside`: share of points outside the band; `end` is the last tenth's mean."""

    stage: str
    metric: str
    unit: str
    points: int
    first: float
    end: float
    mean: float
    lowest: float
    highest: float
    band: list[float | None] | None
    outside: float | None
    end_outside: bool | None


class ConditionEntry(TypedDict):
    """One condition of an evaluation of focus; differences are to the plain window."""

    condition: str
    nll: float | None
    stderr: float | None
    delta: float | None
    delta_stderr: float | None
    gap_closed: float | None


class PairEntry(TypedDict):
    """Two conditions: the first minus the second."""

    pair: str
    delta: float
    stderr: float | None


# `from` and `to`, in tokens back, or `lod`.
BinEntry = TypedDict(
    "BinEntry",
    {
        "condition": str,
        "from": float | None,
        "to": float | None,
        "lod": float | None,
        "delta": float | None,
        "stderr": float | None,
        "tokens": float | None,
    },
)


class EvaluationEntry(TypedDict):
    """What an evaluation of focus found. `focus`: policy -> measures of its scores; `notes`: what else is a plain value."""

    table: list[ConditionEntry]
    focus: dict[str, dict[str, float]]
    differences: list[PairEntry]
    by_distance: list[BinEntry]
    by_lod: list[BinEntry]
    notes: dict[str, Any]


class PlaceEntry(TypedDict):
    """One condition on held-out text: on all of it, on rows of a kind, or on tokens whose word stands at a place; `delta` to the
    window."""

    condition: str
    place: str
    share: float | None
    nll: float | None
    delta: float | None
    stderr: float | None


class AnswerEntry(TypedDict):
    """Questions of a kind under one condition: the share of answers that are right, with its 95 % interval."""

    condition: str
    kind: str
    size: float | None  # tokens of the histories
    depth: float | None
    n: float | None
    accuracy: float | None
    low: float | None
    high: float | None
    right: float | None  # the share of an answer's parts
    nll: float | None


class CostEntry(TypedDict):
    """What a session of a length costs: medians, and the mean of a token."""

    tokens: float | None
    token_ms: float | None
    mean_ms: float | None
    to_plain: float | None
    first_token_seconds: float | None
    ingest_seconds: float | None
    tree_bytes: float | None
    index_bytes: float | None
    cache_bytes: float | None


class SuiteEntry(TypedDict):
    """What a suite of `mccore eval context` measured."""

    suite: str
    stage: str
    entries: float | None
    lookup: bool
    history: float | None
    rows: float | None
    documents: float | None
    conditions: list[PlaceEntry]
    places: list[PlaceEntry]
    kinds: list[PlaceEntry]  # of rows: code, data or prose, and how much of one was there before
    answers: list[AnswerEntry]
    depths: list[AnswerEntry]
    names: list[AnswerEntry]
    costs: list[CostEntry]
    plain_ms: float | None
    seconds: dict[str, float]
    missing: list[Absent]


class ContextEntry(TypedDict):
    """A Working Context in numbers, and as lines of text over its history."""

    tokens: int | None
    entries: int | None
    budget: int | None
    block_size: int
    by_level: list[dict[str, int]]  # level, entries, tokens
    map: list[str]


class MegaContextEntry(TypedDict):
    """The MegaContext section; all but `settings` and `derived` by stage."""

    enabled: bool
    settings: dict[str, Any]
    derived: dict[str, Any] | None
    steps: list[MetricEntry]
    refocuses: list[MetricEntry]
    timing: dict[str, dict[str, float]]  # milliseconds
    trees: dict[str, dict[str, Any]]
    contexts: dict[str, ContextEntry]
    evaluations: dict[str, EvaluationEntry]
    missing: list[Absent]


class Report(TypedDict):
    """All of report.json."""

    version: int
    run: str
    recipe: str
    written: str
    outcome: OutcomeEntry
    environment: Environment
    configuration: dict[str, SettingEntry]
    model: ModelEntry
    stages: list[StageEntry]
    token_loss: dict[str, float]  # the language model's own, by stage, mean of its last steps
    objective_loss: dict[str, float]  # the same of the whole objective, where it has other parts
    rewards: dict[str, RewardEntry]  # by stage that learns from rewards
    seconds: float | None  # wall time over all starts
    results: dict[str, dict[str, Any]]
    samples: dict[str, list[SampleEntry]]
    alerts: list[AlertEntry]
    megacontext: MegaContextEntry | None
    context_suite: SuiteEntry | None
    missing: list[Absent]
    plots: NotRequired[list[str]]  # file names
