"""Tokenizers in other formats: read back by ourselves, by tiktoken, and by Hugging Face's `tokenizers`."""

import inspect
import json
import textwrap

import pytest
import tiktoken
import tiktoken.load
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mccore.data.tokenizer.evaluate import FIXED_TEXTS
from mccore.data.tokenizer.formats import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    merges_of,
    read_huggingface,
    read_tiktoken,
    read_tokenizer,
    write_huggingface,
    write_tiktoken,
)
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import DataError, RunError

TEXT = inspect.getsource(textwrap) + "\n".join(FIXED_TEXTS.values())
BYTES = [bytes([i]) for i in range(256)]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([TEXT], 700)


@pytest.fixture(scope="module")
def huggingface(tokenizer, tmp_path_factory):
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("hf") / "tokenizer.json"
    write_huggingface(tokenizer, path)
    return tokenizers.Tokenizer.from_file(str(path))


def test_round_trip_through_tiktokens_ranks(tokenizer, tmp_path):
    path = tmp_path / "ours.tiktoken"
    write_tiktoken(tokenizer, path)
    again = read_tokenizer(read_tiktoken(path, tokenizer.pattern))
    assert again.fingerprint == tokenizer.fingerprint


def test_tiktoken_reads_its_ranks(tokenizer, tmp_path):
    path = tmp_path / "ours.tiktoken"
    write_tiktoken(tokenizer, path)
    ranks = tiktoken.load.load_tiktoken_bpe(str(path))
    theirs = tiktoken.Encoding(
        "ours", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens=tokenizer.specials
    )
    assert theirs.n_vocab == tokenizer.vocab_size
    assert theirs.encode_ordinary(TEXT) == tokenizer.encode(TEXT)


def test_round_trip_through_huggingfaces_file(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    write_huggingface(tokenizer, path)
    assert read_tokenizer(read_huggingface(path)).fingerprint == tokenizer.fingerprint
    # The merges as they were written by older versions of that format.
    content = json.loads(path.read_text())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    path.write_text(json.dumps(content))
    assert read_tokenizer(read_huggingface(path)).fingerprint == tokenizer.fingerprint


def test_huggingface_gives_the_same_ids(tokenizer, huggingface):
    assert huggingface.get_vocab_size() == tokenizer.vocab_size
    for text in (TEXT, *FIXED_TEXTS.values()):
        ids = huggingface.encode(text).ids
        assert ids == tokenizer.encode(text)
        assert huggingface.decode(ids) == text
    assert huggingface.encode("<|bos|>").ids == [tokenizer.bos_id]


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@example("<|output_end|>")
def test_huggingface_gives_the_same_ids_for_any_text(tokenizer, huggingface, text):
    # Hugging Face's encoder looks for special tokens in text unless told not to; ours never does.
    huggingface.encode_special_tokens = True
    try:
        assert huggingface.encode(text).ids == tokenizer.encode(text)
    finally:
        huggingface.encode_special_tokens = False


def test_a_file_that_huggingface_wrote(huggingface, tokenizer, tmp_path):
    huggingface.save(str(tmp_path / "tokenizer.json"))
    assert read_tokenizer(read_huggingface(tmp_path / "tokenizer.json")).fingerprint == tokenizer.fingerprint


def test_merges_are_the_pairs_that_were_learned():
    tokens = [*BYTES, b"ab", b"cd", b"abc", b"abcd"]
    assert merges_of(tokens) == [(b"a", b"b"), (b"c", b"d"), (b"ab", b"c"), (b"ab", b"cd")]
    with pytest.raises(DataError, match=r"token 256 .* isn't made by one merge"):
        merges_of([*BYTES, b"abc"])


def test_well_known_files_have_their_pattern(tokenizer, tmp_path):
    for name, pattern in (("gpt2.tiktoken", GPT2_PATTERN), ("cl100k_base.tiktoken", GPT4_PATTERN)):
        write_tiktoken(tokenizer, tmp_path / name)
        assert read_tiktoken(tmp_path / name).pattern == pattern
        tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks={b: i for i, b in enumerate(BYTES)}, special_tokens={})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("QQ== 0\nQg==\n", "line 2: not a token in base64 and a rank"),
        ("QQ== 0\n!!! 1\n", "line 2: not a token"),
        ("QQ== 0\nQg== two\n", "line 2: not a token"),
        ("QQ== 0\nQg== 2\n", "line 2: rank 2 instead of 1"),
    ],
)
def test_damaged_ranks(tmp_path, content, message):
    (tmp_path / "gpt2.tiktoken").write_text(content)
    with pytest.raises(DataError, match=message):
        read_tiktoken(tmp_path / "gpt2.tiktoken")


def change(content, place, value):
    *folders, last = place.split(".")
    for folder in folders:
        content = content[folder]
    content[last] = value


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("model", None, "isn't a tokenizer of Hugging Face's"),
        ("model.vocab", [], "isn't a tokenizer of Hugging Face's"),
        ("model.type", "WordPiece", "isn't byte-level BPE"),
        ("normalizer", {"type": "NFC"}, "isn't byte-level BPE"),
        ("pre_tokenizer", None, "isn't a tokenizer of Hugging Face's"),
        ("pre_tokenizer", {"type": "Whitespace"}, "isn't byte-level BPE"),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True}, "isn't byte-level BPE"),
        ("model.vocab", {"a": 0, "b": 2}, "have gaps"),
        ("model.vocab", {"漢": 0}, "which stands for no byte"),
        ("model.merges", [["a", "b"]], "don't come in the order"),
    ],
)
def test_files_of_huggingfaces_that_cannot_be_used(tokenizer, tmp_path, place, value, message):
    path = tmp_path / "tokenizer.json"
    write_huggingface(tokenizer, path)
    content = json.loads(path.read_text())
    change(content, place, value)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_huggingface(path)


def test_files_that_are_not_there_or_no_text(tokenizer, tmp_path):
    for read in (read_huggingface, lambda path: read_tiktoken(path, "x")):
        with pytest.raises(DataError, match="there is no"):
            read(tmp_path / "gone")
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match="can't read"):
            read(tmp_path / "binary")
    (tmp_path / "in the way").write_text("")
    for write in (write_tiktoken, write_huggingface):
        with pytest.raises(RunError, match="can't write"):
            write(tokenizer, tmp_path / "in the way" / "file")
