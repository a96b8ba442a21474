"""How well a tokenizer compresses: bytes per id, on fixed texts of several kinds and on texts of the caller's, beside other
vocabularies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from mccore.data.tokenizer.formats import Vocabulary, read_tiktoken
from mccore.data.tokenizer.huggingface import read_huggingface, read_json_file
from mccore.data.tokenizer.tokenizer import FILE_NAME, Tokenizer
from mccore.errors import DataError
from mccore.host.text import mend, open_regular, spell

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
    "russian": (
        "Зимой в деревне тихо. Снег лежит на крышах и на заборах, дым из труб поднимается прямо вверх, и только собака у "
        "магазина лает на каждого, кто проходит мимо. Почтальон приезжает два раза в неделю, если дорогу не замело.\n"
    ),
    "json": (
        '{"id": 4711, "name": "harbour", "tags": ["sea", "fog"], "position": {"lat": 54.3233, "lon": 10.1228}, '
        '"open": true, "visits": [12, 0, 7], "note": null}\n'
    ),
    "digits": "3.14159265358979 2718281828 1,048,576 0x7fff 2024-02-29 12:34:56 +44 20 7946 0958 17*23=391 1e-08\n",
    "whitespace": "a\n\n\n    b\n        c\t\td\n\n                e  f   g    h\r\n\r\n\t\t\ti\n" * 4,
}


class Encodes(Protocol):
    """What compression is measured of: our `Tokenizer` and any other vocabulary."""

    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""


class Ranks:
    """A vocabulary of tiktoken's: text to its ids."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises DataError for tokens or a pattern that no encoder can be made of."""
        import mccore_rustbpe

        self.vocab_size = len(vocabulary.tokens)
        self._ids = vocabulary.ids if vocabulary.ids[-1:] != [self.vocab_size - 1] else None
        try:
            self._encoder = mccore_rustbpe.Encoder(vocabulary.tokens, pattern=vocabulary.pattern)
        except ValueError as error:
            raise DataError(f"it can't be used: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Ids of a text; lone surrogates become U+FFFD."""
        ids: list[int] = self._encoder.encode(mend(text))
        return ids if self._ids is None else [self._ids[id] for id in ids]


def evaluate_tokenizer(
    tokenizer: Tokenizer,
    texts_by_name: Mapping[str, str | Iterable[str]],
    others: Mapping[str, Encodes] | None = None,
) -> dict[str, Any]:
    """Compression on `FIXED_TEXTS` and on `texts_by_name`, each a text or several documents, beside `others` by name.

    Returns `vocab_size`, `fingerprint` and `texts`: for each name `bytes`, `characters`, `tokens`, `bytes_per_token` (the
    factor over a tokenizer of raw bytes; 0 for an empty text) and `round_trip`, whether decoding gave back the text. With
    `others` also `others`: for each of them `vocab_size` and `bytes_per_token` by the names of the texts.
    """
    others = others or {}
    measured, compared = {}, {name: {} for name in others}
    for name, texts in {**FIXED_TEXTS, **texts_by_name}.items():
        documents = [texts] if isinstance(texts, str) else list(texts)
        measured[name] = _measure(tokenizer, documents)
        n_bytes = measured[name]["bytes"]
        for other, vocabulary in others.items():
            n_tokens = sum(len(vocabulary.encode(text)) for text in documents)
            compared[other][name] = n_bytes / n_tokens if n_tokens else 0.0
    result = {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint, "texts": measured}
    if others:
        result["others"] = {
            name: {"vocab_size": vocabulary.vocab_size, "bytes_per_token": compared[name]}
            for name, vocabulary in others.items()
        }
    return result


def read_vocabulary(path: Path, pattern: str | None = None) -> Encodes:
    """A vocabulary to compare with: a directory or file that `Tokenizer.save` or a run wrote, a file of tiktoken's ranks
    (`pattern` as for `read_tiktoken`), or a `tokenizer.json` of Hugging Face's. What a file is, its content says.

    Raises DataError for anything else, with what isn't supported.
    """
    path = Path(path)
    for directory in (path, path / "tokenizer"):
        if directory.is_dir() and (directory / FILE_NAME).is_file():
            path = directory / FILE_NAME
    if not is_json(path):
        try:
            return Ranks(read_tiktoken(path, pattern))
        except DataError as error:
            where = "" if spell(path) in error.message else f"{spell(path)}: "
            raise DataError(where + error.message, hint=error.hint) from error
    content = read_json_file(path)
    if isinstance(content, dict) and "format" in content and path.name == FILE_NAME:
        return Tokenizer.load(path.parent)
    return read_huggingface(path)


def is_json(path: Path) -> bool:
    """Whether a file holds JSON, by how it begins."""
    with open_regular(path) as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def present_vocabularies(directory: Path) -> dict[str, Encodes]:
    """The vocabularies that lie in `directory`, by the names of their files without endings; none where there is no such
    directory. Raises DataError for one that can't be read.
    """
    files = [*directory.glob("*.tiktoken"), *directory.glob("*.json")] if directory.is_dir() else []
    return {path.stem: read_vocabulary(path) for path in sorted(files)}


def _measure(tokenizer: Tokenizer, documents: Iterable[str]) -> dict[str, Any]:
    n_bytes = n_characters = n_tokens = 0
    round_trip = True
    for text in documents:
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
