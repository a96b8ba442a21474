"""How much sessions of a trained model may look up: fitted on validation documents, of which it has read none.

A part of the documents is set apart for that. `mccore eval context` reads the others, so that what is evaluated was never
fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mccore.data.corpora.document import Corpus, Document, hash_share
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.runtime.open import OpenModel

FIT_SHARE = 1 / 3  # of the validation documents


def is_fitted_to(document: Document) -> bool:
    """Whether lookups are fitted to a validation document."""
    return hash_share(f"lookup:{document.id}") < FIT_SHARE


def fit_documents(corpus: Corpus, tokenizer: Tokenizer) -> Iterator[NDArray[np.int64]]:
    """The ids of the documents that lookups are fitted to."""
    for document in corpus.documents("val"):
        if is_fitted_to(document):
            yield np.array([tokenizer.bos_id, *tokenizer.encode_to_array(document.text)], dtype=np.int64)


def fit_lookup(
    opened: OpenModel, corpus: Corpus, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any] | None:
    """Fit what the lookup of a model's sessions may say, and keep it beside its checkpoint: what it was fitted to, and what it
    gains there in nats per token. None where no document that is set apart is long enough.

    Raises UsageError for a model without MegaContext, RunError where the checkpoint can't be written to.
    """
    from mccore.megacontext.search.mixer_file import write_mixer
    from mccore.megacontext.sessions.lookup.fit import collect, fit, report

    sessions = opened.sessions()
    options = sessions.model.options
    least = options.wc_length + options.refocus_interval  # tokens of a document that is no longer all shown
    texts = fit_documents(corpus, opened.tokenizer)
    examples, documents = collect(sessions.new, texts, least=least, on_progress=on_progress)
    if examples is None:
        return None
    mixer = fit(examples)
    found = asdict(report(mixer, examples, documents))
    write_mixer(opened.checkpoint, opened.identity, mixer, found)
    return found
