"""Byte-level BPE in a `tokenizer.json` of Hugging Face's, run exactly as the file says.

Such a file isn't a list of ranks: the order of its merges is their priority, several may make one token, and `ignore_merges`
takes a piece that is a token as it is. So its own algorithm runs here, over the file's own ids, and nothing has to be assumed
equal. Every field is either used or refused by name.

Added tokens that are special never come out of a text: text is text (`encode_special_tokens = True` in `tokenizers`). The others,
such as runs of spaces, are vocabulary like any other.
"""

from __future__ import annotations

import heapq
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mccore.data.tokenizer.dialect import other_meaning
from mccore.errors import DataError
from mccore.host.text import mend, open_regular, spell, unreadable

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CACHED = 2**17  # pieces whose ids are remembered
_UNUSED = {"version", "post_processor", "decoder"}  # what frames the ids or turns them back into text
_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
# Marks and letters that Unicode got after version 9, which `tokenizers` normalizes by: it leaves them as they are, and so do we.
# Up to Unicode 18, compared with tokenizers 0.23.3 on all code points, alone and among other marks.
_LATER = (
    "0558 058B-058C 05C8-05C9 07FD 0897-089F 08CA-08D3 09FE 0C3C 0D3B-0D3C 0EBA 1715 1ABF-1AF0 1DF6-1DFA 209D-209F "
    "32FF A7F1-A7F4 A82C AB69 105C9 105E4 10781-107BF 10D24-10D27 10D69-10D6D 10EAB-10EAC 10ECB-10ECF 10EF0-10EFF "
    "10F46-10F50 10F82-10F85 11070 1133B 11380-113E2 1145E 11839-1183A 11938-11943 119E0 11A34 11A47 11A99 "
    "11D42-11D45 11D97 11F41-11F42 16121-1612F 16D68-16D6A 16FF0-16FF1 1B123-1B126 1CCD6-1CCF9 1D127-1D128 "
    "1D250-1D252 1D25B-1D25F 1D280-1D281 1D6A6 1DF95 1DFCD-1DFFF 1E030-1E06D 1E08F 1E130-1E136 1E2AE 1E2EC-1E2EF "
    "1E4EC-1E4EF 1E5EE-1E5EF 1E6E3-1E6F5 1F16C 1FBF0-1FBF9"
)
_UNKNOWN_THERE = re.compile(
    "([" + "".join("-".join(chr(int(end, 16)) for end in part.split("-")) for part in _LATER.split()) + "])"
)


class Added(NamedTuple):
    """A token beside the model's vocabulary that text turns into before it is split."""

    content: str
    id: int
    normalized: bool  # matched in the text as the normalizer leaves it


class SplitStep(NamedTuple):
    """One split of the text: at the matches of `pattern`; `keep_between` keeps what lies between them as pieces of its own."""

    pattern: str
    keep_between: bool


