"""What storing gists in fewer bits costs: the error of the gists, and of the model behind a context of them.

    python benchmarks/gist_types.py CHECKPOINT TOKENS [--rows 400]

CHECKPOINT is one of a run with --mc, TOKENS the `val.tokens` of its token store (uint16). Each row is as long as in training;
its context is gists of LOD1 but for the newest 48 tokens, of which the last 32 are scored. Differences are paired by row, with
standard errors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mccore.megacontext.tree.tree import dequantize, quantize
from mccore.megacontext.working_context import assemble, context_inputs, context_targets
from mccore.runtime.open import open_model

RECENT, SCORED = 48, 32


def stored_as(gists: Tensor, kind: str) -> Tensor:
    """Gists [R, n, D] after they were stored as this type and read again."""
    if kind == "int8":
        return dequantize(quantize(gists.flatten(0, 1))).view_as(gists)
    return {"fp32": gists, "bf16": gists.bfloat16().float(), "none": torch.zeros_like(gists)}[kind]


@torch.inference_mode()
def measure(checkpoint: Path, tokens: Path, count: int) -> None:
    opened = open_model(checkpoint)
    gpt, nets = opened.gpt, opened.nets
    if nets is None:
        raise SystemExit(f"{checkpoint} was trained without --mc")
    size, length = nets.config.block_size, opened.config.model.max_seq_len
    stream = np.fromfile(tokens, dtype=np.uint16).astype(np.int64)
    starts = np.random.default_rng(0).choice(len(stream) // (length + 1), count, replace=False) * (length + 1)
    rows = torch.from_numpy(np.stack([stream[start : start + length + 1] for start in starts]))
    inputs, targets = rows[:, :-1], rows[:, 1:]
    blocks = (length - RECENT) // size
    recent = range(blocks * size, length)
    level = torch.tensor([1] * blocks + [0] * len(recent)).expand(count, -1)
    index = torch.tensor([*range(blocks), *recent]).expand(count, -1)
    embeddings = gpt.embed(inputs)
    exact: list[Tensor] = []
    for kind in ("fp32", "bf16", "int8", "none"):
        levels = [embeddings]
        for lod in (1, 2):  # each made from the stored one below, as in a tree
            below = levels[-1][:, : levels[-1].size(1) // size * size]
            made = nets.gistnet(below.reshape(-1, size, below.size(-1)), lod).view(count, -1, below.size(-1))
            levels.append(stored_as(made, kind))
        contexts = assemble(levels, torch.arange(count), level, index, size)
        hidden = gpt.hidden(**context_inputs(gpt, nets, contexts, inputs))
        nll = gpt.hidden_loss(hidden, context_targets(contexts, targets), reduction="none")[:, -SCORED:].mean(dim=1)
        if kind == "fp32":
            exact, plain = levels, nll
        difference = nll - plain
        error = [
            float(((a - b).norm(dim=-1) / a.norm(dim=-1)).mean()) for a, b in zip(exact[1:], levels[1:], strict=True)
        ]
        least = min(
            float(torch.cosine_similarity(a, b, dim=-1).min()) for a, b in zip(exact[1:], levels[1:], strict=True)
        )
        print(
            f"{kind}: relative error of LOD1 {error[0]:.5f}, of LOD2 {error[1]:.5f}, least cosine {least:.6f}; NLL "
            f"{float(nll.mean()):.5f}, minus fp32 {float(difference.mean()):+.1e} +- {float(difference.std()) / count**0.5:.1e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--rows", type=int, default=400)
    arguments = parser.parse_args()
    measure(arguments.checkpoint, arguments.tokens, arguments.rows)


if __name__ == "__main__":
    main()
