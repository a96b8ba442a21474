"""What is checked before a run begins, so that hours later nothing is found missing."""

from __future__ import annotations

from mccore.config import RunConfig, stage_spec
from mccore.config.stages import CHAT_STAGES
from mccore.data.corpora.catalogue import open_corpus
from mccore.tasks.catalogue import check_source, open_free_task


def check_sources(config: RunConfig) -> None:
    """Raise DataError for a corpus or a source of conversations that isn't there, before hours are spent on getting to it."""
    open_corpus(config.data.corpus, shards=config.data.shards)
    for stage in CHAT_STAGES:
        mixture: dict[str, int] = getattr(config, stage).mixture if stage in config.stages else {}
        for name, count in mixture.items():
            if count:
                check_source(name)
                if stage_spec(stage).rollouts:
                    open_free_task(name)
