"""A model card from a run's report: what the model is, what it learned from, what was measured, what it can't do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from mccore.config import RunConfig
from mccore.config.stages import CHAT_STAGES, evaluations
from mccore.report.pages.markdown import table
from mccore.report.pages.summary import figures
from mccore.report.shape import Report

_LOAD = {
    "transformers": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
chat = [{"role": "user", "content": "Why is the sky blue?"}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
reply = tokenizer.decode(model.generate(**prompt, max_new_tokens=64)[0])
```""",
    "safetensors": """`model.safetensors` holds the tensors by mccore's names and `config.json` every constant of their
arithmetic. `mccore import safetensors FOLDER` makes a run of them.""",
}


def render_card(report: Report, config: RunConfig, stage: str, kind: str, notes: Iterable[str]) -> str:
    """README.md of an exported model. report: of its run; stage: whose weights they are; notes: what stayed behind."""
    model, parameters = config.model, (report["model"]["parameters"] or {}).get("total")
    size = f"{parameters:,} parameters, " if parameters else ""
    parts = [
        _front_matter(kind),
        f"# {report['run']}",
        f"A language model of {size}{model.depth} layers and width {model.n_embd}, for contexts of up to "
        f"{model.max_seq_len:,} tokens. These are the weights after its stage `{stage}`. It was made with mccore by the "
        f"recipe `{config.recipe}`; this card was written from the report of that run.",
        *(f"**{note}**" for note in notes),
        "## Use",
        _LOAD[kind],
        "The tokenizer's ids are those of the training. Hugging Face's library turns the names of special tokens in a text "
        "into those tokens: take them out of what strangers write.",
        "## Training",
        table(("what", "value"), _learned_from(report, config)),
        "## Results",
        *_results(report),
        "## Limits",
        "A small model: it states false things with confidence, and nothing was done to make its answers safe. Figures above "
        "are of the data sets that they name, and hold for those alone.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(kind: str) -> str:
    library = "transformers" if kind == "transformers" else "mccore"
    lines = ["---", f"library_name: {library}", "pipeline_tag: text-generation", "language: en", "tags:"]
    return "\n".join([*lines, "- nanochat", "- mccore", "---"])


def _learned_from(report: Report, config: RunConfig) -> list[tuple[str, str]]:
    rows = [("text", f"`{_public(config.data.corpus)}`"), ("vocabulary", f"{config.model.vocab_ids:,} ids")]
    rows += [(f"{name} conversations", _mixture(config, name)) for name in CHAT_STAGES if name in config.stages]
    for name, result in report["results"].items():
        if (source := (result.get("imported") or {}).get("source")) is not None:
            rows.append((f"{name}: imported from", f"`{_public(source)}`"))
        elif "tokens" in result and "loss" in result:
            rows.append((name, f"{result['tokens']:,} tokens, loss {result['loss']:.4f}"))
    return rows


def _mixture(config: RunConfig, stage: str) -> str:
    mixture = getattr(config, stage).mixture
    return ", ".join(f"`{_public(name)}` {count:,}" for name, count in mixture.items()) or "unknown"


def _public(source: str) -> str:
    """A source without the folders it lies in on this machine."""
    kind, colon, path = source.partition(":")
    return f"{kind}{colon}{PurePath(path).name}" if colon and kind != "hf" else PurePath(source).name


def _results(report: Report) -> Iterable[str]:
    measured = {spec.name for chat in (True, False) for spec in evaluations(chat=chat)}
    if not measured & report["results"].keys():
        yield "Nothing was measured in this run."
        return
    yield table(("figure", "value"), figures(report))
    if report["missing"]:
        yield "Not measured: " + "; ".join(f"{entry['what']} ({entry['why']})" for entry in report["missing"]) + "."
