"""Patterns that two engines of regular expressions take alike: ours, and Oniguruma in Hugging Face's `tokenizers`."""

import json

import mccore_rustbpe
import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mccore.data.tokenizer.dialect import PROPERTIES, other_meaning
from mccore.data.tokenizer.formats import GPT4_PATTERN, KNOWN_PATTERNS, write_huggingface
from mccore.data.tokenizer.huggingface import NAME_OF_BYTE, read_huggingface
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import DataError

# The first two planes, where nearly all characters are, and every 16th of the others.
CHARACTERS = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 16))]


def theirs(pattern, text):
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "removed", invert=True)
    return [piece for piece, _ in split.pre_tokenize_str(text)]


def ours(pattern, text):
    return mccore_rustbpe.split(text, pattern=pattern)


@pytest.mark.parametrize("name", [*(f"\\p{{{name}}}" for name in sorted(PROPERTIES)), "\\s", "\\d"])
def test_a_class_holds_the_same_characters(name):
    for start in range(0, len(CHARACTERS), 2**15):
        block = "".join(CHARACTERS[start : start + 2**15])
        assert ours(f"{name}+", block) == theirs(f"{name}+", block)


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        (r"\p{N}{1,3}+", "{1,3}+"),  # which tiktoken's own pattern of cl100k has
        (r"\s++$|a", "$|a"),
        (r"\w+", r"\w+"),
        (r"[[:alpha:]]+", "[:alpha:]]+"),
        (r"[a--c]+", "--c]+"),
        (r"(?i:ss)", "(?i:ss"),
        (r"(?i:\p{Lu})", r"(?i:\p{Lu}"),
        (r"(?i:é)", "(?i:é"),
        (r"(?m:.)+", "(?m:.)+"),
        (r"a|b(?i)c|d", "(?i)c|d"),
        (r"(?:a?b*)+", ")+"),
        (r"a{2}?b", "{2}?"),
        (r"\pL+", r"\pL+"),
        (r"\p{Alphabetic}", r"\p{Alphabeti"),
    ],
)
def test_what_may_differ_is_named(tmp_path, pattern, part):
    assert other_meaning(pattern) == part
    path = tmp_path / "tokenizer.json"
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    vocab = {name: id for id, name in enumerate(NAME_OF_BYTE.values())}
    pre = {"type": "Sequence", "pretokenizers": [cut, bytes_]}
    path.write_text(json.dumps({"pre_tokenizer": pre, "model": {"type": "BPE", "vocab": vocab, "merges": []}}))
    with pytest.raises(DataError, match="can mean something else") as caught:
        read_huggingface(path)
    assert repr(part) in caught.value.message


def test_the_differences_are_real():
    assert (ours(r"\p{N}{1,3}+", "1234567"), theirs(r"\p{N}{1,3}+", "1234567")) == (["123", "456", "7"], ["1234567"])
    assert ours(r"(?i:ss)", "ß") != theirs(r"(?i:ss)", "ß")
    assert ours(r"\w+", "x²") != theirs(r"\w+", "x²")
    assert (ours(r"a$", "a\nb"), theirs(r"a$", "a\nb")) == ([], ["a"])


def test_a_tokenizer_whose_pattern_they_take_otherwise_is_not_written_for_them(tmp_path):
    tokenizer = Tokenizer([bytes([i]) for i in range(256)], pattern=GPT4_PATTERN)
    with pytest.raises(DataError, match="take otherwise"):
        write_huggingface(tokenizer, tmp_path / "tokenizer.json")
    assert not (tmp_path / "tokenizer.json").exists()


def test_patterns_of_real_files_are_taken():
    assert [name for name, pattern in KNOWN_PATTERNS.items() if other_meaning(pattern)] == ["cl100k"]


CLASSES = [
    "\\p{L}",
    "\\p{N}",
    "\\s",
    "\\S",
    "\\d",
    "\\D",
    "\\p{Lu}",
    "\\P{L}",
    "\\p{^L}",
    ".",
    "\\r",
    "\\n",
    "\\x41",
    "\\-",
]
ITEMS = ["a-f", "\\p{L}", "\\s", "\\d", "'", "s", "k", "ß", "漢-龥", "[a-c]", "&&", "\\n", "^"]
REPEATS = ["", "", "", "+", "*", "?", "++", "?+", "*+", "+?", "{1,3}", "{2}", "{1,}", "{,2}", "{1,2}?", "$"]
OPENED = ["(?:", "(", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"]


def _wider(inner):
    atom = st.one_of(
        st.sampled_from(CLASSES),
        st.sampled_from("abstfik'0 -ß\n漢é.,{}]"),
        st.tuples(st.sampled_from(["", "^"]), st.lists(st.sampled_from(ITEMS), min_size=1, max_size=3)).map(
            lambda drawn: f"[{drawn[0]}{''.join(drawn[1])}]"
        ),
        st.tuples(st.sampled_from(OPENED), inner).map(lambda drawn: f"{drawn[0]}{drawn[1]})"),
    )
    sequence = st.lists(st.tuples(atom, st.sampled_from(REPEATS)).map("".join), min_size=1, max_size=3).map("".join)
    return st.lists(sequence, min_size=1, max_size=3).map("|".join)


@settings(max_examples=400, deadline=None)
@given(
    st.recursive(st.just("a"), _wider, max_leaves=6),
    st.text("abstfikSTFßſKﬆﬁ'09 -\n\r\té漢龥²\u0301.,X{}]^", max_size=30),
)
def test_what_is_taken_splits_alike(pattern, text):
    assume(not other_meaning(pattern))
    try:
        expected, found = theirs(pattern, text), ours(pattern, text)
    except Exception:  # one of the two can't compile it: such a file is no tokenizer, or is refused
        assume(False)
    assert found == expected
