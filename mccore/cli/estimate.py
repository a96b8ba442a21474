"""What a run will cost, before it starts: parameters, tokens, FLOPs, steps, time and memory on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mccore import machine
from mccore.config import TRAINING_STAGES, HardwareConfig, RunConfig
from mccore.scaling import (
    MegaContextFlops,
    MegaContextParameters,
    ParameterCount,
    TrainPlan,
    VariantLengths,
    count_parameters,
    flops_per_token,
    megacontext_flops,
    megacontext_parameters,
    memory_estimate,
    train_plan,
    variant_lengths,
)
from mccore.units import count, duration, size


@dataclass(frozen=True)
class MegaContextCost:
    """What MegaContext adds to a run: networks, training contexts through a stage, operations per token."""

    parameters: MegaContextParameters
    lengths: tuple[VariantLengths, ...]
    flops: MegaContextFlops


@dataclass(frozen=True)
class Estimate:
    """The cost of a run. `seconds` is by training stage, None where the data decides how much there is to train on."""

    parameters: ParameterCount
    flops_per_token: int  # of the plain model
    megacontext: MegaContextCost | None
    plans: tuple[TrainPlan, ...]
    seconds: dict[str, float | None]
    memory_bytes: int  # per rank
    device: str
    device_memory_bytes: int
    dtype: str
    speed: machine.Speed
    devices: int

    @property
    def total_seconds(self) -> float:
        """Training time that can be told in advance."""
        return sum(value for value in self.seconds.values() if value is not None)

    def to_json(self) -> dict[str, Any]:
        """The estimate as one JSON object."""
        return {
            "parameters": {
                **asdict(self.parameters),
                "total": self.parameters.total,
                "scaling": self.parameters.scaling,
            },
            "flops_per_token": self.flops_per_token,
            "megacontext": self._megacontext_json(),
            "stages": {plan.stage: {**asdict(plan), "seconds": self.seconds[plan.stage]} for plan in self.plans},
            "tokens": sum(plan.tokens for plan in self.plans),
            "flops": sum(plan.flops for plan in self.plans),
            "seconds": self.total_seconds,
            "memory_bytes_per_rank": self.memory_bytes,
            "device": {
                "name": self.device,
                "count": self.devices,
                "memory_bytes": self.device_memory_bytes,
                "dtype": self.dtype,
                "flops_per_second": self.speed.flops_per_second,
                "measured": self.speed.measured,
                "source": self.speed.source,
            },
        }

    def _megacontext_json(self) -> dict[str, Any] | None:
        if self.megacontext is None:
            return None
        cost = self.megacontext
        return {
            "parameters": {**asdict(cost.parameters), "total": cost.parameters.total},
            "variant_lengths": [part._asdict() for part in cost.lengths],
            "flops_per_token": {**asdict(cost.flops), "total": cost.flops.total},
        }


def estimate(config: RunConfig, hardware: HardwareConfig | None = None) -> Estimate:
    """Estimate a derived configuration on this machine; `hardware` replaces the configuration's own."""
    hardware = hardware or config.hardware
    gpus = machine.accelerators()
    kind: Literal["cpu", "cuda"] = (
        "cuda" if hardware.device == "cuda" or (hardware.device == "auto" and gpus) else "cpu"
    )
    dtype: str = hardware.dtype
    if dtype in ("auto", "native"):
        has_bf16 = kind == "cuda" or (dtype == "native" and machine.cpu_multiplies_bf16())
        dtype = "bf16" if has_bf16 else "fp32"
    speed = machine.speed(kind, dtype)
    # Ranks on a CPU share its cores; each GPU is one more.
    devices = hardware.nnodes * (hardware.nproc if kind == "cuda" else 1)
    plans = tuple(train_plan(config, stage) for stage in config.stages if stage in TRAINING_STAGES)
    total = speed.flops_per_second * devices
    memory = max(
        (memory_estimate(config, plan.stage, activation_bytes=2 if dtype == "bf16" else 4).total for plan in plans),
        default=0,
    )
    if kind == "cuda":
        device, device_memory = (gpus[0].name, gpus[0].memory_bytes) if gpus else ("GPU (none here)", 0)
    else:
        import psutil

        device, device_memory = machine.cpu_name(), psutil.virtual_memory().total
    return Estimate(
        parameters=count_parameters(config.model),
        flops_per_token=flops_per_token(config.model),
        megacontext=MegaContextCost(megacontext_parameters(config), variant_lengths(config), megacontext_flops(config))
        if config.megacontext.enabled
        else None,
        plans=plans,
        seconds={plan.stage: plan.flops / total if plan.steps else None for plan in plans},
        memory_bytes=memory,
        device=device,
        device_memory_bytes=device_memory,
        dtype=dtype,
        speed=speed,
        devices=devices,
    )


