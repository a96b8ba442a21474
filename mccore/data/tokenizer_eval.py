"""How well a tokenizer compresses: bytes per id, on fixed texts of several kinds and on texts of the caller's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mccore.data.tokenizer import Tokenizer

# Short, and the same for every tokenizer, so that figures of different runs can be compared.
FIXED_TEXTS: Mapping[str, str] = {
    "english": (
        "The harbour was quiet that morning. Two fishermen mended their nets on the quay and spoke, as they always did, "
        "about the weather; a third had gone out before dawn and hadn't come back yet. Nobody worried. The sea lay flat "
        "and grey under a thin fog, and from the lighthouse came the slow, regular sound of the horn. By nine o'clock "
        "the first tourists would arrive, buy postcards, ask for the way to the museum and wonder why it was closed on "
        "Mondays.\n"
    ),
    "code": (
        "def moving_average(values: list[float], width: int) -> list[float]:\n"
        '    """Mean of every `width` neighbouring values."""\n'
        "    if width < 1:\n"
        '        raise ValueError(f"width must be positive, got {width}")\n'
        "    total = sum(values[:width])\n"
        "    means = [total / width]\n"
        "    for i in range(width, len(values)):\n"
        "        total += values[i] - values[i - width]\n"
        "        means.append(total / width)\n"
        "    return means\n\n\n"
        'if __name__ == "__main__":\n'
        "    print(moving_average([1.0, 2.5, 4.0, 8.0], width=2))\n"
    ),
    "german": (
        "Im Spätherbst wird es früh dunkel. Die Straßenlaternen gehen schon um fünf Uhr an, und über den Dächern hängt "
        "der Rauch der Kachelöfen. Wer jetzt noch draußen ist, geht schneller als sonst und freut sich auf eine Tasse "
        "Tee. Nur die Kinder merken nichts davon: Sie müssten längst zu Hause sein, aber das Fußballspiel ist noch nicht "
        "entschieden.\n"
    ),
    "chinese": (
        "清晨的公园里，老人们正在打太极拳，几个孩子沿着湖边的小路跑步。"
        "卖早点的小店刚刚开门，热腾腾的豆浆和油条的香味飘到了街上。今天是星期六，不用上学，也不用上班，大家都不着急。\n"
    ),
    "digits": "3.14159265358979 2718281828 1,048,576 0x7fff 2024-02-29 12:34:56 +44 20 7946 0958 17*23=391 1e-08\n",
    "whitespace": "a\n\n\n    b\n        c\t\td\n\n                e  f   g    h\r\n\r\n\t\t\ti\n" * 4,
}


def evaluate_tokenizer(tokenizer: Tokenizer, texts_by_name: Mapping[str, str | Iterable[str]]) -> dict[str, Any]:
    """Compression on `FIXED_TEXTS` and on `texts_by_name`, each a text or several documents.

    Returns `vocab_size`, `fingerprint` and `texts`: for each name `bytes`, `characters`, `tokens`, `bytes_per_token` (the
    factor over a tokenizer of raw bytes; 0 for an empty text) and `round_trip`, whether decoding gave back the text.
    """
    measured = {name: _measure(tokenizer, texts) for name, texts in {**FIXED_TEXTS, **texts_by_name}.items()}
    return {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint, "texts": measured}


def _measure(tokenizer: Tokenizer, texts: str | Iterable[str]) -> dict[str, Any]:
    n_bytes = n_characters = n_tokens = 0
    round_trip = True
    for text in [texts] if isinstance(texts, str) else texts:
        data = text.encode("utf-8", errors="replace")
        ids = tokenizer.encode(text)
        n_bytes += len(data)
        n_characters += len(text)
        n_tokens += len(ids)
        round_trip = round_trip and tokenizer.decode_bytes(ids) == data
    return {
        "bytes": n_bytes,
        "characters": n_characters,
        "tokens": n_tokens,
        "bytes_per_token": n_bytes / n_tokens if n_tokens else 0.0,
        "round_trip": round_trip,
    }
