"""What is checked before a run begins, so that hours later nothing is found missing."""

from __future__ import annotations

from pathlib import Path

from mccore.config import RunConfig, stage_spec
from mccore.config.stages import CHAT_STAGES, REPORT_STAGE, StageName, evaluations
from mccore.data.corpora.catalogue import open_corpus
from mccore.data.hub.address import is_remote, parse_address
from mccore.errors import DataError
from mccore.host.text import open_regular, spell
from mccore.tasks.catalogue import benchmark_names, open_free_task, open_task


def check_sources(config: RunConfig, stages: tuple[StageName, ...] | None = None, *, ask_hub: bool = True) -> list[str]:
    """Raise DataError for a corpus, a source of conversations or a benchmark that isn't there, before hours are spent on getting
    to it.

    `stages` are those still to do, by default all of the run. Without `ask_hub` what is on the hub is only looked at for how
    it is spelled; returned are the names of what wasn't checked for that.
    """
    unchecked: dict[str, None] = {}
    if stages is None or any(not stage_spec(stage).chat and stage != REPORT_STAGE for stage in stages):
        if ask_hub or not is_remote(config.data.corpus):
            open_corpus(config.data.corpus, shards=config.data.shards)
        else:
            parse_address(config.data.corpus)
            unchecked[config.data.corpus] = None
    todo = config.stages if stages is None else stages
    tasks = {name: open_task(name) for name in _benchmarks(config, todo)}
    for stage in (stage for stage in CHAT_STAGES if stage in todo):
        for name in _mixture(config, stage):
            tasks[name] = (open_free_task if stage_spec(stage).rollouts else open_task)(name)
    for name, task in tasks.items():
        if ask_hub or not task.on_hub:
            task.check()
        else:
            unchecked[name] = None
    return list(unchecked)


def _mixture(config: RunConfig, stage: StageName) -> list[str]:
    """The sources of what a stage trains on. Raises DataError for none."""
    mixture: dict[str, int] = getattr(config, stage).mixture
    names = [name for name, count in mixture.items() if count]
    if not names:
        raise DataError(
            f"{stage}.mixture is empty", hint=f"name conversations, such as --set {stage}.mixture.stdlib_qa=1000"
        )
    return names


def _benchmarks(config: RunConfig, stages: tuple[StageName, ...]) -> list[str]:
    """The benchmarks that stages ask. Raises DataError for a folder of CORE's that holds none."""
    folder = config.eval.core_bundle
    asked = any(spec.name in stages for spec in evaluations(chat=False))
    if folder and asked:
        _check_bundle(Path(folder))
    chat = any(spec.name in stages for spec in evaluations(chat=True))
    return list(benchmark_names(config.eval.benchmarks)) if chat else []


def _check_bundle(folder: Path) -> None:
    """Raise DataError for a folder that isn't a bundle of CORE's, or lacks the questions of a task."""
    if not (folder / "core.yaml").is_file():
        raise DataError(
            f"eval.core_bundle: {spell(folder)} holds no core.yaml",
            hint="name the folder that eval_bundle.zip unpacks to",
        )
    from mccore.eval.core import read_bundle  # with torch, which only who names a bundle waits for

    for task in read_bundle(folder):
        open_regular(task.path).close()
