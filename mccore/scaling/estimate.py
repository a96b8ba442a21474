"""What a run will cost on this machine: tokens, FLOPs, seconds, memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mccore.config import TRAINING_STAGES, HardwareConfig, RunConfig
from mccore.host import machine
from mccore.scaling.megacontext import (
    MegaContextFlops,
    MegaContextParameters,
    VariantLengths,
    megacontext_flops,
    megacontext_parameters,
    variant_lengths,
)
from mccore.scaling.model import ParameterCount, count_parameters, flops_per_token
from mccore.scaling.plan import TrainPlan, memory_estimate, train_plan


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
