"""`LookupMixer` for one row on a CPU: forty small operations, which take numpy a fraction of the time that they take torch."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mccore.megacontext.search.lookup import Matches
from mccore.megacontext.search.mixing import FLOOR, KIND, LENGTHS, MOST, LookupMixer

Floats = NDArray[np.float32]


class Mixed(NamedTuple):
    """Log-probabilities [V], the tokens that followed the matches int64 [G], and what the lookup gives each [G]."""

    log: Floats
    token: NDArray[np.int64]
    given: Floats


def mix_one(mixer: LookupMixer, logits: Floats, matches: Matches, shown: NDArray[np.bool_], tokens: int) -> Mixed:
    """What `mixer` says of logits [V] behind a history of so many tokens, with its matches and which of them are shown [C]."""
    most = logits.max()
    exp = np.exp(logits - most)
    total = exp.sum()
    own = logits - (most + np.log(total))
    if not len(matches.place):
        return Mixed(own, matches.token, np.zeros(0, np.float32))
    weights = {name: tensor.detach().numpy() for name, tensor in mixer.named_parameters()}
    kind = KIND[matches.length]
    age = np.log((tokens + 1 - matches.place).astype(np.float32))
    score = weights["by_kind"][kind] + weights["by_age"][kind] * age + weights["by_shown"][kind] * shown
    share = np.exp(score - score.max())
    token, group = np.unique(matches.token, return_inverse=True)
    q = np.bincount(group, share / share.sum(), len(token)).astype(np.float32)
    theirs = own[token]
    longest = kind.max()
    of_longest = kind == longest
    at = q.argmax()
    features = np.zeros(len(LENGTHS) + 8, np.float32)
    features[longest] = 1.0
    features[len(LENGTHS) :] = (
        math.log1p(np.count_nonzero(of_longest)),
        q[at],
        math.log(max(1 - float(q[at]), 0.02)),
        max(theirs[at], FLOOR) / 4,
        np.dot(q, np.maximum(theirs, FLOOR)) / 4,
        -np.dot(exp, np.maximum(own, FLOOR)) / total / 4,
        shown[of_longest].mean(),
        age[of_longest].min() / 8,
    )
    hidden = np.tanh(weights["hidden.weight"] @ features + weights["hidden.bias"])
    say = min(float(weights["out.weight"][0] @ hidden + weights["out.bias"][0]), MOST)
    log_rest = -math.log1p(math.exp(say)) if say < 0 else -say - math.log1p(math.exp(-say))  # of 1 - w
    given = q * np.float32(math.exp(log_rest + say))
    mixed = own + np.float32(log_rest)
    mixed[token] = np.logaddexp(mixed[token], np.log(np.maximum(given, math.exp(FLOOR))))
    return Mixed(mixed, token, given)