def describe(config: RunConfig, cost: Estimate) -> list[str]:
    """The plan of a run in lines: what it will do, what it costs, what was derived."""
    model, optim = config.model, config.optim
    lines = [
        f"recipe      {config.recipe or '-'}: {' > '.join(config.stages)}",
        f"model       depth {model.depth}, width {model.n_embd}, {model.n_head} heads ({model.n_kv_head} kv), "
        f"sequence {model.max_seq_len:,}, vocabulary {model.vocab_size:,}",
        f"parameters  {count(cost.parameters.total)} ({count(cost.parameters.matrices)} in matrices, "
        f"{count(cost.parameters.embedding + cost.parameters.value_embeddings)} in embeddings, "
        f"{count(cost.parameters.head)} in the head)",
        f"rates       x{optim.lr_batch_scale:.3g} for the batch, x{optim.lr_width_scale:.3g} for the width, "
        f"decay x{optim.weight_decay_scale:.3g}",
    ]
    if cost.megacontext is not None:
        lines += _describe_megacontext(config, cost.megacontext, cost.flops_per_token)
    for plan in cost.plans:
        shape = f"batch {count(plan.batch_tokens)} tokens = {plan.rows} rows in {plan.accumulation} passes"
        seconds = cost.seconds[plan.stage]
        if plan.steps and seconds is not None:
            lines.append(
                f"{plan.stage:<12}{plan.steps:,} steps, {count(plan.tokens)} tokens, {plan.flops:.2e} FLOPs, "
                f"{shape}, about {duration(seconds)}"
            )
        else:
            lines.append(f"{plan.stage:<12}one epoch of its conversations, {shape}")
    lines.append(f"device      {cost.devices} x {cost.device}, {cost.dtype}; {cost.speed.source}")
    lines.append(
        f"memory      about {size(cost.memory_bytes)} per rank; the device has {size(cost.device_memory_bytes)}"
    )
    if cost.plans:
        lines.append(f"time        about {duration(cost.total_seconds)} of training, evaluation and data not counted")
    if cost.memory_bytes > cost.device_memory_bytes > 0:
        lines.append(
            "warning     that is more memory than the device has: lower the micro_batch_rows, or use another --gpu"
        )
    return lines


def _describe_megacontext(config: RunConfig, cost: MegaContextCost, plain: int) -> list[str]:
    """What was derived for MegaContext, and what it costs beside the plain model."""
    mc, tokens = config.megacontext, config.model.max_seq_len
    flops, added = cost.flops, cost.parameters
    odd, even = mc.num_random_variants // 2, mc.num_random_variants - mc.num_random_variants // 2
    parts = [
        f"{name} {count(value)}"
        for name, value in (("GistNet", added.gistnet), ("LensNet", added.lensnet), ("bias", added.bias),
                            ("decoder", added.decoder))
        if value
    ]  # fmt: skip
    if mc.num_random_variants == 1:
        kinds = "1, in turns with and without expanded blocks"
    else:
        kinds = f"{even} with gists only in the far past, {odd} with {mc.expanded_blocks} blocks expanded"
    lines = [
        f"megacontext blocks of {mc.block_size}, up to LOD{mc.max_lod}; {count(added.total)} parameters more: "
        f"{', '.join(parts)}",
        f"variants    per sequence of {tokens:,} tokens: {kinds}",
    ]
    if mc.num_random_variants:
        lengths = list(dict.fromkeys(cost.lengths))
        lines.append(
            f"            entries {' > '.join(f'{part.coarse}/{part.mixed}' for part in lengths)} through a stage; the "
            f"last {mc.recent_tokens} tokens stay tokens, {mc.horizon} of them judge"
        )
        last, wanted = cost.lengths[-1], mc.train_wc_length
        if last.mixed - wanted >= mc.block_size:
            lines.append(
                f"            no context of {wanted} entries exists: blocks of {mc.block_size} before {mc.recent_tokens} recent "
                f"tokens leave {last.mixed} at least"
            )
    shares = [
        f"{name} {part / flops.total:.0%}"
        for name, part in (("plain", flops.plain), ("variants", flops.variants), ("GistNet", flops.gistnet),
                           ("LensNet", flops.lensnet), ("rebuilding", flops.reconstruction))
        if part
    ]  # fmt: skip
    lines.append(
        f"operations  {count(flops.total)} FLOPs per token, {flops.total / plain:.2f} times the plain model's {count(plain)}: "
        f"{', '.join(shares)}"
    )
    return lines
