"""What training costs beside the model: the loop, the loader, packing, encoding, checkpoints. On a CPU or a GPU.

    python benchmarks/training.py [--set model.depth=4 ...] [--steps 8] [--repeats 5] [--threads 1]

Each figure is a ratio against a reference measured in the same round, taking turns, so that a busy machine slows both:

    loop        time of a step of `train` / forward, backward and optimizer on a batch that lies ready
    loader      rows made per second / rows a step consumes per second (how far the background thread is ahead)
    encode      time of encoding the corpus into a store / of the tokenizer alone
    checkpoint  time of a checkpoint / of plain safetensors files of the same tensors; and what training waits for it
    packing     tokens lost at row lengths 256 to 2,048 / lost by filling rows greedily and cropping
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from mccore.data.batches.loader import Loader, StepShape
from mccore.data.batches.packing import pack_text
from mccore.data.batches.rows import Rows
from mccore.data.batches.store import TokenStore, build_store, encode_documents
from mccore.data.corpora.catalogue import open_corpus
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.model import GPT
from mccore.model.optim.optimizer import Optimizer, build_optimizer
from mccore.model.schedule import Schedule
from mccore.resolve.resolve import resolve
from mccore.runs.checkpoints import Meta
from mccore.train.checkpoint.write import CheckpointWriter, write_checkpoint
from mccore.train.devices import choose_device, choose_dtype
from mccore.train.loop import LoopSettings, Progress, train
from mccore.train.objective import NextTokenObjective
from mccore.train.world import World


class Silence:
    """Hooks that do nothing."""

    def on_step(self, progress: Progress, metrics: Mapping[str, float]) -> None: ...

    def evaluate(self, progress: Progress) -> None: ...

    def sample(self, progress: Progress) -> None: ...

    def save(self, progress: Progress) -> None: ...

    def stop_requested(self) -> bool:
        return False


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def tell(name: str, ours: list[float], reference: list[float], unit: str) -> None:
    """Median ratio of the rounds, its spread, and the medians themselves."""
    ratios = [a / b for a, b in zip(ours, reference, strict=True)]
    print(
        f"{name:<12} ratio {statistics.median(ratios):6.3f}  ({min(ratios):.3f} to {max(ratios):.3f})   "
        f"{statistics.median(ours):.4g} against {statistics.median(reference):.4g} {unit}",
        flush=True,
    )


def bench_loop(gpt: GPT, optimizer: Optimizer, rows: Rows, shape: StepShape, steps: int, repeats: int) -> None:
    objective = NextTokenObjective(gpt)
    world = World(device_name=str(gpt.device))
    ready = [batch.to(gpt.device) for batch in next(Loader(rows, shape).steps()).batches]

    def bare() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            for batch in ready:
                objective(batch).loss.backward()
            optimizer.step(Schedule(lr=0.01))

    def loop() -> None:
        with Loader(rows, shape, pin=gpt.device.type == "cuda") as loader:
            train(
                optimizer=optimizer,
                loader=loader,
                objective=objective,
                hooks=Silence(),
                world=world,
                settings=LoopSettings(steps, shape.rows * rows.length, lambda step: Schedule(lr=0.01)),
            )

    bare()
    rounds = [(timed(loop) / steps, timed(bare) / steps) for _ in range(repeats)]
    tell("loop", [a for a, _ in rounds], [b for _, b in rounds], "s per step")

    def load() -> None:
        for _ in islice(Loader(rows, shape).steps(), 4 * steps):
            pass

    made = [4 * steps * shape.rows / timed(load) for _ in range(repeats)]
    tell("loader", made, [shape.rows / b for _, b in rounds], "rows/s")


def bench_encode(tokenizer: Tokenizer, texts: list[tuple[str, str]], directory: Path, repeats: int) -> TokenStore:
    rounds = []
    for number in range(repeats):

        def build(number: int = number) -> TokenStore:
            documents = encode_documents(texts, lambda batch: tokenizer.encode_batch_to_array(batch, bos=True))
            return build_store(directory / f"store{number}", {}, tokenizer.vocab_size, {"train": documents})

        def alone() -> None:
            for _, text in texts:
                tokenizer.encode_to_array(text)

        rounds.append((timed(build), timed(alone)))
    tell(
        "encode", [a for a, _ in rounds], [b for _, b in rounds], f"s for {sum(len(t) for _, t in texts) / 1e6:.1f} MB"
    )
    return build(repeats)


def bench_checkpoint(model: nn.Module, optimizer: Optimizer, directory: Path, repeats: int) -> None:
    weights, optim = model.state_dict(), optimizer.state_dict()
    state = {f"model/{name}": tensor for name, tensor in weights.items()}
    state |= {f"optim/{name}": tensor for name, tensor in optim.items()}
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}

    def meta(step: int) -> Meta:
        return Meta("base", step, step, {}, "")

    began = time.perf_counter()
    write_checkpoint(directory / "ours", state, meta(0))
    first = time.perf_counter() - began
    rounds, waits = [], []
    for step in range(1, repeats + 1):
        ours = timed(lambda step=step: write_checkpoint(directory / "ours", state, meta(step)))  # type: ignore[misc]
        rounds.append((ours, timed(lambda: save_file(plain, directory / "plain.safetensors"))))
        with CheckpointWriter(directory / "background", keep_last=1) as writer:
            waits.append(timed(lambda writer=writer, step=step: writer.save(weights, optim, meta(step))))  # type: ignore[misc]
    size = sum(tensor.nbytes for tensor in plain.values()) / 1e6
    tell("checkpoint", [a for a, _ in rounds], [b for _, b in rounds], f"s for {size:.0f} MB, synced and hashed")
    print(f"{'':<12} training waits {1e3 * statistics.median(waits):.1f} ms; the first write imports: {first:.2f} s")


def bench_packing(lengths: list[int]) -> None:
    for length in (256, 512, 1024, 2048):
        width = length + 1
        ours = pack_text(lengths, width, np.random.default_rng(0))
        greedy = room = 0
        for number in np.random.default_rng(0).permutation(len(lengths)):
            room = room or width
            greedy += max(0, lengths[number] - room)
            room -= min(room, lengths[number])
        total = sum(lengths)
        print(f"{'packing':<12} rows of {length:>4}: {ours.lost / total:.2%} lost against {greedy / total:.2%} greedy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--documents", type=int, default=400, help="documents of the standard library to use")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = resolve(options.recipe, sets=options.set)
    device = choose_device("auto")
    texts = [(d.id, d.text) for d in islice(open_corpus("stdlib").documents("train"), options.documents)]
    tokenizer = Tokenizer.train((text for _, text in texts), config.tokenizer.vocab_size)
    gpt = GPT(config.model, compute_dtype=choose_dtype("auto", device)).to(device)
    model = nn.ModuleDict({"gpt": gpt})
    optimizer = build_optimizer(model, config, "base", prefix="gpt.")
    print(f"{device}, {options.threads} threads, {sum(p.numel() for p in gpt.parameters()):,} parameters")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        store = bench_encode(tokenizer, texts, directory, options.repeats)
        rows = Rows(store.split("train"), config.model.max_seq_len)
        step_rows = config.base.batch_tokens // config.model.max_seq_len
        bench_loop(
            gpt, optimizer, rows, StepShape(step_rows, config.base.micro_batch_rows), options.steps, options.repeats
        )
        bench_checkpoint(model, optimizer, directory, options.repeats)
        bench_packing(store.split("train").lengths.tolist())


if __name__ == "__main__":
    main()
