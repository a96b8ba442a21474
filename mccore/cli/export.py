"""`mccore export`: a trained model in a format that others load."""

from __future__ import annotations

from pathlib import Path

import click

from mccore.cli.named_path import NamedPath
from mccore.host.terminal import echo, echo_json


@click.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["safetensors", "transformers", "gguf"]),
    required=True,
    help="safetensors holds every model; transformers one that its NanoChat class computes alike.",
)
@click.option(
    "--out", type=NamedPath(path_type=Path, file_okay=False), required=True, help="Folder to write; a new one."
)
@click.option("--stage", help="Stage whose newest checkpoint is meant; default: the last one that trained.")
@click.option("--step", type=click.IntRange(0), help="Another checkpoint of that stage than the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def export(run: str, kind: str, out: Path, stage: str | None, step: int | None, as_json: bool) -> None:
    """Write RUN's model to a folder: tensors, configuration, tokenizer.json and a model card made from the report.

    The folder is written whole or not at all. What a format can't hold is refused by name: nothing is approximated.
    """
    from mccore.exchange.outgoing import export as export_model
    from mccore.runtime.open import find_checkpoint, find_run

    found = find_run(run)
    stage, checkpoint = find_checkpoint(found, stage, step)
    exported = export_model(checkpoint, kind, out)
    if as_json:
        echo_json(
            {
                "run": found.name,
                "stage": stage,
                "format": kind,
                "folder": str(exported.folder),
                "files": list(exported.files),
                "notes": list(exported.notes),
            }
        )
        return
    echo(f"{found.name}, {stage}: {', '.join(exported.files)}")
    for note in exported.notes:
        echo(note)
    echo(str(exported.folder))
