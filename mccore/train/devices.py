"""What a rank computes on: device, compute type, and how fast it could be."""

from __future__ import annotations

import torch

from mccore.errors import ConfigError
from mccore.host.machine import cpu_key, cpu_multiplies_bf16, peak_bf16


def choose_device(wanted: str, local_rank: int = 0) -> torch.device:
    """The device of a rank: `auto` takes a GPU when there is one. Raises ConfigError when it isn't there."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("hardware.device is cuda, but PyTorch sees no GPU", hint="set hardware.device to auto or cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"rank {local_rank} of this machine has no GPU of its own: there are {torch.cuda.device_count()}",
            hint=f"set hardware.nproc to {torch.cuda.device_count()}",
        )
    return torch.device("cuda", local_rank)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The compute type: `auto` is bf16 on GPUs that have it, `native` on any device that has it; else fp32."""
    if wanted in ("auto", "native"):
        if device.type == "cuda":
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            has_bf16 = wanted == "native" and cpu_multiplies_bf16()
        wanted = "bf16" if has_bf16 else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[wanted]


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s that the device could reach in this type, where known."""
    if device.type != "cuda" or dtype is not torch.bfloat16:
        return None
    return peak_bf16(torch.cuda.get_device_name(device))


def device_name(device: torch.device) -> str:
    """What the device is called, the same for equal machines."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_key()
