"""The one table of metrics: name, unit, kind and definition, shared by every sink and every screen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One measured quantity. `unit` in UCUM; `scope` groups metrics in dashboards (`train/loss`, `mc/swap_rate`).

    Outside `band` it deserves a look; after `hold` seconds there it is an alert, and `advice` says what to look at next.
    """

    name: str
    unit: str
    kind: Literal["gauge", "counter", "histogram"]
    scope: Literal["train", "val", "mc", "system"]
    definition: str
    band: tuple[float, float] | None = None
    hold: float = 60.0
    advice: str = ""


# fmt: off
_ROWS = (
    Metric("loss", "nat", "gauge", "train", "training objective of one optimizer step, mean over its trained tokens"),
    Metric("token_loss", "nat", "gauge", "train", "next-token loss at token (LOD0) entries, mean over trained tokens"),
    Metric("grad_norm", "1", "gauge", "train", "L2 norm of all gradients before clipping"),
    Metric("lr_multiplier", "1", "gauge", "train", "factor of the schedule on every learning rate"),
    Metric("tokens_total", "{token}", "counter", "train", "training tokens of the stage so far, over all ranks"),
    Metric("flops_total", "{flop}", "counter", "train", "model FLOPs of the stage so far, over all ranks"),
    Metric("tokens_per_second", "{token}/s", "gauge", "train", "training tokens per second of step time, over all ranks"),
    Metric("step_duration", "s", "histogram", "train", "wall time of one optimizer step"),
    Metric("data_wait", "s", "histogram", "train", "part of a step spent waiting for the next batch"),
    Metric("mfu", "1", "gauge", "train", "model FLOPs needed / peak FLOPs of the devices", (0.4, 1.0),
           hold=300, advice="data_wait and host_syncs: is the device waiting? then the batch and the kernels"),
    Metric("epoch", "1", "gauge", "train", "passes over the training data so far"),
    Metric("memory_used", "By", "gauge", "system", "peak memory of the process, or of its GPU where there is one"),
    Metric("val_loss", "nat", "gauge", "val", "next-token loss on validation rows, mean over counted tokens"),
    Metric("val_bpb", "bit/By", "gauge", "val", "validation nats / (ln 2 * bytes of the predicted tokens); specials excluded"),
    Metric("bytes_per_token", "By/{token}", "gauge", "val", "bytes of validation text per token"),
    Metric("choice_accuracy", "1", "gauge", "val", "share of held-out multiple-choice questions answered rightly"),
    Metric("choice_accuracy_stderr", "1", "gauge", "val", "standard error of choice_accuracy"),
    Metric("generated_accuracy", "1", "gauge", "val", "share of held-out free-text questions answered rightly"),
    Metric("generated_accuracy_stderr", "1", "gauge", "val", "standard error of generated_accuracy"),
    Metric("core", "1", "gauge", "val", "mean centred accuracy of the 22 CORE tasks"),
    Metric("chatcore", "1", "gauge", "val", "mean centred accuracy of the chat tasks"),
    Metric("delta_nll", "nat/{token}", "gauge", "mc", "mean over horizon tokens of NLL with the Working Context minus NLL with full LOD0 context", (-math.inf, 0.1),
           hold=300, advice="delta NLL by distance and LOD in the report, then residency and swap_rate"),
    Metric("swap_rate", "1", "gauge", "mc", "per refocus: blocks whose LOD changed / editable blocks in the Working Context", (0.05, 0.2),
           hold=120, advice="the allocator's thresholds and dwell; a rate that stays low means that nothing is ever refocused"),
    Metric("residency", "1", "gauge", "mc", "Working Context entries in use when a refocus begins / budget W", (0.9, 1.0),
           hold=120, advice="the allocator's plan: entries of the budget lie idle, or the history is still short"),
    Metric("dwell", "{refocus}", "gauge", "mc", "refocuses a block has kept its LOD (mean; dwell/p95 the 95th percentile)", (3.0, math.inf),
           hold=300, advice="swap_rate and thrash: blocks change before they are of use; raise the allocator's hysteresis"),
    Metric("thrash", "1", "gauge", "mc", "edits undone within 3 refocuses / edits", (0.0, 0.05),
           hold=120, advice="the allocator's thresholds for expanding and collapsing: they lie too close"),
    Metric("raw_share", "1", "gauge", "mc", "history tokens at LOD0 in the Working Context / history tokens"),
    Metric("controller_duration", "s", "histogram", "mc", "wall time of one refocus: score, plan, check and apply", (0.0, 0.2),
           hold=60, advice="reprefill_entries, and what else the device is doing"),
    Metric("reprefill_entries", "{entry}", "gauge", "mc", "Working Context entries recomputed because of edits"),
    Metric("host_syncs", "{sync}", "gauge", "train", "device-to-host synchronisations of one step"),
    Metric("lod_loss", "nat", "gauge", "mc", "next-token loss at entries of one level (lod_loss/1, lod_loss/2, ...)"),
    Metric("gist_loss", "nat", "gauge", "mc", "next-token loss at gist entries of every level"),
    Metric("lens_loss", "nat", "gauge", "mc", "KL from the attention that the horizon pays to nodes to LensNet's scores of them"),
    Metric("lens_gain", "1", "gauge", "mc", "1 - lens_loss / the loss of even scores: 0 is a LensNet that knows nothing, 1 one that foresees all", (0.05, 1.0),
           hold=600, advice="lens_loss and question_loss: LensNet learns nothing; then its learning rate and start"),
    Metric("question_loss", "nat", "gauge", "mc", "KL from each recent token's own attention on nodes to LensNet's shares for it"),
    Metric("preference_loss", "nat", "gauge", "mc", "Bradley-Terry loss over pairs of Working Contexts of one history"),
    Metric("distill_loss", "nat", "gauge", "mc", "KL from the full-context distribution to the Working Context's"),
    Metric("recon_loss", "nat", "gauge", "mc", "loss of reconstructing a block from its gist"),
    Metric("wc_length", "{entry}", "gauge", "mc", "entries of a training Working Context (variant) of this step"),
    Metric("variants_total", "{variant}", "counter", "mc", "training Working Contexts drawn: variants per sequence times rows"),
    Metric("adv_delta", "nat", "gauge", "mc", "delta NLL of training variants (mean; adv_delta/p95 the 95th percentile over the variants of a pass)"),
    Metric("preference_corr", "1", "gauge", "mc", "correlation of LensNet's utility for a variant with its delta NLL", (-1.0, -0.5),
           hold=600, advice="the signs of LensNet's targets: towards 0 or positive they are reversed or noise"),
    Metric("preference_agreement", "1", "gauge", "mc", "share of the step's pairs of contexts ordered rightly, before it learns from them", (0.5, 1.0),
           hold=600, advice="preference_loss, and whether adv_delta tells variants apart at all"),
    Metric("heartbeat", "s", "gauge", "system", "age of the newest event of a running run", (0.0, 900.0),
           hold=0, advice="logs/STAGE.log and the processes of the run: it hangs, or its disk is full"),
)
# fmt: on

METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}


def metric(name: str) -> Metric:
    """The definition of a metric; `family/label` names (as `lod_loss/2`) share their family's. Raises KeyError."""
    return METRICS[name] if name in METRICS else METRICS[name.partition("/")[0]]
