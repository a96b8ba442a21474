"""`mccore import`: models and tokenizers of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mccore.cli.named_path import NamedPath
from mccore.config.stages import TRAINING_STAGES
from mccore.errors import UsageError
from mccore.host.terminal import StatusLine, echo, echo_json
from mccore.host.text import spell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.exchange.incoming import Incoming
    from mccore.runs.rundir import RunDir

_DIRECTORY = click.argument("directory", type=NamedPath(path_type=Path), metavar="DIR")
_NAME = click.option("--name", required=True, help="Name of the run that is made.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")


@click.group("import")
def import_() -> None:
    """Make a run of another's model, or take another's tokenizer.

    The run can be talked to, served, evaluated, reported and exported like any other. What can't be taken exactly is refused
    with the reason, and nothing that a file says is executed.
    """


@import_.command()
@_DIRECTORY
@_NAME
@click.option(
    "--stage", type=click.Choice(TRAINING_STAGES), help="The one stage to take, or that of a lone checkpoint."
)
@click.option("--tag", help="The model, such as d20, where there are several.")
@click.option("--step", type=click.IntRange(0), help="Another checkpoint than the last.")
@click.option(
    "--tokenizer", "pickle", type=NamedPath(path_type=Path), help="Its tokenizer.pkl, where it lies elsewhere."
)
@click.option(
    "--exact-rotary",
    is_flag=True,
    help="Rotary tables in fp32 for a model of 2025, as transformers has them; its own code rounds them.",
)
@_JSON
def nanochat(
    directory: Path,
    name: str,
    stage: str | None,
    tag: str | None,
    step: int | None,
    pickle: Path | None,
    exact_rotary: bool,
    as_json: bool,
) -> None:
    """Make a run of a model of nanochat's.

    DIR is its base directory (~/.cache/nanochat), of which every stage's last checkpoint is taken, or one folder with
    model_<step>.pt and meta_<step>.json. Both published generations are known, by their tensors.
    """
    from mccore.exchange.nanochat import find_checkpoints, find_tokenizer, incoming
    from mccore.exchange.pickled import read_pickled_tokenizer

    found = find_checkpoints(directory, stage=stage, tag=tag, step=step)
    tokenizer = read_pickled_tokenizer(pickle or find_tokenizer(directory))
    models = [incoming(each, exact_rotary=exact_rotary) for each in found]
    corpus = "climbmix" if models[0].model.smear else "fineweb_edu"
    _make(name, models, tokenizer, "nanochat", corpus, as_json)


@import_.command()
@_DIRECTORY
@_NAME
@click.option(
    "--stage", type=click.Choice(TRAINING_STAGES), default="sft", show_default=True, help="What the model is."
)
@_JSON
def transformers(directory: Path, name: str, stage: str, as_json: bool) -> None:
    """Make a run of a folder of transformers' NanoChat class: config.json, model.safetensors and tokenizer.json."""
    from mccore.exchange.transformers import read_directory

    model, tokenizer = read_directory(directory, stage)
    _make(name, [model], tokenizer, "transformers", "fineweb_edu", as_json)


@import_.command()
@_DIRECTORY
@_NAME
@_JSON
def safetensors(directory: Path, name: str, as_json: bool) -> None:
    """Make a run of a folder that `mccore export --format safetensors` wrote, with its GistNet and LensNet."""
    from mccore.exchange.outgoing import read_exported

    model, tokenizer, recipe = read_exported(directory)
    _make(name, [model], tokenizer, recipe, "stdlib", as_json)


@import_.command()
@click.argument("file", type=NamedPath(path_type=Path), metavar="FILE")
@click.option("--out", type=NamedPath(path_type=Path, file_okay=False), required=True, help="Directory to write to.")
@click.option("--pattern", metavar="NAME|REGEX", help="How a file of ranks splits text, where its name doesn't tell.")
@_JSON
def tokenizer(file: Path, out: Path, pattern: str | None, as_json: bool) -> None:
    """Take a tokenizer: nanochat's tokenizer.pkl, Hugging Face's tokenizer.json, tiktoken's ranks, or one of ours.

    It must give the same ids for every text with our nine special tokens behind its own; what can't is refused with the reason.
    `mccore run --set tokenizer.source=DIR` trains a model with it.
    """
    from mccore.data.tokenizer.tokenizer import FILE_NAME
    from mccore.exchange.tokenizers import read_any

    if (out / FILE_NAME).exists():
        raise UsageError(f"{out / FILE_NAME} is there already", hint="choose another --out")
    taken = read_any(file, pattern)
    taken.save(out)
    if as_json:
        echo_json({"path": str(out / FILE_NAME), "vocab_size": taken.vocab_size, "fingerprint": taken.fingerprint})
        return
    echo(f"{taken.vocab_size:,} ids, fingerprint {taken.fingerprint[:12]}")
    echo(str(out / FILE_NAME))


def _make(name: str, models: Sequence[Incoming], tokenizer: Tokenizer, recipe: str, corpus: str, as_json: bool) -> None:
    from mccore.exchange.incoming import make_run

    line = StatusLine()
    line.show(f"reading {models[0].source}")
    try:
        run = make_run(
            name,
            models,
            tokenizer,
            recipe=recipe,
            corpus=corpus,
            made=lambda model: line.show(f"{model.stage} is written"),
        )
    finally:
        line.clear()
    _tell_run(run, models, as_json)


def _tell_run(run: RunDir, models: Sequence[Incoming], as_json: bool) -> None:
    if as_json:
        stages = {model.stage: {"step": model.step, "source": model.source} for model in models}
        echo_json({"run": run.name, "path": str(run.path), "stages": stages})
        return
    for model in models:
        echo(f"{model.stage}: step {model.step:,} from {model.source}")
    echo(f"{run.path}")
    echo(f"talk to it: mccore chat {spell(run.name)}")
