"""The one table of metrics: what each is, and where it is shown. Every sink, every screen and every plot reads it.

Adding a metric is a row here and the code that emits it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One measured quantity. `unit` in UCUM; `scope` groups metrics in dashboards (`train/loss`, `mc/swap_rate`).

    Outside `band` it deserves a look; after `hold` seconds there it is an alert, and `advice` says what to look at next. The
    other fields say where it is shown.
    """

    name: str
    unit: str
    kind: Literal["gauge", "counter", "histogram"]
    scope: Literal["train", "val", "mc", "system"]
    definition: str
    band: tuple[float, float] | None = None
    hold: float = 60.0
    advice: str = ""
    group: Group = ""
    plain: bool = False
    """Of the group `objective`: a step without MegaContext may have it too."""
    needs: tuple[str, ...] = ()
    """Settings of MegaContext without which it isn't measured: `a.b` has to be more than 0, `a.b!=c` another than c."""
    figure: str = ""
    """The picture it is drawn in, one of FIGURES."""
    axis: str = ""
    """The panel of that picture, by its label. Metrics with the same one share a panel."""
    label: str = ""
    """What its curve is called beside others."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """The same for `family/label` names, by what stands behind the slash."""
    watched: bool = False
    """A person wants to see it in a line about a step or an evaluation."""
    front: int = 0
    """Its place among the curves that a monitor shows first, from 1; 0: after those, in the order of the table."""


Group = Literal["", "training", "objective", "refocus"]
"""Which table of a report a metric stands in: any training, the parts of MegaContext's objective, or refocuses."""

FIGURES: dict[str, str] = {
    "loss": "Loss against training tokens",
    "learning_rate": "Learning-rate multiplier against training tokens",
    "throughput": "Tokens per second against training tokens",
    "reward": "Reward of the model's replies against tokens read",
    "reply_tokens": "Length of the model's replies against tokens read",
    "mc_loss": "Loss with the full context and of the variants, at tokens and at gists",
    "mc_delta_nll": "What variants lose against the full context",
    "mc_lens": "LensNet's losses and agreement with what contexts were worth",
    "mc_auxiliary": "Losses of distillation and rebuilding",
    "mc_curriculum": "Entries of a variant over training",
    "mc_cost": "Waits for the device per step",
    "mc_controller": "Swap rate, residency, dwell, thrash and controller time",
}
"""Pictures of curves by the stem of their file, and what they show."""


