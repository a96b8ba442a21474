"""What a training step with MegaContext costs, beside the plain step at equal tokens and the FLOPs that it has to cost.

    python benchmarks/megacontext_step.py [--threads 1] [--rounds 5] [--clock wall|cpu] [--dtype fp32|bf16] [--device cpu|cuda]
                                          [--shape 4x128x64/2048/256x16] [--block-size 16] [--variants 1 2 4] [--compile]

A shape is `depth x width x head_dim / vocabulary / sequence x rows`. Every round times a plain step and one with N variants
for each N, in alternation, each with forward, backward and optimizer. "ratio" is the median over rounds of time with
MegaContext over plain time, "FLOPs" the same ratio of the operations needed (`scaling.megacontext_flops_per_token`), "of it"
the one over the other: 1.00 would mean that MegaContext's operations run as fast as the plain ones. Variants are timed at half
the sequence's length, the middle of the curriculum, LensNet included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from mccore.config import BaseConfig, LensConfig, MegaContextConfig, ModelConfig, RunConfig, TokenizerConfig
from mccore.data.batches.loader import Batch
from mccore.megacontext.networks.networks import MegaContextNets, megacontext_groups
from mccore.megacontext.training.draw import StepDraw
from mccore.megacontext.training.objective import MegaContextObjective
from mccore.model.gpt import GPT
from mccore.model.optim.optimizer import Optimizer, build_optimizer
from mccore.model.schedule import Schedule
from mccore.scaling.derive import derive
from mccore.scaling.megacontext import megacontext_flops_per_token
from mccore.scaling.model import flops_per_token
from mccore.train.objective import NextTokenObjective, Objective

PROGRESS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", default="4x128x64/2048/256x16")
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--variants", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--gist-layers", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    def clock() -> float:
        if args.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() if args.clock == "wall" else time.process_time()

    steps: dict[int, Callable[[], None]] = {}
    flops: dict[int, float] = {}
    for variants in (0, *args.variants):
        steps[variants], flops[variants] = prepare(args, variants)
    seconds: dict[int, list[float]] = {variants: [] for variants in steps}
    for step in steps.values():
        step()  # warm up, compile
    for _ in range(args.rounds):
        for variants, step in steps.items():
            began = clock()
            step()
            seconds[variants].append(clock() - began)
    plain = statistics.median(seconds[0])
    print(
        f"{args.shape} K={args.block_size} {args.dtype} on {args.device}, {args.threads} threads; plain step {plain:.3f} s"
    )
    print(f"{'N':>3}{'ratio':>8}{'(spread)':>14}{'FLOPs':>8}{'of it':>8}")
    for variants in args.variants:
        ratios = sorted(mc / base for mc, base in zip(seconds[variants], seconds[0], strict=True))
        ratio, wanted = statistics.median(ratios), flops[variants] / flops[0]
        print(
            f"{variants:>3}{ratio:>8.2f}{f'({ratios[0]:.2f}-{ratios[-1]:.2f})':>14}{wanted:>8.2f}{ratio / wanted:>8.2f}"
        )


def prepare(args: argparse.Namespace, variants: int) -> tuple[Callable[[], None], float]:
    """One optimizer step with N variants (0: the plain objective), and its FLOPs per token."""
    layers, vocab, rows = args.shape.split("/")
    depth, width, head_dim = map(int, layers.split("x"))
    length, count = map(int, rows.split("x"))
    device, dtype = torch.device(args.device), torch.bfloat16 if args.dtype == "bf16" else torch.float32
    config = derive(
        RunConfig(
            tokenizer=TokenizerConfig(vocab_size=int(vocab)),
            model=ModelConfig(depth=depth, n_embd=width, head_dim=head_dim, max_seq_len=length, smear=True),
            base=BaseConfig(tokens=length * count * 10, batch_tokens=length * count),
            megacontext=MegaContextConfig(
                enabled=variants > 0,
                block_size=args.block_size,
                horizon=args.block_size,
                num_random_variants=variants,
                gistnet={"layers": args.gist_layers},
                lens=LensConfig(start=0.0),
                train_wc_length=length // 2,  # about the middle of the way from 80 % to 20 %
                wc_length_steps=1,
            ),
        )
    )
    with device:
        gpt = GPT(config.model, compute_dtype=dtype)
    tokens = torch.randint(0, int(vocab), (count, length + 1), device=device)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], count * length, 0, 0, PROGRESS)
    objective: Objective
    optimizer: Optimizer
    if not variants:
        objective = NextTokenObjective(gpt, compiled=args.compile)
        optimizer = build_optimizer(nn.ModuleDict({"gpt": gpt}), config, "base", prefix="gpt.", dtype=dtype)
        flops: float = flops_per_token(config.model)
    else:
        with device:
            nets = MegaContextNets(config.megacontext, config.model, dtype=dtype)
        groups = megacontext_groups(config.megacontext, "mc.", 1.0)
        model = nn.ModuleDict({"gpt": gpt, "mc": nets})
        optimizer = build_optimizer(model, config, "base", prefix="gpt.", extra=groups, dtype=dtype)
        mc = MegaContextObjective(gpt, nets, StepDraw(config.megacontext, length, 0), compiled=args.compile)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, mc.graphs)
        objective = mc
        flops = megacontext_flops_per_token(config)

    def step() -> None:
        objective(batch).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step(Schedule())
        optimizer.zero_grad()

    return step, flops


if __name__ == "__main__":
    main()
