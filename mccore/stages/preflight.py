"""What is checked before a run begins, so that hours later nothing is found missing."""

from __future__ import annotations

from pathlib import Path

from mccore.config import RunConfig, stage_spec
from mccore.config.stages import CHAT_STAGES, evaluations
from mccore.data.corpora.catalogue import open_corpus
from mccore.errors import DataError
from mccore.host.text import spell
from mccore.tasks.catalogue import benchmark_names, check_source, open_free_task


def check_sources(config: RunConfig) -> None:
    """Raise DataError for a corpus, a source of conversations or a benchmark that isn't there, before hours are spent on getting
    to it."""
    open_corpus(config.data.corpus, shards=config.data.shards)
    for stage in CHAT_STAGES:
        mixture: dict[str, int] = getattr(config, stage).mixture if stage in config.stages else {}
        for name, count in mixture.items():
            if count:
                check_source(name)
                if stage_spec(stage).rollouts:
                    open_free_task(name)
    if any(spec.name in config.stages for spec in evaluations(chat=True)):
        for name in benchmark_names(config.eval.benchmarks):
            check_source(name)
    folder = config.eval.core_bundle
    asked = any(spec.name in config.stages for spec in evaluations(chat=False))
    if folder and asked and not (Path(folder) / "core.yaml").is_file():
        raise DataError(
            f"eval.core_bundle: {spell(folder)} holds no core.yaml",
            hint="name the folder that eval_bundle.zip unpacks to",
        )
