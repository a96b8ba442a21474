"""What is checked before a run begins, so that hours later nothing is found missing."""

from __future__ import annotations

from mccore.config import RunConfig
from mccore.data.corpora.catalogue import open_corpus
from mccore.tasks.catalogue import check_source


def check_sources(config: RunConfig) -> None:
    """Raise DataError for a corpus or a source of conversations that isn't there, before hours are spent on getting to it."""
    open_corpus(config.data.corpus)
    for section in (config.mid if "mid" in config.stages else None, config.sft if "sft" in config.stages else None):
        for name, count in section.mixture.items() if section else ():
            if count:
                check_source(name)