class HuggingFace:
    """A vocabulary of somebody else's: text to the ids that `tokenizers` gives for the same file."""

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Mapping[tuple[str, str], int],
        cuts: list[SplitStep],
        *,
        added: list[Added],
        normalize: Callable[[str], str],
        ignore_merges: bool,
    ) -> None:
        self.vocab, self.merges, self.cuts = vocab, merges, cuts
        self.vocab_size = len(vocab)
        self._normalize, self._ignore_merges = normalize, ignore_merges
        self._ids = {token.content: token.id for token in added}
        self._raw = _alternatives([token for token in added if not token.normalized])
        self._normal = _alternatives([token for token in added if token.normalized])
        self._cache: dict[str, list[int]] = {}

    @property
    def beside_ranks(self) -> list[str]:
        """What the file has beside tokens, merges and one pattern that loses no text, each in words."""
        found = ["a normalizer"] if self._normalize is not _unchanged else []
        found += ["added tokens that text turns into"] if self._ids else []
        found += ["pieces that are taken whole (ignore_merges)"] if self._ignore_merges else []
        found += [f"{len(self.cuts)} splits, one after the other"] if len(self.cuts) != 1 else []
        return found + ["a split that takes what matches only"] * any(not cut.keep_between for cut in self.cuts)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; lone surrogates become U+FFFD."""
        ids: list[int] = []
        for part, is_token in _cut_out(mend(text), self._raw):
            if is_token:
                ids.append(self._ids[part])
                continue
            for inner, is_normal_token in _cut_out(self._normalize(part), self._normal):
                if is_normal_token:
                    ids.append(self._ids[inner])
                else:
                    for piece in self._pieces(inner):
                        ids += self._encode_piece(piece)
        return ids

    def _pieces(self, text: str) -> Iterator[str]:
        pieces = [text]
        for cut in self.cuts:
            pieces = [part for piece in pieces for part in split_text(piece, cut)]
        return iter(pieces)

    def _encode_piece(self, piece: str) -> list[int]:
        known = self._cache.get(piece)
        if known is None:
            spelled = "".join(NAME_OF_BYTE[byte] for byte in piece.encode())
            whole = self.vocab.get(spelled) if self._ignore_merges else None
            known = [whole] if whole is not None else [self.vocab[part] for part in merge(spelled, self.merges)]
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            self._cache[piece] = known
        return known


def merge(symbols: str, merges: Mapping[tuple[str, str], int]) -> list[str]:
    """`symbols` after all merges: the pair of the lowest rank first, the leftmost of equals. O(n log n)."""
    parts: list[str | None] = list(symbols)
    after = list(range(1, len(parts) + 1))
    before = list(range(-1, len(parts) - 1))
    queue: list[tuple[int, int, str, str]] = []

    def push(left: int) -> None:
        right = after[left]
        if left >= 0 and right < len(parts):
            a, b = parts[left], parts[right]
            if a is not None and b is not None and (rank := merges.get((a, b))) is not None:
                heapq.heappush(queue, (rank, left, a, b))

    for left in range(len(parts) - 1):
        push(left)
    while queue:
        _, left, a, b = heapq.heappop(queue)
        right = after[left]
        if parts[left] != a or right >= len(parts) or parts[right] != b:
            continue  # one of the two has been merged since
        parts[left], parts[right] = a + b, None
        after[left] = after[right]
        if after[left] < len(parts):
            before[after[left]] = left
        push(left)
        if before[left] >= 0:
            push(before[left])
    return [part for part in parts if part is not None]


def split_text(text: str, cut: SplitStep) -> list[str]:
    """The pieces of a text by one split, in order. Raises DataError for a pattern that would lose text."""
    import mccore_rustbpe

    if not text:
        return []
    pieces: list[str] = mccore_rustbpe.split(text, pattern=cut.pattern)
    if not cut.keep_between or sum(map(len, pieces)) == len(text):
        return pieces
    # What lies between two matches is all the characters at which the pattern doesn't match.
    pieces = mccore_rustbpe.split(text, pattern=f"(?:{cut.pattern})|(?:(?!{cut.pattern})(?s:.))+")
    if "".join(pieces) != text:
        raise DataError(f"the split pattern {cut.pattern!r} loses text", hint="leave this file out")
    return pieces


def read_huggingface(path: Path) -> HuggingFace:
    """Read a byte-level BPE `tokenizer.json`.

    Raises DataError for a file that is missing, damaged or of another kind of tokenizer, naming what isn't supported.
    """
    path = Path(path)
    content = read_json_file(path)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(model, dict):
        raise _not_theirs(path, content)
    try:
        return _read_model(content, model, path)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{spell(path)} isn't a tokenizer of Hugging Face's, or is damaged: {error}", hint="fetch it again"
        ) from error


def _read_model(content: dict[str, Any], model: dict[str, Any], path: Path) -> HuggingFace:
    def refuse(what: str) -> DataError:
        return DataError(f"{spell(path)}: {what}", hint="its ids couldn't be given exactly, so it isn't read")

    added = content.get("added_tokens") or []
    vocab = _vocab(model, {token["content"] for token in added}, refuse)
    normalize = _normalizer(content.get("normalizer"), refuse)
    cuts = _cuts(content.get("pre_tokenizer"), refuse)
    _refuse_unknown(content, {*_UNUSED, "added_tokens", "model", "normalizer", "pre_tokenizer"}, "", refuse)
    known = {"type", "vocab", "merges", "ignore_merges", "unk_token", "fuse_unk", "byte_fallback"}
    _refuse_unknown(model, known, "model.", refuse)
    ids = _added_ids([token["content"] for token in added], vocab)
    tokens = [
        Added(token["content"], ids[token["content"]], bool(token.get("normalized", True)))
        for token in added
        if not token.get("special")
    ]
    for token in added:
        if not token.get("special") and (odd := [key for key in ("single_word", "lstrip", "rstrip") if token.get(key)]):
            raise refuse(f"the added token {token['content']!r} has {odd[0]}, which isn't supported")
    return HuggingFace(
        vocab,
        _merges(model["merges"], vocab, refuse),
        cuts,
        added=tokens,
        normalize=normalize,
        ignore_merges=bool(model.get("ignore_merges")),
    )


def _added_ids(names: list[str], vocab: Mapping[str, int]) -> dict[str, int]:
    """The ids that `tokenizers` gives added tokens: the vocabulary's own, else the next free ones, whatever the file says."""
    ids: dict[str, int] = {}
    for name in names:
        ids[name] = vocab[name] if name in vocab else max(len(vocab), max(ids.values(), default=-1) + 1)
    return ids


