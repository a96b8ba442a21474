"""Tokenizers in other formats: read back by ourselves, by tiktoken, and by Hugging Face's `tokenizers`."""

import base64
import inspect
import json
import textwrap

import pytest
import tiktoken
import tiktoken.load
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mccore.data.tokenizer.evaluate import FIXED_TEXTS, read_vocabulary
from mccore.data.tokenizer.formats import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    merges_of,
    read_tiktoken,
    read_tokenizer,
    write_huggingface,
    write_tiktoken,
)
from mccore.data.tokenizer.huggingface import NAME_OF_BYTE, read_huggingface
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
        ("QQ== 0\nQg== 0\n", "line 2: the rank 0 comes twice"),
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
        ("model.end_of_word_suffix", "</w>", "model.end_of_word_suffix is '</w>'"),  # DF5
        ("model.continuing_subword_prefix", "##", "model.continuing_subword_prefix is '##'"),
        ("model.dropout", 0.1, "model.dropout is 0.1"),
        ("model.nobody_knows", 1, "model.nobody_knows is 1"),
        ("truncation", {"max_length": 3}, "truncation is"),
        ("normalizer", {"type": "Lowercase"}, "its normalizer Lowercase isn't supported"),
        ("pre_tokenizer", None, "it has no pre-tokenizer"),  # DF6
        ("pre_tokenizer", {"type": "Whitespace"}, "its pre-tokenizer Whitespace isn't supported"),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True}, "add_prefix_space"),
        ("model.vocab", {"a": 0, "b": 2}, "no token for the byte 33"),
        ("model.merges", [["a", "Ġ"], ["q", "漢"]], "merge 0 .* doesn't make a token"),
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
        with pytest.raises(DataError, match=r"can't read .*No such file"):
            read(tmp_path / "gone")
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match=r"can't read|isn't a tokenizer"):
            read(tmp_path / "binary")
    (tmp_path / "in the way").write_text("")
    for write in (write_tiktoken, write_huggingface):
        with pytest.raises(RunError, match="can't write"):
            write(tokenizer, tmp_path / "in the way" / "file")


# --- Files of other makers: crafted after the faults of real ones, compared with the library itself ---------------------


def craft(path, extra, merges, **model):
    """A byte-level tokenizer.json: 256 bytes, then `extra` tokens in id order."""
    names = [NAME_OF_BYTE[byte] for byte in range(256)]
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: id for id, token in enumerate([*names, *extra])}, "merges": merges, **model,
        },
    }  # fmt: skip
    content.update({key: model.pop(key) for key in list(model) if key in content})
    path.write_text(json.dumps(content))
    return path


def added(content, id, special):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id, "content": content, "special": special, **flags}


LAST = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def splits(*steps):
    keys = ("pattern", "behavior", "invert")
    cuts = [
        {"type": "Split", **dict(zip(keys, ({"Regex": pattern}, behavior, invert), strict=True))}
        for pattern, behavior, invert in steps
    ]
    return {"type": "Sequence", "pretokenizers": [*cuts, LAST]}


def changed(path, **fields):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | fields))
    return path


CRAFTED = {
    # DF1: several merges make one token, in any order, and pieces are taken whole.
    "several splits": {"extra": ["ab", "bc", "abc"], "merges": [["a", "b"], ["ab", "c"], ["b", "c"], ["a", "bc"]]},
    "ignore_merges": {"extra": ["ab", "bc", "abc"], "merges": [["b", "c"]], "ignore_merges": True},
    # DF4: merges that don't make their token, and a token that no merge makes.
    "merges that don't join": {"extra": ["ab", "bc", "abc"], "merges": [["a", "b"], ["b", "c"], ["a", "bc"]]},
    "a token without a merge": {"extra": ["zzz", "ab"], "merges": [["a", "b"]]},
    "merges as text": {"extra": ["ab", "abc"], "merges": ["a b", "ab c"]},
    "one pair twice": {"extra": ["ab", "bc"], "merges": [["a", "b"], ["b", "c"], ["a", "b"]]},
}
TOP = {
    # DF3: what a pattern leaves between its matches is a piece too; inverted and removed, it is dropped.
    "gaps": {"pre_tokenizer": splits(("b+", "Isolated", False))},
    "inverted": {"pre_tokenizer": splits(("b+", "Isolated", True))},
    "removed": {"pre_tokenizer": splits(("b+", "Removed", True))},
    "three in a row": {
        "pre_tokenizer": splits((r"\d", "Isolated", False), ("[a-b]+", "Isolated", False), (r"\s+", "Isolated", False))
    },
    "looking ahead": {"pre_tokenizer": splits(("b(?=c)", "Isolated", False))},
    # DF1: a normalizer that does nothing; the forms of Unicode.
    "no normalizers": {"normalizer": {"type": "Sequence", "normalizers": []}},
    "nfc": {"normalizer": {"type": "NFC"}},
    "nfkc in a sequence": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}},
    # DF5: added tokens that aren't special, runs of spaces as in Phi.
    "added": {"added_tokens": [added("    ", 300, False), added("  ", 301, False), added("<s>", 302, True)]},
    "added, normalized": {
        "normalizer": {"type": "NFC"},
        "added_tokens": [{**added("\u00e9", 300, False), "normalized": True}],
    },
}
TEXTS = [
    "abc",
    "zzz",
    "ababcbc",
    "a    b  c   d",
    "<s>abc<s>",
    "bbbabb cc bbc",
    "a1b22c333 \n x",
    "e\u0301 \u00e9 \ufb01 \u212b",
    "bbbc",
]


