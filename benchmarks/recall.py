"""Synthetic recall: which Working Context knows the answer, for every setting and seed.

    python benchmarks/recall.py [--settings k8 k16 k32 alias lod2] [--seeds 0 1 2] [--longer] [--threads 1]

Each line is one training of about a minute. `--longer` evaluates on histories twice as long as trained, too. Set
MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ to 4000000000 on Linux: it halves the time of large elementwise operations.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from mccore.eval.context.recall import SETTINGS, evaluate_recall, run_recall, train_recall

COLUMNS = ("full", "window", "swapped", "gists", "random", "recency", "raw_attention", "lens", "lens_recall", "oracle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--longer", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| setting | seed | " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " | seconds |", flush=True)
    print("|---" * (len(COLUMNS) + 3) + "|", flush=True)
    for name in args.settings:
        for seed in args.seeds:
            setting = SETTINGS[name]
            if not args.longer:
                show(name, seed, run_recall(setting, seed))
                continue
            networks = train_recall(setting, seed)
            show(name, seed, evaluate_recall(*networks, setting))
            blocks = 2 * setting.task.blocks
            facts = min(
                setting.task.facts, setting.task.keys // blocks
            )  # where the keys don't suffice, fewer in each block
            longer = replace(setting, evaluation=setting.task.resized(blocks=blocks, facts=facts))
            show(f"{name}, twice as long", seed, evaluate_recall(*networks, longer))


def show(name: str, seed: int, found: dict[str, float]) -> None:
    figures = " | ".join(f"{found[column]:.3f}".removeprefix("0") for column in COLUMNS)
    print(f"| {name} | {seed} | {figures} | {found.get('seconds', 0):.0f} |", flush=True)


if __name__ == "__main__":
    main()