Refuse = Callable[[str], DataError]


def _vocab(model: dict[str, Any], added: set[str], refuse: Refuse) -> dict[str, int]:
    if model.get("type", "BPE") != "BPE":
        raise refuse(f"it is a {model['type']} model: it isn't byte-level BPE")
    vocab: dict[str, int] = model["vocab"]
    if wrong := next((token for token, id in vocab.items() if type(id) is not int or not 0 <= id < 2**31), None):
        raise refuse(f"the id of the token {wrong!r:.60} isn't a number that an id can be: {vocab[wrong]!r:.60}")
    missing = next((byte for byte, name in NAME_OF_BYTE.items() if name not in vocab), None)
    odd = next((token for token in vocab if token not in added and not set(token) <= BYTE_OF_NAME.keys()), None)
    if (missing is not None or odd is not None) and model.get("byte_fallback"):
        raise refuse(
            "it is SentencePiece's kind of BPE (byte_fallback), whose tokens are characters: it isn't byte-level BPE"
        )
    if missing is not None:
        raise refuse(f"it has no token for the byte {missing}: it isn't byte-level BPE")
    if odd is not None:
        raise refuse(f"the token {odd!r} isn't made of bytes: it isn't byte-level BPE")
    return vocab


def _merges(listed: list[Any], vocab: Mapping[str, int], refuse: Refuse) -> dict[tuple[str, str], int]:
    merges: dict[tuple[str, str], int] = {}
    for rank, pair in enumerate(listed):
        left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise refuse(f"merge {rank} ({left!r} and {right!r}) doesn't make a token from two")
        merges[left, right] = rank
    return merges


def _normalizer(value: Any, refuse: Refuse) -> Callable[[str], str]:
    if value is None:
        return _unchanged
    kind = value["type"]
    if kind == "Sequence":
        steps = [_normalizer(step, refuse) for step in value["normalizers"]]

        def all_of(text: str) -> str:
            for step in steps:
                text = step(text)
            return text

        return all_of
    if kind not in _FORMS:
        raise refuse(f"its normalizer {kind} isn't supported (NFC, NFD, NFKC and NFKD are)")
    return lambda text: "".join(
        part if place % 2 else unicodedata.normalize(kind, part)
        for place, part in enumerate(_UNKNOWN_THERE.split(text))
    )


def _unchanged(text: str) -> str:
    return text


