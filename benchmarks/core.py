"""CORE, bits per byte and the tasks' prompts beside nanochat's own code, on the same model and the same questions.

    python benchmarks/core.py CHECKOUT [--bundle FOLDER] [--limit 100] [--seeds 3] [--depth 4]

CHECKOUT is a clone of github.com/karpathy/nanochat, of which only `core_eval.py`, `loss_eval.py` and files of `tasks/` are
loaded. Without `--bundle` the questions are made here: of all three kinds, with and without few-shot examples. Models are random:
their answers are near chance, where a difference of a single token shows. Ends with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mccore.config import ModelConfig
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.eval.bits_per_byte import bits_per_byte
from mccore.eval.core import CoreTask, evaluate_core_task, read_bundle
from mccore.model.gpt import GPT
from mccore.tasks.benchmarks.free import final_answer
from mccore.tasks.benchmarks.humaneval import code_of, imports_of
from mccore.tasks.benchmarks.letters import LetterQuestion

KINDS = ("multiple_choice", "schema", "language_modeling")


def load(path: Path) -> Any:
    """A file of the checkout as a module; of what it imports of nanochat, only names are there."""
    for name in ("nanochat", "nanochat.common", "nanochat.execution", "tasks", "tasks.common"):
        stub = sys.modules.setdefault(name, types.ModuleType(name))
        for member in ("get_base_dir", "execute_code", "Task", "load_hub_dataset"):
            vars(stub).setdefault(member, object)
    spec = importlib.util.spec_from_file_location(f"theirs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TheirModel:
    """Our model as nanochat's code calls one."""

    def __init__(self, model: GPT) -> None:
        self._model = model

    def get_device(self) -> torch.device:
        return self._model.device

    def __call__(
        self, ids: torch.Tensor, targets: torch.Tensor | None = None, loss_reduction: str = "mean"
    ) -> torch.Tensor:
        if targets is not None:
            return self._model.loss(ids, targets, reduction="none")
        return self._model.logits(self._model.hidden(ids))


class TheirTokenizer:
    """Our tokenizer as nanochat's code calls one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def get_bos_token_id(self) -> int:
        return self._tokenizer.bos_id

    def __call__(self, prompts: Sequence[str], prepend: int) -> list[list[int]]:
        return [[prepend, *self._tokenizer.encode(prompt)] for prompt in prompts]


def made_tasks(folder: Path, words: Sequence[str], count: int) -> list[CoreTask]:
    """Questions of all kinds from words of a text."""
    rng, tasks = random.Random(0), []

    def phrase(low: int, high: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(low, high)))

    for kind in KINDS:
        items: list[dict[str, Any]] = []
        for _ in range(count):
            if kind == "multiple_choice":
                choices = [phrase(1, 5) for _ in range(4)]
                items.append(
                    {"query": phrase(3, 20) + rng.choice(("", " ")), "choices": choices, "gold": rng.randrange(4)}
                )
            elif kind == "schema":
                options = [phrase(2, 8), phrase(2, 8)]
                items.append({"context_options": options, "continuation": phrase(2, 6), "gold": rng.randrange(2)})
            else:
                items.append({"context": phrase(3, 20) + " ", "continuation": phrase(1, 2)})
        path = folder / f"{kind}.jsonl"
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
        for few_shot, delimiter in ((0, " "), (3, "\nAnswer: ")):
            tasks.append(CoreTask(f"{kind}, {few_shot} examples", kind, path, few_shot, delimiter, 0.25))
    return tasks


def compare_core(theirs: Any, model: GPT, tokenizer: Tokenizer, tasks: Sequence[CoreTask], limit: int) -> bool:
    """Whether every task's accuracy is the same; prints them."""
    same = True
    for task in tasks:
        meta = {"task_type": task.kind, "num_fewshot": task.few_shot, "continuation_delimiter": task.delimiter}
        items = task.items(limit)
        with torch.inference_mode():
            expected = theirs.evaluate_task(TheirModel(model), TheirTokenizer(tokenizer), items, model.device, meta)
        found = [
            evaluate_core_task(model, tokenizer, task, limit=limit, batch_rows=rows).accuracy.accuracy
            for rows in (7, 32)
        ]
        equal = all(abs(value - expected) < 1e-6 for value in found if value is not None)
        same &= equal
        print(
            f"{task.label:36} theirs {expected:.6f}  ours {found[0]:.6f} {found[1]:.6f}  {'same' if equal else 'DIFFERENT'}"
        )
    return same


