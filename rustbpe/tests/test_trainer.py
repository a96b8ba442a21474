"""The Rust trainer against a slow trainer written word for word from the rule, and its splitting against tiktoken."""

import collections
import itertools
import json
import random
import signal
import string
import subprocess
import sys
import unicodedata

import mccore_rustbpe
import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

# Surrogates are no text; everything else is.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# Few letters, so that pairs repeat and overlap; the rest are the characters that the split pattern tells apart.
TELLING = st.text("aabbéß漢 \t\n\r'!1٣S ſ\u3000\u0301🙂", max_size=40)
STDLIB = [json.__file__, string.__file__, collections.__file__, random.__file__]


def stdlib_texts() -> list[str]:
    texts = []
    for path in STDLIB:
        with open(path, encoding="utf-8") as file:
            texts.append(file.read())
    return texts


def slow_train(texts, vocab_size):
    """Count every pair anew for each merge, take the most frequent and smallest, replace it from the left."""
    pieces = collections.Counter(piece for text in texts for piece in mccore_rustbpe.split(text))
    words = [([*piece.encode()], count) for piece, count in pieces.items()]
    tokens = [bytes([i]) for i in range(256)]
    while len(tokens) < vocab_size:
        counts = collections.Counter()
        for word, count in words:
            for pair in itertools.pairwise(word):
                counts[pair] += count
        if not counts:
            break
        left, right = min(counts, key=lambda pair: (-counts[pair], pair))
        for word, _ in words:
            i = 0
            while i + 1 < len(word):
                if word[i] == left and word[i + 1] == right:
                    word[i : i + 2] = [len(tokens)]
                i += 1
        tokens.append(tokens[left] + tokens[right])
    return tokens


def tiktoken_split(text):
    """The pieces tiktoken cuts: with every substring a token, every piece is one token."""
    substrings = {text[i:j].encode() for i in range(len(text)) for j in range(i + 1, len(text) + 1)}
    tokens = [bytes([i]) for i in range(256)]
    tokens += sorted(substrings - set(tokens))
    ranks = {token: rank for rank, token in enumerate(tokens)}
    encoding = tiktoken.Encoding("split", pat_str=mccore_rustbpe.PATTERN, mergeable_ranks=ranks, special_tokens={})
    return [tokens[id].decode() for id in encoding.encode_ordinary(text)]


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(ANY_TEXT | TELLING, max_size=6), merges=st.integers(0, 40))
@example(texts=["aaaaaaaa aaa aaaa"], merges=10)
@example(texts=["ababababa", "babab"], merges=10)
def test_merges_equal_the_slow_trainers(texts, merges):
    assert mccore_rustbpe.train(texts, 256 + merges) == slow_train(texts, 256 + merges)


def test_merges_equal_the_slow_trainers_on_library_sources():
    texts = stdlib_texts()
    assert sum(map(len, texts)) > 50_000
    assert mccore_rustbpe.train(texts, 356) == slow_train(texts, 356)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_and_order_change_nothing(threads):
    texts = [line for text in stdlib_texts() for line in text.splitlines(keepends=True)]
    expected = mccore_rustbpe.train(texts, 1500, threads=1)
    assert len(expected) == 1500
    random.Random(threads).shuffle(texts)
    assert mccore_rustbpe.train(texts, 1500, threads=threads) == expected


@settings(max_examples=150, deadline=None)
@given(ANY_TEXT | TELLING)
@example("I'LL we'Ve 'ſ 'Sx ' s")
@example("  \r\n \n  x\t\ty \n")
@example("12345 ٣٤٥ ½²³ x1")
def test_split_equals_tiktokens(text):
    assert mccore_rustbpe.split(text) == tiktoken_split(text)


def test_split_equals_tiktokens_on_library_sources():
    text = "".join(stdlib_texts())
    for start in range(0, len(text), 1500):
        window = text[start : start + 150]
        assert mccore_rustbpe.split(window) == tiktoken_split(window)