def _cuts(value: Any, refuse: Refuse) -> list[SplitStep]:
    if value is None:
        raise refuse("it has no pre-tokenizer: it isn't byte-level BPE")
    steps = value["pretokenizers"] if value["type"] == "Sequence" else [value]
    cuts: list[SplitStep] = []
    for place, step in enumerate(steps):
        last = place == len(steps) - 1
        if step["type"] == "ByteLevel" and last:
            if step.get("add_prefix_space", True):
                raise refuse("its ByteLevel pre-tokenizer has add_prefix_space, which isn't supported")
            _refuse_unknown(step, {"type", "trim_offsets", "use_regex", "add_prefix_space"}, "ByteLevel ", refuse)
            return [*cuts, SplitStep(GPT2_PATTERN, True)] if step.get("use_regex", True) else cuts
        cuts.append(_split(step, refuse))
    raise refuse("its pre-tokenizers don't end with ByteLevel: it isn't byte-level BPE")


def _split(step: dict[str, Any], refuse: Refuse) -> SplitStep:
    if step["type"] != "Split":
        raise refuse(f"its pre-tokenizer {step['type']} isn't supported (Split and a last ByteLevel are)")
    _refuse_unknown(step, {"type", "pattern", "behavior", "invert"}, "Split ", refuse)
    pattern = step["pattern"]
    regex = pattern["Regex"] if "Regex" in pattern else re.escape(pattern["String"])
    if part := other_meaning(regex):
        raise refuse(f"its split pattern has {part!r}, which can mean something else here than to its own library")
    behavior, invert = step["behavior"], bool(step.get("invert"))
    if behavior != "Isolated" and not (behavior == "Removed" and invert):
        raise refuse(f"its Split with the behavior {behavior}{'' if invert else ', not inverted'}, isn't supported")
    cut = SplitStep(regex, behavior == "Isolated")
    try:
        split_text("a 1", cut)
    except ValueError as error:
        raise refuse(f"its split pattern can't be used: {error}") from error
    return cut


def _refuse_unknown(value: Mapping[str, Any], known: set[str], where: str, refuse: Refuse) -> None:
    """Refuse every field that is set and that nothing here reads."""
    for key, setting in value.items():
        if key not in known and setting not in (None, False, "", [], {}, 0):
            raise refuse(f"{where}{key} is {setting!r:.60}, which isn't supported")


def _alternatives(tokens: list[Added]) -> re.Pattern[str] | None:
    """A pattern that finds any of the tokens, of several at one place the longest."""
    names = sorted((token.content for token in tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names))) if names else None


def _cut_out(text: str, pattern: re.Pattern[str] | None) -> Iterator[tuple[str, bool]]:
    at = 0
    for found in pattern.finditer(text) if pattern else ():
        if found.start() > at:
            yield text[at : found.start()], False
        yield found.group(), True
        at = found.end()
    if at < len(text):
        yield text[at:], False


def _not_theirs(path: Path, content: Any) -> DataError:
    """The error for JSON that isn't a file of Hugging Face's: what it is, and what can be compared with instead."""
    if isinstance(content, dict) and isinstance(content.get("vocab"), list) and "config" in content:
        return DataError(
            f"{spell(path)} is Mistral's Tekken, a format of its own: ranks, of which only the first are used, and a pattern",
            hint="take the tokenizer.json of the same model; or write the ranks that are used to a file in tiktoken's format, "
            "and give Tekken's config.pattern with --pattern",
        )
    return DataError(
        f"{spell(path)} isn't a tokenizer of Hugging Face's: it has no model",
        hint="byte-level BPE tokenizer.json files can be read",
    )


def read_json_file(path: Path) -> Any:
    """The value in a JSON file of somebody else's. Raises DataError."""
    with open_regular(path) as file:
        try:
            return json.loads(file.read().decode("utf-8-sig"))
        except OSError as error:
            raise unreadable(error, path) from error
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{spell(path)} isn't a tokenizer of Hugging Face's, or is damaged: {error}", hint="fetch it again"
            ) from error


def _byte_names() -> dict[int, str]:
    """The character that stands for each byte in byte-level vocabularies: printable ones for themselves, others shifted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    names = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in names)
    return names | {byte: chr(256 + i) for i, byte in enumerate(others)}


NAME_OF_BYTE = _byte_names()
BYTE_OF_NAME = {name: byte for byte, name in NAME_OF_BYTE.items()}
