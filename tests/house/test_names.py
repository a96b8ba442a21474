"""Names that stand in a table stand there alone: stages in `config/stages.py`, metrics in `events/metrics.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from mccore.config.stages import STAGES
from mccore.events import METRICS
from tests.house.sources import modules

# Stages whose names are plain words, which mean other things elsewhere.
WORDS = {"data", "tokenizer", "encode", "report"}

# file -> why it names a stage
STAGE_LITERALS: dict[str, str] = {
    "mccore/config/stages.py": "the table",
    "mccore/tasks/stdlib/needle.py": "a word that hides as a needle",
    "mccore/testing/telemetry.py": "an event made up for plugin authors",
    "mccore/exchange/nanochat.py": "nanochat's folders, and the stages that they are",
    "mccore/cli/imports.py": "what a model is where its files don't say",
}

# Metrics that share their name with something else: a word, a setting, a figure of a tokenizer or of a result.
SHARED = {
    "bytes_per_token", "chatcore", "core", "dwell", "epoch", "heartbeat", "loss", "residency", "thrash",
    "tokens_per_second", "wc_length",
}  # fmt: skip

# file -> why it names a metric
METRIC_LITERALS: dict[str, str] = {
    "mccore/exchange/nanochat.py": "nanochat's files call it so",
    "mccore/stages/checklist.py": "finds again what a stage recorded",
    "mccore/report/results.py": "its table has three columns",
    "mccore/events/metrics.py": "the table",
    "mccore/events/types.py": "an event of a metric's name",
    "mccore/eval/chat.py": "measures it",
    "mccore/eval/context/stream.py": "measures it",
    "mccore/eval/context/within_sequence.py": "measures it",
    "mccore/megacontext/focus/measures.py": "measures it",
    "mccore/megacontext/training/lens_loss.py": "measures it",
    "mccore/megacontext/training/objective.py": "declares what its step measures",
    "mccore/megacontext/training/plain_pass.py": "measures it",
    "mccore/megacontext/training/rebuild.py": "measures it",
    "mccore/megacontext/training/variants.py": "measures it",
    "mccore/report/collect.py": "the part of a loss that compares with validation",
    "mccore/report/megacontext.py": "says where `mfu` can't be measured, and describes evaluations",
    "mccore/report/pages/evaluation.py": "figures of a stage's results",
    "mccore/report/pages/summary.py": "figures of a stage's results",
    "mccore/report/pages/training.py": "figures of a stage's results",
    "mccore/eval/pass_at.py": "measures it",
    "mccore/report/pages/rewards.py": "figures of a stage's results",
    "mccore/train/policy_gradient.py": "measures it",
    "mccore/report/plots/megacontext.py": "how two curves are drawn",
    "mccore/report/plots/training.py": "how the picture of losses is drawn",
    "mccore/runs/series.py": "the part of a loss that compares with validation, and the curve of evaluations",
    "mccore/stages/focus.py": "measures it",
    "mccore/launch/log_lines.py": "what the log says of a step",
    "mccore/stages/observers/validation.py": "measures it",
    "mccore/testing/telemetry.py": "an event made up for plugin authors",
    "mccore/train/loop.py": "measures it",
    "mccore/train/objective.py": "measures it",
    "mccore/host/resources.py": "measures what a process uses",
    "mccore/runs/live/comparison.py": "what a run had spent is read from its counters",
    "mccore/tui/widgets/details.py": "a column for each thing that a process uses",
}


def literals(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Texts of a module that aren't docstrings, the fixed parts of f-strings included."""
    docs = {
        id(node.body[0].value)
        for node in nodes
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_stages_are_named_in_their_table_only() -> None:
    names = set(STAGES) - WORDS
    naming = {str(module) for module in modules().values() if names & set(literals(module.nodes))}
    assert naming == set(STAGE_LITERALS)


def test_metrics_are_named_where_they_are_measured_and_in_their_table() -> None:
    names = set(METRICS) - SHARED
    naming = {str(module) for module in modules().values() if names & set(literals(module.nodes))}
    assert naming == set(METRIC_LITERALS)
