"""Speed of one training step of small models, against the speed of a plain matrix product of the same kind.

    python benchmarks/model_step.py [--threads 2] [--rounds 5] [--clock wall|cpu] [--dtype fp32 fp32-bf16 bf16] [--shape ...]

A shape is `depth x width x head_dim / vocabulary / sequence x rows`, as 4x128x32/2048/256x32. "fp32-bf16" keeps fp32
tensors and lets oneDNN multiply in bf16. Each round times one step and, right after it, a product [rows * sequence, width]
x [width, 4 * width] in the same dtype: the limit. The table gives medians over rounds and the spread of the ratio (lowest
to highest), which is what stays comparable on a busy machine; `--clock cpu` divides the process's CPU time by its threads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

from mccore.config import BaseConfig, ModelConfig, RunConfig, TokenizerConfig
from mccore.model import GPT, build_optimizer, schedule
from mccore.scaling.derive import derive
from mccore.scaling.model import count_parameters, flops_per_token

SHAPES = ("4x128x32/2048/256x32", "4x128x64/4096/512x16", "4x256x64/4096/256x32", "6x192x64/4096/512x16")


@dataclass(frozen=True)
class Sample:
    """Seconds of one round."""

    forward: float
    loss: float
    backward: float
    optimizer: float
    limit: float  # FLOP/s of the plain product

    @property
    def step(self) -> float:
        return self.forward + self.loss + self.backward + self.optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--dtype", nargs="+", choices=("fp32", "fp32-bf16", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--shape", nargs="+", default=list(SHAPES))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.clock == "wall" else lambda: time.process_time() / args.threads
    header = f"{'shape':26}{'parameters':>11}{'dtype':>11}{'tokens/s':>10}{'GFLOP/s':>9}{'limit':>7}{'ratio':>7}"
    print(header + f"{'(spread)':>12}  forward/loss/backward/optimizer %")
    for shape in args.shape:
        for dtype in args.dtype:
            report(shape, dtype, args.rounds, clock)


def parse_shape(shape: str) -> tuple[RunConfig, int]:
    """The configuration of a shape and its rows per step."""
    body, vocabulary, batch = shape.split("/")
    depth, width, head_dim = map(int, body.split("x"))
    length, rows = map(int, batch.split("x"))
    config = RunConfig(
        tokenizer=TokenizerConfig(vocab_size=int(vocabulary)),
        model=ModelConfig(depth=depth, n_embd=width, head_dim=head_dim, max_seq_len=length),
        base=BaseConfig(tokens=1000 * rows * length, batch_tokens=rows * length, micro_batch_rows=rows),
    )
    return derive(config), rows


def report(shape: str, dtype: str, rounds: int, clock: Callable[[], float]) -> None:
    """Measure one shape and print its line."""
    config, rows = parse_shape(shape)
    samples = measure(config, rows, dtype, rounds, clock)
    tokens = config.base.batch_tokens
    flops = flops_per_token(config.model) * tokens
    ratios = [flops / sample.step / sample.limit for sample in samples]
    step = statistics.median(sample.step for sample in samples)
    limit = statistics.median(sample.limit for sample in samples)
    parts = [statistics.median(getattr(s, part) / s.step for s in samples) for part in list(Sample.__annotations__)[:4]]
    print(
        f"{shape:26}{count_parameters(config.model).total:>11,}{dtype:>11}{tokens / step:>10,.0f}{flops / step / 1e9:>9.1f}"
        f"{limit / 1e9:>7.0f}{statistics.median(ratios):>7.2f}{min(ratios):>7.2f}-{max(ratios):.2f}  "
        + "/".join(f"{100 * part:.0f}" for part in parts),
        flush=True,
    )


def measure(config: RunConfig, rows: int, dtype: str, rounds: int, clock: Callable[[], float]) -> list[Sample]:
    """Time `rounds` steps after one to warm up."""
    torch.backends.mkldnn.matmul.fp32_precision = "bf16" if dtype == "fp32-bf16" else "ieee"
    compute = torch.bfloat16 if dtype == "bf16" else torch.float32
    model = GPT(config.model, compute_dtype=compute)
    optimizer = build_optimizer(model, config, "base", dtype=compute)
    data = torch.randint(0, config.model.vocab_ids, (rows, config.model.max_seq_len + 1))
    tokens, targets = data[:, :-1].contiguous(), data[:, 1:].contiguous()
    width = config.model.n_embd
    left = torch.randn(rows * config.model.max_seq_len, width).to(compute)
    right = torch.randn(width, 4 * width).to(compute)
    samples = []
    for step in range(rounds + 1):
        marks = [clock()]
        hidden = model.hidden(tokens)
        marks.append(clock())
        loss = model.hidden_loss(hidden, targets)
        marks.append(clock())
        loss.backward()
        marks.append(clock())
        optimizer.step(schedule(step, 1000, config.base, config.optim))
        optimizer.zero_grad()
        marks.append(clock())
        products = max(3, 2**12 // width)
        start = clock()
        for _ in range(products):
            torch.mm(left, right)
        seconds = clock() - start
        limit = products * 2 * left.numel() * 4 * width / seconds
        durations = [after - before for before, after in pairwise(marks)]
        if step:
            samples.append(Sample(*durations, limit=limit))
    return samples


if __name__ == "__main__":
    main()
