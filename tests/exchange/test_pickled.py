"""nanochat's pickled tokenizer is read by a reader that runs nothing."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from contextlib import suppress
from pathlib import Path

import pytest
import tiktoken

from mccore.data.tokenizer.tokenizer import SPECIALS, Tokenizer
from mccore.errors import DataError
from mccore.exchange.pickled import read_pickled_tokenizer
from tests.exchange.reference import encoding, write_tokenizer

TEXT = "the theatre of the then, 1234 and  \n 東京 <|bos|>"


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return Tokenizer.train([TEXT * 3], 290)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_same_tokenizer_comes_out(tmp_path: Path, trained: Tokenizer, protocol: int) -> None:
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(pickle.dumps(encoding(trained), protocol=max(protocol, 3)))
    taken = read_pickled_tokenizer(path)
    assert taken.fingerprint == trained.fingerprint
    assert taken.encode(TEXT) == encoding(trained).encode_ordinary(TEXT)
    assert {name: taken.special(name) for name in SPECIALS} == trained.specials


class Runs:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def hostile(marker: Path, trained: Tokenizer) -> list[bytes]:
    """Pickles that run a command in an ordinary reader, each by another opcode."""
    inside = encoding(trained).__getstate__()
    assert isinstance(inside, dict)
    inside["name"] = Runs(f"touch {marker}")
    command = f"touch {marker}"
    return [
        pickle.dumps(Runs(command), protocol=0),
        pickle.dumps(Runs(command), protocol=5),
        pickle.dumps(inside),
        b"cos\nsystem\n(S'" + command.encode() + b"'\ntR.",
        b"(S'" + command.encode() + b"'\nios\nsystem\n.",  # INST
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(command)]) + command.encode() + b"\x85R.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"Pelsewhere\n.",  # a persistent id
        b"\x82\x01.",  # an extension code
    ]


def test_nothing_of_it_is_run(tmp_path: Path, trained: Tokenizer) -> None:
    marker, path = tmp_path / "done", tmp_path / "tokenizer.pkl"
    for content in hostile(marker, trained):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"tokenizer\.pkl"):
            read_pickled_tokenizer(path)
        assert not marker.exists()
    path.write_bytes(hostile(marker, trained)[0])
    with pytest.raises(DataError, match=r"names posix\.system.*nothing of it was run"):
        read_pickled_tokenizer(path)


def test_a_file_cut_or_changed_anywhere_is_an_error_or_the_same(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    whole = write_tokenizer(tmp_path, byte_tokenizer).read_bytes()
    path = tmp_path / "damaged.pkl"
    places = [position for _, _, position in pickletools.genops(io.BytesIO(whole)) if position is not None][::37]
    for place in places:
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :]):
            path.write_bytes(content)
            with suppress(DataError):
                assert read_pickled_tokenizer(path).vocab_size == byte_tokenizer.vocab_size


def test_what_ours_cannot_be_exactly_is_refused(tmp_path: Path, trained: Tokenizer) -> None:
    ranks = {token: rank for rank, token in enumerate(trained.tokens)}
    specials = dict(trained.specials)

    def refused(message: str, ranks: dict[bytes, int] = ranks, specials: dict[str, int] = specials) -> None:
        made = tiktoken.Encoding("x", pat_str=trained.pattern, mergeable_ranks=ranks, special_tokens=specials)
        path = tmp_path / "tokenizer.pkl"
        path.write_bytes(pickle.dumps(made))
        with pytest.raises(DataError, match=message):
            read_pickled_tokenizer(path)

    refused(r"special tokens aren't nanochat's nine.*<\|endoftext\|>", specials={"<|endoftext|>": len(ranks)})
    refused("special tokens aren't nanochat's nine.*their ids", specials={n: id + 1 for n, id in specials.items()})
    refused("bytes 0 to 255 in order", ranks={**ranks, b"a": ranks[b"b"], b"b": ranks[b"a"]})
    refused("from 0 on", ranks={token: rank + 1 for token, rank in ranks.items()}, specials={})
    path = tmp_path / "other.pkl"
    for value, message in (({"a": 1}, "doesn't hold a tokenizer"), ([1], "doesn't hold a tokenizer")):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(DataError, match=message):
            read_pickled_tokenizer(path)
    with pytest.raises(DataError, match=r"nowhere\.pkl"):
        read_pickled_tokenizer(tmp_path / "nowhere.pkl")
