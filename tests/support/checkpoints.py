"""Checkpoints without a tensor in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mccore.runs.checkpoints import META_FILE, SUMS_FILE, Meta, checkpoint_path
from mccore.runs.rundir import RunDir


def write_checkpoint(run: RunDir, stage: str, step: int) -> Path:
    """A checkpoint that is complete, without a tensor in it."""
    path = checkpoint_path(run.checkpoint_dir(stage), step)
    path.mkdir(parents=True)
    files = {
        META_FILE: Meta(stage, step, step * 512, {}, "none").to_json(),
        "index.json": "{}",
        "model.safetensors": "weights",
    }
    for name, text in files.items():
        (path / name).write_text(text)
    sums = [f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in files.items()]
    (path / SUMS_FILE).write_text("".join(sums))
    return path
