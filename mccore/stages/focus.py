"""How well a model in training uses its Working Context: a short check at every evaluation, and the table at the end of base.

Both read the first validation rows of the corpus. The table has contexts of the size that training ends with, the check wider
ones, in which there is something to choose. Standard errors go by document: rows of one aren't independent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mccore.config import MegaContextConfig, RunConfig
from mccore.config.stages import TEXT_STAGE
from mccore.data.batches.rows import Position
from mccore.errors import ConfigError
from mccore.runtime.allocators import build_allocator
from mccore.scaling.megacontext import shortest_context, variant_lengths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from mccore.eval.context.stream import StreamReport
    from mccore.eval.context.within_sequence import ContextReport
    from mccore.megacontext.networks.networks import MegaContextNets
    from mccore.model.gpt import GPT
    from mccore.runtime.runtime import Runtime
    from mccore.train.loop import Progress


CHECK_ROWS = 8  # sequences of the check at every evaluation

TABLE_ROWS = 128  # sequences of the table: at half as many its standard errors hide what small models gain

SESSION = "validation row 0"


def validation_rows(runtime: Runtime, count: int) -> tuple[Tensor, NDArray[np.int64]]:
    """Token ids int64 [count, T + 1] of the first validation rows of the corpus, and the document that each ends with, int64
    [count]. All ranks call it together."""
    import numpy as np
    import torch

    from mccore.data.batches.loader import stack_rows

    rows = runtime.rows(TEXT_STAGE, "val")
    chosen = []
    for row, position in rows.walk(Position()):
        if len(chosen) == count or position.epoch > 0:
            break
        chosen.append(row)
    inputs, targets = stack_rows(rows, chosen)
    documents = np.array([row[-1].document for row in chosen], dtype=np.int64)
    return torch.cat((inputs, targets[:, -1:]), dim=1).to(runtime.world.device), documents


def require_full_context(config: MegaContextConfig) -> None:
    """Raise ConfigError for a model that has never read so much as a whole sequence: nothing to compare contexts with."""
    if config.baseline_tokens:
        raise ConfigError(
            f"with megacontext.baseline_tokens={config.baseline_tokens} the plain model reads parts of a sequence, and contexts "
            "are compared with all of it",
            hint="compare them with windows of other models: mccore eval context RUN --history 6000 --twin RUN",
        )


def check_budget(config: RunConfig) -> int:
    """Entries of the check's contexts: twice those that training ends with, at most half a sequence. In fewer, only the newest
    blocks are tokens, and a focus has nothing to do; a refocus leaves room for the next tokens."""
    mixed = variant_lengths(config)[-1].expanded
    return max(mixed + config.megacontext.horizon, min(2 * mixed, config.model.max_seq_len // 2))


def check_interval(config: MegaContextConfig) -> int:
    """Tokens between two refocuses of the check: as at inference, but no more than what each refocus is judged by."""
    return min(config.refocus_interval, config.horizon)


def check_focus(
    runtime: Runtime,
    gpt: GPT,
    nets: MegaContextNets,
    rows: Tensor,
    documents: NDArray[np.int64],
    progress: Progress,
) -> None:
    """Stream rows [R, T] of these documents through Working Contexts, and emit what the focus did. For one rank."""
    from mccore.eval.context.stream import StreamPlan, stream_focus

    config = runtime.config.megacontext
    require_full_context(config)
    budget = check_budget(runtime.config)
    interval = check_interval(config)
    allocator = build_allocator(runtime.config, max(config.horizon, config.recent_tokens - interval))
    gpt.eval()
    try:
        options = StreamPlan(budget, interval, config.horizon)
        report = stream_focus(gpt, nets, rows, allocator, options, documents.tolist())
    finally:
        gpt.train()
    delta = report.delta_nll
    runtime.emit(
        "delta_nll",
        {"delta_nll": report.metrics["delta_nll"]},
        at=progress,
        condition=config.allocator.name,
        horizon=config.horizon,
        budget=budget,
        sequences=len(rows),
        stderr=delta.stderr,
        by_distance=[],
        by_lod=[],
    )
    _emit_refocus(runtime, report, budget, allocator.recent_tokens, progress)


def _emit_refocus(runtime: Runtime, report: StreamReport, budget: int, recent: int, progress: Progress) -> None:
    from mccore.megacontext.tree.cut import encode_runs

    if not report.refocuses:
        return
    last, focus = report.refocuses[-1], report.focuses[0]
    expand, collapse = last.edits[0]
    runtime.emit(
        "focus_allocator",
        {name: value for name, value in report.metrics.items() if name != "delta_nll"},
        at=progress,
        session=SESSION,
        allocator=runtime.config.megacontext.allocator.name,
        refocus=len(report.refocuses),
        history=focus.cut.tokens,
        expand=expand.tolist(),
        collapse=collapse.tolist(),
        editable=last.measures[0].editable,
        scores={},
    )
    runtime.emit(
        "working_context_snapshot",
        at=progress,
        session=SESSION,
        history=focus.cut.tokens,
        entries=len(focus.cut),
        budget=budget,
        block_size=runtime.config.megacontext.block_size,
        recent_tokens=recent,
        runs=[list(run) for run in encode_runs(focus.cut)],
    )


def compare_contexts(runtime: Runtime, gpt: GPT, nets: MegaContextNets, rows: int) -> ContextReport:
    """Every condition of `eval.context` on the first so many validation rows, in contexts of the size that training ends
    with."""
    from mccore.eval.context.within_sequence import ContextOptions, evaluate_contexts

    config = runtime.config.megacontext
    require_full_context(config)
    tokens, expanded = runtime.config.model.max_seq_len, max(1, config.expanded_blocks)
    room = shortest_context(runtime.config, tokens) + expanded * (config.block_size - 1)
    budget = max(config.train_wc_length, variant_lengths(runtime.config)[-1].expanded, room)
    ids, documents = validation_rows(runtime, rows)
    # Whoever chooses sees the tokens before the horizon alone, as many as LensNet was trained to ask with.
    options = ContextOptions(budget, config.horizon, expanded)
    return evaluate_contexts(gpt, nets, ids, options, documents.tolist())


def focus_table(runtime: Runtime, gpt: GPT, nets: MegaContextNets) -> dict[str, Any]:
    """Every condition of `eval.context` on the same validation rows, as `results/<stage>.json` keeps it under `context`:
    `table` and `focus` are what the report shows, the rest is the whole evaluation."""
    from mccore.eval.context.catalogue import POLICIES

    found = compare_contexts(runtime, gpt, nets, TABLE_ROWS).to_dict()
    table = []
    for name, nll in found["nll"].items():
        difference = found["differences"].get(f"{name} - window") or {"mean": 0.0, "stderr": None}
        gap = found["gap_closed"].get(name)
        table.append(
            {
                "condition": name,
                "nll": nll["mean"],
                "stderr": nll["stderr"],
                "delta": difference["mean"],
                "delta_stderr": difference["stderr"],
                "gap_closed": gap["mean"] if gap else None,
            }
        )
    focus = {
        policy: {
            "spearman": _mean(found["spearman"].get(policy)),
            **{f"recall@{k}": _mean(value) for k, value in found["recall"].get(policy, {}).items()},
            "gap_closed": _mean(found["focus_gap_closed"].get(policy)),
        }
        for policy in POLICIES
        if policy in found["nll"]
    }
    return {"table": table, "focus": focus, **found}


def _mean(estimate: dict[str, Any] | None) -> float | None:
    return estimate["mean"] if estimate else None