def test_split_equals_tiktokens_where_the_category_of_characters_changes():
    characters = [chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000]
    kind = [unicodedata.category(character)[0] for character in characters]
    borders = [i for i in range(1, len(kind)) if kind[i] != kind[i - 1]]
    probes = sorted({characters[j] for i in borders for j in (i - 1, i)})
    # Letters join the a, digits the 1, symbols the !; each probe has its own substrings, so that ranks stay few.
    text = "".join(f"1a{character}1{character}!" for character in probes)
    substrings = {f"{a}{b}" for character in probes for a, b in (("a", character), ("1", character), (character, "!"))}
    substrings |= {f"{character}1" for character in probes} | set(probes)
    tokens = [bytes([i]) for i in range(256)]
    tokens += sorted({substring.encode() for substring in substrings} - set(tokens))
    ranks = {token: rank for rank, token in enumerate(tokens)}
    encoding = tiktoken.Encoding("split", pat_str=mccore_rustbpe.PATTERN, mergeable_ranks=ranks, special_tokens={})
    pieces = [tokens[id].decode() for id in encoding.encode_ordinary(text)]
    assert len(probes) > 1000
    assert mccore_rustbpe.split(text) == pieces


def test_pieces_joined_are_the_text():
    for text in stdlib_texts():
        assert "".join(mccore_rustbpe.split(text)) == text


def test_a_pattern_of_ones_own():
    assert mccore_rustbpe.split("ab cd", pattern=r"\S+|\s+") == ["ab", " ", "cd"]
    tokens = mccore_rustbpe.train(["ab cd"] * 2, 300, pattern=r".+")
    assert tokens[-1] == b"ab cd"


def test_too_little_text_gives_fewer_tokens():
    single = [bytes([i]) for i in range(256)]
    assert mccore_rustbpe.train([], 1000) == single
    assert mccore_rustbpe.train(["", "a", "1"], 1000) == single
    assert mccore_rustbpe.train(["abc"], 1000) == [*single, b"ab", b"abc"]
    assert mccore_rustbpe.train(["abc"], 256) == single


def test_texts_are_taken_one_by_one():
    taken = 0

    def texts():
        nonlocal taken
        for _ in range(3000):
            taken += 1
            yield "some words " * 100

    assert {b"some", b" some", b" words"} <= set(mccore_rustbpe.train(texts(), 300, threads=2))
    assert taken == 3000


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fine", b"bytes"], r"texts\[1\] must be a str, not bytes"),
        ([None], r"texts\[0\] must be a str, not NoneType"),
        (["fine", "fine", "bad \ud800"], r"texts\[2\] isn't valid Unicode text: .*position 4"),
    ],
)
def test_texts_that_are_no_text(texts, message):
    with pytest.raises(mccore_rustbpe.CorpusError, match=message):
        mccore_rustbpe.train(texts, 300)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"at least 256.*got 255"):
        mccore_rustbpe.train(["a"], 255)
    with pytest.raises(ValueError, match="at least 256"):
        mccore_rustbpe.train(["a"], -1)
    with pytest.raises(ValueError, match="threads must be"):
        mccore_rustbpe.train(["a"], 300, threads=0)
    with pytest.raises(ValueError, match="pattern isn't valid"):
        mccore_rustbpe.train(["a"], 300, pattern="(")
    with pytest.raises(TypeError, match="not one str"):
        mccore_rustbpe.train("a text", 300)
    with pytest.raises(TypeError):
        mccore_rustbpe.train(3, 300)
    with pytest.raises(mccore_rustbpe.CorpusError, match="surrogates"):
        mccore_rustbpe.split("\udfff")


def test_a_pattern_that_fails_on_a_text():
    with pytest.raises(mccore_rustbpe.CorpusError, match="fails on this text"):
        mccore_rustbpe.train(itertools.repeat("a" * 100_000), 300, pattern=r"(?:a+)+(?=b)(a)\1")


def test_an_error_of_the_iterator_passes_through():
    def texts():
        yield "one"
        raise LookupError("the corpus is gone")

    with pytest.raises(LookupError, match="the corpus is gone"):
        mccore_rustbpe.train(texts(), 300)


def test_ctrl_c_ends_an_endless_corpus():
    # `repeat` runs no Python code, so only the trainer itself can notice the signal.
    code = """
import itertools, mccore_rustbpe
def first():
    print("started", flush=True)
    yield "first"
try:
    mccore_rustbpe.train(itertools.chain(first(), itertools.repeat("more words")), 300)
except KeyboardInterrupt:
    print("interrupted")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert out == "interrupted\n"
    assert process.returncode == 0
