"""A bundle of CORE in its published form: a task of each kind, a few questions each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ITEMS: dict[str, list[dict[str, Any]]] = {
    "multiple_choice": [
        {"query": f"The number after {n} is ", "choices": [f"{n + 1}", f"{n + 2}", f"{n + 11}", f"{n}"], "gold": n % 4}
        for n in range(12)
    ],
    "schema": [
        {"context_options": [f"The cup number {n}", f"The box number {n}x"], "continuation": "was too small.", "gold": n % 2}
        for n in range(8)
    ],
    "language_modeling": [{"context": f"One two three {n} ", "continuation": f"four {n}"} for n in range(8)],
}  # fmt: skip

_TASKS = (
    ("hellaswag", "multiple_choice", 2, None, 25.0), ("winograd", "schema", 0, None, 50.0),
    ("lambada_openai", "language_modeling", 1, "\\nAnswer: ", 0.0),
)  # fmt: skip


def write_bundle(folder: Path) -> Path:
    """Write the bundle; returns its folder."""
    (folder / "eval_data").mkdir(parents=True)
    listed, guesses = ["icl_tasks:"], ["Eval Task,Task Category,Random baseline"]
    for label, kind, few_shot, delimiter, guess in _TASKS:
        listed += ["-", f"  label: {label}", f"  dataset_uri: {label}.jsonl", f"  num_fewshot: [{few_shot}]"]
        listed += [f"  icl_task_type: {kind}"] + ([f'  continuation_delimiter: "{delimiter}"'] if delimiter else [])
        guesses.append(f"{label},language understanding,{guess}")
        lines = (json.dumps(item) + "\n" for item in ITEMS[kind])
        (folder / "eval_data" / f"{label}.jsonl").write_text("".join(lines))
    (folder / "core.yaml").write_text("\n".join(listed) + "\n")
    (folder / "eval_meta_data.csv").write_text("\n".join(guesses) + "\n")
    return folder