@pytest.mark.parametrize("name", [*CRAFTED, *TOP])
def test_a_file_gives_the_ids_of_its_own_library(tmp_path, name):
    """DF1, DF3, DF4, DF5."""
    tokenizers = pytest.importorskip("tokenizers")
    path = craft(tmp_path / "tokenizer.json", **CRAFTED.get(name, CRAFTED["several splits"]))
    changed(path, **TOP.get(name, {}))
    theirs = tokenizers.Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True
    ours = read_vocabulary(tmp_path)  # DF2: by what it holds, not by its name
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text).ids, text


@given(st.text(st.sampled_from("abc z 1\n\u0301e"), max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_text_through_a_file_with_gaps(tmp_path_factory, text):
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("t") / "tokenizer.json"
    craft(path, **CRAFTED["one pair twice"])
    changed(
        path,
        pre_tokenizer=splits(("b+(?!c)", "Isolated", False), (" ?a", "Isolated", False)),
        normalizer={"type": "NFC"},
    )
    assert read_huggingface(path).encode(text) == tokenizers.Tokenizer.from_file(str(path)).encode(text).ids


def test_the_reason_is_said_whatever_the_name(tmp_path):
    """DF2, DF6: SentencePiece's files and Tekken."""
    path = craft(tmp_path / "tokenizer.json", [], [], byte_fallback=True)
    content = json.loads(path.read_text())
    content["model"]["vocab"] = {"<unk>": 0, "<0x00>": 3}
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="SentencePiece's kind of BPE"):
        read_vocabulary(tmp_path)
    path.write_text(json.dumps({"config": {"pattern": "x"}, "vocab": [], "special_tokens": []}))
    with pytest.raises(DataError, match="is Mistral's Tekken") as caught:
        read_vocabulary(path)
    assert "tiktoken's format" in caught.value.hint
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(DataError, match="SentencePiece"):
        read_vocabulary(tmp_path / "tokenizer.model", "gpt2")


def test_ranks_with_gaps_and_patterns_that_are_named(tmp_path):
    """DF7: p50k has no rank 50256, Whisper's file ends with an empty token, o200k's pattern is known or given."""
    ranks = [(token, rank) for rank, token in enumerate([*BYTES, b"ab"])] + [(b"bc", 258), (b"", 259), (b"abc", 300)]
    lines = "".join(f"{base64.b64encode(token).decode() or '='} {rank}\n" for token, rank in ranks)
    for name, pattern in (("p50k_base.tiktoken", None), ("multilingual.tiktoken", None), ("tokenizer.model", "llama3")):
        (tmp_path / name).write_text(lines)
        theirs = tiktoken.Encoding(
            "x",
            pat_str=read_tiktoken(tmp_path / name, pattern).pattern,
            mergeable_ranks={t: r for t, r in ranks if t},
            special_tokens={},
        )
        for text in TEXTS:
            assert read_vocabulary(tmp_path / name, pattern).encode(text) == theirs.encode_ordinary(text)
    with pytest.raises(DataError, match="isn't known") as caught:
        read_vocabulary(tmp_path / "tokenizer.model")
    assert "--pattern" in caught.value.hint
    assert read_vocabulary(tmp_path / "tokenizer.model", "[a-z]+|[^a-z]+").encode("abc") == [300]