# fmt: off
_ROWS = (
    Metric("loss", "nat", "gauge", "train", "training objective of one optimizer step, mean over its trained tokens",
           group="training", figure="loss", axis="loss (nat per token)", watched=True, front=1),
    Metric("token_loss", "nat", "gauge", "train", "next-token loss at token (LOD0) entries, mean over trained tokens",
           group="objective", plain=True, figure="mc_loss", axis="loss (nat per token)", label="full context"),
    Metric("grad_norm", "1", "gauge", "train", "L2 norm of all gradients before clipping", front=7),
    Metric("lr_multiplier", "1", "gauge", "train", "factor of the schedule on every learning rate",
           group="training", figure="learning_rate", axis="learning-rate multiplier"),
    Metric("tokens_total", "{token}", "counter", "train", "training tokens of the stage so far, over all ranks"),
    Metric("flops_total", "{flop}", "counter", "train", "model FLOPs of the stage so far, over all ranks"),
    Metric("tokens_per_second", "{token}/s", "gauge", "train", "training tokens per second of step time, over all ranks",
           group="training", figure="throughput", axis="throughput (tokens per second)", watched=True, front=6),
    Metric("step_duration", "s", "histogram", "train", "wall time of one optimizer step"),
    Metric("data_wait", "s", "histogram", "train", "part of a step spent waiting for the next batch"),
    Metric("mfu", "1", "gauge", "train", "model FLOPs needed / peak FLOPs of the devices", (0.4, 1.0),
           hold=300, advice="data_wait and host_syncs: is the device waiting? then the batch and the kernels",
           group="objective", plain=True, figure="mc_cost", axis="FLOPs needed / peak FLOPs", watched=True, front=8),
    Metric("epoch", "1", "gauge", "train", "passes over the training data so far"),
    Metric("memory_used", "By", "gauge", "system", "peak memory of the process, or of its GPU where there is one"),
    Metric("process_cpu", "{core}", "gauge", "system", "CPU cores that a rank has used, mean since its last sample"),
    Metric("process_memory", "By", "gauge", "system", "memory of a rank that is resident"),
    Metric("gpu_utilisation", "1", "gauge", "system", "share of the last sample period of the driver in which the GPU was busy"),
    Metric("gpu_memory", "By", "gauge", "system", "memory in use on a rank's GPU, by all processes"),
    Metric("gpu_power", "W", "gauge", "system", "power that a rank's GPU draws"),
    Metric("gpu_temperature", "Cel", "gauge", "system", "temperature of a rank's GPU"),
    Metric("val_loss", "nat", "gauge", "val", "next-token loss on validation rows, mean over counted tokens",
           group="training", figure="loss", axis="loss (nat per token)", watched=True, front=5),
    Metric("val_bpb", "bit/By", "gauge", "val", "validation nats / (ln 2 * bytes of the predicted tokens); specials excluded",
           watched=True),
    Metric("bytes_per_token", "By/{token}", "gauge", "val", "bytes of validation text per token"),
    Metric("choice_accuracy", "1", "gauge", "val", "share of held-out multiple-choice questions answered rightly",
           watched=True),
    Metric("choice_accuracy_stderr", "1", "gauge", "val", "standard error of choice_accuracy"),
    Metric("generated_accuracy", "1", "gauge", "val", "share of held-out free-text questions answered rightly",
           watched=True),
    Metric("generated_accuracy_stderr", "1", "gauge", "val", "standard error of generated_accuracy"),
    Metric("reward", "1", "gauge", "train", "reward of a step's replies, from 0 to 1, mean",
           group="training", figure="reward", axis="reward of a reply (mean)", watched=True),
    Metric("reply_tokens", "{token}", "gauge", "train", "tokens that the model wrote itself of a reply, mean",
           group="training", figure="reply_tokens", axis="tokens of a reply (mean)"),
    Metric("replies_ended", "1", "gauge", "train", "share of a step's replies that the model ended, others were cut off"),
    Metric("questions_mixed", "1", "gauge", "train", "share of a step's questions whose replies differ in reward, the only ones that teach"),
    Metric("reply_nll", "nat/{token}", "gauge", "train", "negative log-likelihood of what the model wrote itself: near 0 its replies have become alike"),
    Metric("policy_kl", "nat/{token}", "gauge", "train", "KL divergence from the model that the stage began with, estimated at what it wrote (k3)"),
    Metric("pass_at", "1", "gauge", "val", "share of held-out questions that one of k drawn replies answers (pass_at/1, pass_at/8, ...), unbiased", watched=True),
    Metric("task_accuracy", "1", "gauge", "val", "share of a benchmark's test questions answered rightly, by task (task_accuracy/gsm8k, ...)"),
    Metric("core", "1", "gauge", "val", "mean centred accuracy of the 22 CORE tasks",
           watched=True),
    Metric("chatcore", "1", "gauge", "val", "mean centred accuracy of the chat tasks",
           watched=True),
    Metric("delta_nll", "nat/{token}", "gauge", "mc", "mean over horizon tokens of NLL with the Working Context minus NLL with full LOD0 context", (-math.inf, 0.1),
           hold=300, advice="delta NLL by distance and LOD in the report, then residency and swap_rate",
           group="objective", needs=("num_random_variants",), figure="mc_delta_nll", axis="NLL of variants − full context (nat per token)", label="over the horizon"),
    Metric("swap_rate", "1", "gauge", "mc", "per refocus: blocks whose LOD changed / editable blocks in the Working Context", (0.05, 0.2),
           hold=120, advice="the allocator's thresholds and dwell; a rate that stays low means that nothing is ever refocused",
           group="refocus", figure="mc_controller", axis="swap rate", front=2),
    Metric("residency", "1", "gauge", "mc", "Working Context entries in use when a refocus begins / budget W", (0.9, 1.0),
           hold=120, advice="the allocator's plan: entries of the budget lie idle, or the history is still short",
           group="refocus", figure="mc_controller", axis="residency", front=3),
    Metric("dwell", "{refocus}", "gauge", "mc", "refocuses a block has kept its LOD (mean; dwell/p95 the 95th percentile)", (3.0, math.inf),
           hold=300, advice="swap_rate and thrash: blocks change before they are of use; raise the allocator's hysteresis",
           group="refocus", figure="mc_controller", axis="dwell (refocuses)", label="mean", labels={"p95": "95th percentile"}),
    Metric("thrash", "1", "gauge", "mc", "edits undone within 3 refocuses / edits", (0.0, 0.05),
           hold=120, advice="the allocator's thresholds for expanding and collapsing: they lie too close",
           group="refocus", figure="mc_controller", axis="thrash"),
    Metric("raw_share", "1", "gauge", "mc", "history tokens at LOD0 in the Working Context / history tokens",
           group="refocus", figure="mc_controller", axis="history at LOD0"),
    Metric("controller_duration", "s", "histogram", "mc", "wall time of one refocus: score, plan, check and apply", (0.0, 0.2),
           hold=60, advice="reprefill_entries, and what else the device is doing",
           group="refocus", figure="mc_controller", axis="controller time (s)", front=4),
    Metric("reprefill_entries", "{entry}", "gauge", "mc", "Working Context entries recomputed because of edits",
           group="refocus", figure="mc_controller", axis="entries recomputed"),
    Metric("host_syncs", "{sync}", "gauge", "train", "device-to-host synchronisations of one step",
           group="objective", plain=True, figure="mc_cost", axis="waits for the device per step"),
    Metric("lod_loss", "nat", "gauge", "mc", "next-token loss at entries of one level (lod_loss/1, lod_loss/2, ...)",
           group="objective", needs=("num_random_variants",), figure="mc_loss", axis="loss (nat per token)", labels={"0": "variants, at tokens", "1": "variants, at LOD1", "2": "variants, at LOD2"}),
    Metric("gist_loss", "nat", "gauge", "mc", "next-token loss at gist entries of every level",
           group="objective", needs=("num_random_variants",), figure="mc_loss", axis="loss (nat per token)", label="variants, at all gists"),
    Metric("lens_loss", "nat", "gauge", "mc", "KL from the attention that the horizon pays to nodes to LensNet's scores of them",
           group="objective", needs=("num_random_variants", "lens.loss_weight", "lens.target!=preference"), figure="mc_lens", axis="LensNet's loss (nat)", label="scores of nodes"),
    Metric("lens_gain", "1", "gauge", "mc", "1 - lens_loss / the loss of even scores: 0 is a LensNet that knows nothing, 1 one that foresees all", (0.05, 1.0),
           hold=600, advice="lens_loss and question_loss: LensNet learns nothing; then its learning rate and start",
           group="objective", needs=("num_random_variants", "lens.loss_weight", "lens.target!=preference"), figure="mc_lens", axis="LensNet's gain over even scores", label="1 − loss / loss of even scores"),
    Metric("question_loss", "nat", "gauge", "mc", "KL from each recent token's own attention on nodes to LensNet's shares for it",
           group="objective", needs=("num_random_variants", "lens.loss_weight", "lens.target!=preference"), figure="mc_lens", axis="LensNet's loss (nat)", label="each token's question"),
    Metric("preference_loss", "nat", "gauge", "mc", "Bradley-Terry loss over pairs of Working Contexts of one history",
           group="objective", needs=("num_random_variants", "lens.loss_weight", "lens.target!=attention"), figure="mc_lens", axis="LensNet's loss (nat)", label="preferences"),
    Metric("distill_loss", "nat", "gauge", "mc", "KL from the full-context distribution to the Working Context's",
           group="objective", needs=("num_random_variants", "distill_weight"), figure="mc_auxiliary", axis="distillation, KL (nat)"),
    Metric("recon_loss", "nat", "gauge", "mc", "loss of reconstructing a block from its gist",
           group="objective", needs=("recon_weight",), figure="mc_auxiliary", axis="rebuilding blocks (nat)"),
    Metric("wc_length", "{entry}", "gauge", "mc", "entries of a training Working Context (variant) of this step",
           group="objective", needs=("num_random_variants",), figure="mc_curriculum", axis="entries of a variant"),
    Metric("variants_total", "{variant}", "counter", "mc", "training Working Contexts drawn: variants per sequence times rows",
           group="objective", needs=("num_random_variants",), figure="mc_curriculum", axis="variants drawn so far"),
    Metric("adv_delta", "nat", "gauge", "mc", "delta NLL of training variants (mean; adv_delta/p95 the 95th percentile over the variants of a pass)",
           group="objective", needs=("num_random_variants",), figure="mc_delta_nll", axis="NLL of variants − full context (nat per token)", label="all tokens, mean", labels={"p95": "all tokens, 95th percentile"}),
    Metric("preference_corr", "1", "gauge", "mc", "correlation of LensNet's utility for a variant with its delta NLL", (-1.0, -0.5),
           hold=600, advice="the signs of LensNet's targets: towards 0 or positive they are reversed or noise",
           group="objective", needs=("num_random_variants", "lens.loss_weight", "lens.target!=attention"), figure="mc_lens", axis="correlation of utility and delta NLL"),
    Metric("preference_agreement", "1", "gauge", "mc", "share of the step's pairs of contexts ordered rightly, before it learns from them", (0.5, 1.0),
           hold=600, advice="preference_loss, and whether adv_delta tells variants apart at all",
           group="objective", needs=("num_random_variants", "lens.loss_weight", "lens.target!=attention"), figure="mc_lens", axis="pairs ordered rightly"),
    Metric("heartbeat", "s", "gauge", "system", "age of the newest event of a running run", (0.0, 900.0),
           hold=0, advice="logs/STAGE.log and the processes of the run: it hangs, or its disk is full"),
)
# fmt: on

METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}


EVALUATED = "delta_nll/evaluated"
"""Curve of `delta_nll` events, beside that of training steps."""


def family(name: str) -> str:
    """`lod_loss` of `lod_loss/2`."""
    return name.partition("/")[0]


def metric(name: str) -> Metric:
    """The definition of a metric; `family/label` names (as `lod_loss/2`) share their family's. Raises KeyError."""
    return METRICS[name] if name in METRICS else METRICS[family(name)]


def metrics_of(group: Group) -> tuple[str, ...]:
    """The names of a group, in the order of the table."""
    return tuple(row.name for row in METRICS.values() if row.group == group)


def curve_label(name: str) -> str:
    """What the curve of a metric is called beside others, empty where it has no name of its own."""
    row, (_, _, label) = metric(name), name.partition("/")
    if name == EVALUATED:
        return "evaluation"
    return row.labels.get(label, "") if label else row.label


def language_loss(metrics: Mapping[str, float]) -> float | None:
    """The language model's own loss at a step, the one that runs are compared by: with MegaContext `loss` is the whole
    objective, and `token_loss` the model's part of it."""
    return metrics.get("token_loss", metrics.get("loss"))


def figures_of(group: Group) -> tuple[str, ...]:
    """The pictures of a group, in the order of FIGURES."""
    return tuple(name for name in FIGURES if any(row.figure == name and row.group == group for row in METRICS.values()))


@dataclass(frozen=True)
class PlotPanel:
    """One row of a picture: its label, the families of metrics in it, and the one of them that has a band."""

    label: str
    families: tuple[str, ...]
    band: str = ""


def panels_of(figure: str) -> tuple[PlotPanel, ...]:
    """The panels of a picture, from the rows that are drawn in it."""
    rows = [row for row in METRICS.values() if row.figure == figure]
    return tuple(
        _panel(axis, [row for row in rows if row.axis == axis]) for axis in dict.fromkeys(row.axis for row in rows)
    )


def _panel(axis: str, rows: Iterable[Metric]) -> PlotPanel:
    banded = next((row.name for row in rows if row.band is not None), "")
    return PlotPanel(axis, tuple(row.name for row in rows), banded)