def compare_bits(theirs: Any, model: GPT, tokenizer: Tokenizer, text: str) -> bool:
    """Whether bits per byte are the same up to their sums in single precision."""
    length = 128
    ids = torch.tensor([tokenizer.bos_id, *tokenizer.encode(text[:60_000])])
    rows = ids[: (len(ids) - 1) // length * length + 1]
    batches = [
        (rows[start : start + length][None], rows[start + 1 : start + length + 1][None])
        for start in range(0, len(rows) - 1, length)
    ]
    token_bytes = torch.from_numpy(tokenizer.token_bytes())
    with torch.inference_mode():
        expected = theirs.evaluate_bpb(TheirModel(model), batches, len(batches), token_bytes)
    found = bits_per_byte(model, batches, token_bytes).val_bpb
    equal = abs(found - expected) < 2e-6 * expected
    print(
        f"{'bits per byte':36} theirs {expected:.6f}  ours {found:.6f}  {'same' if equal else 'DIFFERENT'} (theirs sums in fp32)"
    )
    return equal


def compare_texts(checkout: Path) -> bool:
    """Whether prompts with letters, answers after ####, and code in replies are read as theirs are."""
    gsm8k, humaneval = load(checkout / "tasks" / "gsm8k.py"), load(checkout / "tasks" / "humaneval.py")
    common = load(checkout / "tasks" / "common.py")
    question = LetterQuestion("Which one?", ("A", "B", "C"), ("one", "two ", "three=A"), 1)
    replies = ("#### 5", "####5", "a\n#### -1,250.5 b\n#### 7", "#### .", "", "5", "#### 1.", "#### $5")
    codes = (
        "```python\nx\n```",
        "```\na\n```\n```\nb\n```",
        "x = 1",
        "```py\nx\n```",
        "text ```python\n\nx\n\n``` more",
    )
    prompts = ("import re\n\ndef f():\n", "# a\nfrom x import y\nimport z\nx = 1\nimport late", "\n\ndef f(): ...")
    checks = {
        "letters": common.render_mc(question.text, question.letters, question.choices) == question.render(),
        "final answers": all(gsm8k.extract_answer(reply) == final_answer(reply) for reply in replies),
        "code in replies": all(humaneval.extract_program(code) == code_of(code) for code in codes),
        "imports": all(humaneval.extract_imports(prompt) == imports_of(prompt) for prompt in prompts),
    }
    for name, equal in checks.items():
        print(f"{name:36} {'same' if equal else 'DIFFERENT'}")
    return all(checks.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=4)
    options = parser.parse_args()
    theirs = load(options.checkout / "nanochat" / "core_eval.py")
    bits = load(options.checkout / "nanochat" / "loss_eval.py")
    text = Path(random.__file__).read_text()
    tokenizer = Tokenizer.train([text], 512)
    same = compare_texts(options.checkout)
    with tempfile.TemporaryDirectory() as folder:
        words = sorted({word for word in text.split() if word.isalpha()})
        tasks = read_bundle(options.bundle) if options.bundle else made_tasks(Path(folder), words, options.limit)
        for seed in range(options.seeds):
            config = ModelConfig(
                depth=options.depth,
                n_embd=64,
                head_dim=16,
                n_head=4,
                n_kv_head=4,
                max_seq_len=1024,
                vocab_ids=tokenizer.vocab_size,
                vocab_size=512,
            )
            model = GPT(config, seed=seed)
            torch.manual_seed(seed)
            for parameter in model.parameters():  # freshly made models say the same to everything
                torch.nn.init.normal_(parameter, std=0.3)
            same &= compare_core(theirs, model, tokenizer, tasks, options.limit)
            same &= compare_bits(bits, model, tokenizer, text)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
