"""The benchmarks' data sets on the stand-in hub: a few questions each, in the files, columns and types of the real ones."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.hub import StandInHub, parquet

WORKED = "Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.\nWorking 50 minutes, she earned 0.2 x 50 = $<<0.2*50=10>>10.\n#### 10"


def _typed(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    return buffer.getvalue()


_CHOICES = pa.struct([("text", pa.list_(pa.string())), ("label", pa.list_(pa.string()))])
_ARC = pa.schema([("id", pa.string()), ("question", pa.string()), ("choices", _CHOICES), ("answerKey", pa.string())])
_MMLU = pa.schema(
    [("question", pa.string()), ("subject", pa.string()), ("choices", pa.list_(pa.string())), ("answer", pa.int64())]
)
_MESSAGE = pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))
_TALK = pa.schema([("messages", _MESSAGE), ("source", pa.string())])
_EVAL = pa.schema([(name, pa.string()) for name in ("task_id", "prompt", "canonical_solution", "test", "entry_point")])


def arc(split: str, count: int) -> bytes:
    """Questions of ARC: the second has three choices, the third numbers instead of letters."""
    rows = []
    for number in range(count):
        labels = {1: ["A", "B", "C"], 2: ["1", "2", "3", "4"]}.get(number, ["A", "B", "C", "D"])
        texts = [f"{split} choice {number}.{place}" for place in range(len(labels))]
        rows.append(
            {
                "id": f"{split}_{number}",
                "question": f"Which is {split} {number}?",
                "choices": {"text": texts, "label": labels},
                "answerKey": labels[number % len(labels)],
            }
        )
    return _typed(rows, _ARC)


def mmlu(split: str, count: int) -> bytes:
    """Questions of MMLU; those to train on have no subject."""
    rows = [
        {
            "question": f"What about {split} {number}?",
            "subject": "" if split == "auxiliary_train" else "anatomy",
            "choices": [f"{split} {number} {letter}" for letter in "abcd"],
            "answer": number % 4,
        }
        for number in range(count)
    ]
    return _typed(rows, _MMLU)


def gsm8k(split: str, count: int) -> bytes:
    """Word problems; the first is the one that nanochat's documentation shows."""
    questions = [f"{split}: Weng earns $12 an hour. How much for 50 minutes?"] + [
        f"{split} {n} boxes?" for n in range(1, count)
    ]
    answers = [WORKED] + [
        f"It is 1000+{n}=<<1000+{n}={1000 + n}>>{1000 + n}.\n#### {1000 + n:,}" for n in range(1, count)
    ]
    return parquet(question=questions[:count], answer=answers[:count])


def smoltalk(split: str, count: int) -> bytes:
    """Conversations; every third has a system message."""
    rows = []
    for number in range(count):
        messages = [
            {"role": "user", "content": f"{split} question {number}"},
            {"role": "assistant", "content": f"Reply {number}"},
        ]
        if number % 3 == 0:
            messages.insert(0, {"role": "system", "content": "Be short."})
        rows.append({"messages": messages, "source": "made up"})
    return _typed(rows, _TALK)


def humaneval() -> bytes:
    """Two functions with their tests, one of them with an import before it."""
    rows = [
        {
            "task_id": "HumanEval/0",
            "prompt": 'from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n    """ Add them.\n    """\n',
            "canonical_solution": "    return sum(numbers)\n",
            "test": "\n\nM = {}\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n",
            "entry_point": "total",
        },
        {
            "task_id": "HumanEval/1",
            "prompt": "\n\ndef double(x):\n    ''' Twice x.\n    '''\n",
            "canonical_solution": "    return 2 * x\n",
            "test": "def check(candidate):\n    assert double(4) == 8\n    assert True\n",
            "entry_point": "double",
        },
    ]
    return _typed(rows, _EVAL)


def add_benchmarks(hub: StandInHub, count: int = 12) -> None:
    """Put all of them on the hub, `count` questions a split."""
    hub.add(
        "cais/mmlu",
        {
            f"all/{split}-00000-of-00001.parquet": mmlu(split, count)
            for split in ("auxiliary_train", "validation", "test", "dev")
        },
    )
    hub.add(
        "allenai/ai2_arc",
        {
            f"{name}/{split}-00000-of-00001.parquet": arc(split, count)
            for name in ("ARC-Easy", "ARC-Challenge")
            for split in ("train", "validation", "test")
        },
    )
    hub.add(
        "openai/gsm8k", {f"main/{split}-00000-of-00001.parquet": gsm8k(split, count) for split in ("train", "test")}
    )
    hub.add(
        "HuggingFaceTB/smol-smoltalk",
        {f"data/{split}-00000-of-00001.parquet": smoltalk(split, 8 * count) for split in ("train", "test")},
    )
    hub.add("openai/openai_humaneval", {"openai_humaneval/test-00000-of-00001.parquet": humaneval()})
