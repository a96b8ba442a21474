"""The Rust trainer against a slow trainer written word for word from the rule, and its splitting against tiktoken."""

import collections
import itertools
import json
import os
import random
import signal
import string
import subprocess
import sys
import threading
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
LONGER_ON_PAPER = "/sys/kernel/mm/transparent_hugepage/enabled"
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


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=40)
    | st.lists(st.sampled_from([b"a", b" ", b"\n", b"\xc3", b"\xa9", b"\xe2\x82", b"1"])).map(b"".join)
)
@example(b"caf\xc3\xa9 \xe2\x82 \xf0\x9f\x99 x\xff\xfe \xed\xa0\x80")
def test_bytes_that_are_not_utf8_are_cut_as_their_lossy_decoding(data):
    pieces = mccore_rustbpe.split(data)
    assert b"".join(pieces) == data
    expected = mccore_rustbpe.split(data.decode(errors="replace"))
    assert [piece.decode(errors="replace") for piece in pieces] == expected


def test_bytes_train_as_the_text_they_are():
    texts = stdlib_texts()
    expected = mccore_rustbpe.train(texts, 1000)
    assert mccore_rustbpe.train([text.encode() for text in texts], 1000) == expected
    assert mccore_rustbpe.train([b"\xff\xfe\xff\xfe"], 257)[256] == b"\xff\xfe"


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_groups_of_digits(digits):
    pattern = mccore_rustbpe.PATTERN.replace("{1,2}", f"{{1,{digits}}}")
    assert (
        mccore_rustbpe.split("x1234567", pattern=pattern)
        == {
            1: ["x", *"1234567"],
            2: ["x", "12", "34", "56", "7"],
            3: ["x", "123", "456", "7"],
        }[digits]
    )


# --- files ---------------------------------------------------------------------------------------------------------------


def write_texts(directory, texts):
    paths = []
    for i, text in enumerate(texts):
        paths.append(directory / f"{i}.txt")
        paths[-1].write_bytes(text.encode())
    return paths


def test_files_train_as_their_texts(tmp_path):
    texts = [*stdlib_texts(), "", "no line end", "".join(stdlib_texts()) * 15]
    paths = write_texts(tmp_path, texts)
    assert paths[-1].stat().st_size > 1 << 20  # so that it is read in parts
    expected = mccore_rustbpe.train(texts, 1200)
    for threads in (1, 3):
        assert mccore_rustbpe.train_files(paths, 1200, threads=threads) == expected
    assert mccore_rustbpe.train_files([str(path) for path in paths], 1200) == expected
    assert mccore_rustbpe.train_files([], 1200) == expected[:256]


@pytest.mark.parametrize("pattern", [mccore_rustbpe.PATTERN, r"\S+|\s+"])
def test_a_long_file_without_a_safe_cut(tmp_path, pattern):
    text = "ab 12; " * 400_000
    [path] = write_texts(tmp_path, [text])
    assert mccore_rustbpe.train_files([path], 262, pattern=pattern) == mccore_rustbpe.train(
        [text], 262, pattern=pattern
    )


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        mccore_rustbpe.train_files([tmp_path / "gone.txt"], 300)
    assert caught.value.filename == str(tmp_path / "gone.txt")
    with pytest.raises(IsADirectoryError):
        mccore_rustbpe.train_files([tmp_path], 300)


def test_a_file_that_vanishes_while_others_are_read(tmp_path):
    paths = [tmp_path / "pipe", tmp_path / "text"]
    os.mkfifo(paths[0])
    paths[1].write_text("here when the training starts")

    def remove():
        with open(paths[0], "w") as pipe:  # waits for the trainer, which opens one file after the other
            paths[1].unlink()
            pipe.write("some text")

    thread = threading.Thread(target=remove)
    thread.start()
    with pytest.raises(FileNotFoundError) as caught:
        mccore_rustbpe.train_files(paths, 300)
    thread.join()
    assert caught.value.filename == str(paths[1])


@pytest.mark.skipif(not os.path.exists(LONGER_ON_PAPER), reason="needs Linux's sysfs")
def test_a_file_that_becomes_shorter():
    assert os.stat(LONGER_ON_PAPER).st_size > 1000  # and yet there are only a few bytes to read
    with pytest.raises(mccore_rustbpe.CorpusError, match="became shorter while it was read"):
        mccore_rustbpe.train_files([LONGER_ON_PAPER], 300)


# --- progress ------------------------------------------------------------------------------------------------------------


def test_progress_ends_each_phase_with_its_total(tmp_path):
    texts = stdlib_texts()
    heard = []
    mccore_rustbpe.train(texts, 400, progress=lambda *event: heard.append(event))
    n_bytes = sum(len(text.encode()) for text in texts)
    assert ("count", n_bytes, None) in heard
    assert heard[-1] == ("merge", 144, 144)
    assert [phase for phase, *_ in heard] == sorted(phase for phase, *_ in heard)
    heard.clear()
    mccore_rustbpe.train_files(write_texts(tmp_path, texts), 400, progress=lambda *event: heard.append(event))
    assert ("count", n_bytes, n_bytes) in heard


def test_an_error_of_the_callback_ends_the_training():
    def fail(phase, done, total):
        raise LookupError(phase)

    with pytest.raises(LookupError, match="count"):
        mccore_rustbpe.train(["a"], 300, progress=fail)
    with pytest.raises(TypeError):
        mccore_rustbpe.train(["a"], 300, progress=7)


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
        (["fine", 7], r"texts\[1\] must be a str or bytes, not int"),
        ([None], r"texts\[0\] must be a str or bytes, not NoneType"),
        ([["a", "list"]], r"texts\[0\] must be a str or bytes, not list"),
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
    with pytest.raises(TypeError, match="not one bytes"):
        mccore_rustbpe.train(b"a text", 300)
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
