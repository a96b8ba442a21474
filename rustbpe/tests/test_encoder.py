"""The encoder against tiktoken, which runs the same tokens and the same pattern."""

import collections
import json
import random
import signal
import string
import subprocess
import sys
import threading

import mccore_rustbpe
import numpy as np
import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
TELLING = st.text("aabbéß漢 \t\n\r'!1٣S ſ\u3000\u0301🙂")
BYTES = [bytes([i]) for i in range(256)]


def library_texts() -> list[str]:
    texts = []
    for module in (json, string, collections, random):
        with open(module.__file__, encoding="utf-8") as file:
            texts.append(file.read())
    return texts


def reference(tokens, pattern=mccore_rustbpe.PATTERN):
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding("reference", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


TOKENS = mccore_rustbpe.train(library_texts(), 1500)
ENCODER = mccore_rustbpe.Encoder(TOKENS, specials=["<|bos|>", "<|end|>"])
TIKTOKEN = reference(TOKENS)


def numbers(buffer, dtype=np.int32):
    return np.frombuffer(buffer, dtype=dtype).tolist()


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT | TELLING)
@example("")
@example("<|bos|>\0\r\n\u2028\ufeff 漢字 🙂🏽 e\u0301 <|endoftext|>")
def test_ids_are_tiktokens(text):
    ids = ENCODER.encode(text)
    assert ids == TIKTOKEN.encode_ordinary(text)
    assert numbers(ENCODER.encode_to_buffer(text)) == ids
    assert ENCODER.encode(text.encode()) == ids
    assert ENCODER.decode(ids) == text.encode()


def test_ids_are_tiktokens_on_library_sources():
    for text in library_texts():
        assert ENCODER.encode(text) == TIKTOKEN.encode_ordinary(text)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_ids_are_tiktokens_for_tokens_that_no_training_gives(data):
    letters = st.text("ab c", min_size=2, max_size=9)
    tokens = [*BYTES, *data.draw(st.lists(letters.map(str.encode), unique=True, max_size=30))]
    encoder, theirs = mccore_rustbpe.Encoder(tokens), reference(tokens)
    for text in data.draw(st.lists(st.text("ab c", max_size=150), max_size=5)):
        assert encoder.encode(text) == theirs.encode_ordinary(text)


@pytest.mark.parametrize("pattern", [r"\S+|\s+", r"(?s).+", r"\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"])
def test_other_patterns(pattern):
    encoder, theirs = mccore_rustbpe.Encoder(TOKENS, pattern=pattern), reference(TOKENS, pattern)
    text = library_texts()[0][:3000]
    assert encoder.encode(text) == theirs.encode_ordinary(text)


@settings(max_examples=100, deadline=None)
@given(st.binary())
def test_bytes_that_are_not_utf8_come_back(data):
    assert ENCODER.decode(ENCODER.encode(data)) == data
    assert ENCODER.decode(ENCODER.encode_to_buffer(data)) == data


@pytest.mark.parametrize("threads", [None, 1, 2, 8])
def test_batches_are_single_texts_one_after_the_other(threads):
    # One text is long enough to be encoded by several threads.
    texts = [*library_texts(), "", "x", "".join(library_texts()) * 8, *(f"text {i} " * (i % 7) for i in range(500))]
    ids, offsets = ENCODER.encode_batch(texts, prefix=1500, threads=threads)
    ids, offsets = numbers(ids), numbers(offsets, np.int64)
    assert len(offsets) == len(texts) + 1
    for text, start, end in zip(texts, offsets, offsets[1:], strict=False):
        assert ids[start:end] == [1500, *ENCODER.encode(text)]


def test_empty_batches():
    ids, offsets = ENCODER.encode_batch([])
    assert (len(ids), numbers(offsets, np.int64)) == (0, [0])
    ids, offsets = ENCODER.encode_batch(["", ""])
    assert (numbers(ids), numbers(offsets, np.int64)) == ([], [0, 0, 0])
    ids, offsets = ENCODER.encode_batch(["", ""], prefix=1)
    assert (numbers(ids), numbers(offsets, np.int64)) == ([1, 1], [0, 1, 2])
    assert len(ENCODER.encode_batch(text for text in ("a", "b"))[0]) == 2


def test_a_buffer_is_one_writable_piece_of_memory():
    buffer = ENCODER.encode_to_buffer("some text")
    view = memoryview(buffer)
    assert (view.format, view.itemsize, view.ndim, view.readonly) == ("i", 4, 1, False)
    array = np.frombuffer(buffer, dtype=np.int32)
    assert not array.flags.owndata
    array[0] = 7
    assert numbers(buffer)[0] == 7
    del buffer, view
    assert array[0] == 7  # the array keeps the memory
    assert np.asarray(ENCODER.encode_batch(["a"])[1]).dtype == np.int64
    assert np.frombuffer(ENCODER.encode_to_buffer(""), dtype=np.int32).size == 0
    assert "int32" in repr(ENCODER.encode_to_buffer("a"))


def test_special_tokens_are_decoded_and_never_made():
    assert len(ENCODER) == 1502
    assert ENCODER.decode([1500, *ENCODER.encode("x"), 1501]) == b"<|bos|>x<|end|>"
    assert max(ENCODER.encode("<|bos|><|end|>" * 100)) < 1500


@pytest.mark.parametrize("kind", [list, tuple, iter, *(np.int32, np.int64, np.uint16, np.uint32, np.int8)])
def test_ids_may_come_in_many_forms(kind):
    ids = [104, 105]
    assert (
        ENCODER.decode(
            np.array(ids, dtype=kind) if isinstance(kind, type) and issubclass(kind, np.generic) else kind(ids)
        )
        == b"hi"
    )


@pytest.mark.parametrize("ids", [[5, 1502], [-1], [2**40], [2**70], np.array([-1]), np.array([1502], dtype=np.uint16)])
def test_ids_that_do_not_exist(ids):
    with pytest.raises(ValueError, match="isn't one of the 1502 ids"):
        ENCODER.decode(ids)


def test_what_is_no_id():
    with pytest.raises(TypeError):
        ENCODER.decode(["a"])
    with pytest.raises(TypeError):
        ENCODER.decode([1.5])
    with pytest.raises(TypeError):
        ENCODER.decode(7)


def test_texts_that_are_no_text():
    with pytest.raises(mccore_rustbpe.CorpusError, match="text must be a str or bytes, not int"):
        ENCODER.encode(7)
    with pytest.raises(mccore_rustbpe.CorpusError, match=r"texts\[1\] must be a str or bytes, not NoneType"):
        ENCODER.encode_batch(["a", None])
    with pytest.raises(TypeError, match="several texts"):
        ENCODER.encode_batch("a")
    with pytest.raises(UnicodeEncodeError):
        ENCODER.encode("a\ud800")
    with pytest.raises(UnicodeEncodeError):
        ENCODER.encode_batch(["b", "a\ud800"])
    with pytest.raises(ValueError, match="id 1502"):
        ENCODER.encode_batch(["b"], prefix=1502)
    with pytest.raises(ValueError, match="threads must be"):
        ENCODER.encode_batch(["b"], threads=0)
    with pytest.raises(ZeroDivisionError):
        ENCODER.encode_batch(1 / 0 for _ in "a")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([*BYTES, b""], "token 256 is empty"),
        ([*BYTES, b"ab", b"ab"], "tokens 256 and 257 are the same"),
        (BYTES[1:], "no token is the single byte 0x00"),
        ([], "no token is the single byte 0x00"),
    ],
)
def test_tokens_that_no_encoder_can_be_made_of(tokens, message):
    with pytest.raises(ValueError, match=message):
        mccore_rustbpe.Encoder(tokens)


def test_a_pattern_that_is_none():
    with pytest.raises(ValueError, match="pattern isn't valid"):
        mccore_rustbpe.Encoder(BYTES, pattern="(")


@pytest.mark.parametrize("text", ["a" * 1_000_000, " " * 1_000_000, "漢" * 400_000, "ab" * 500_000, "\n" * 1_000_000])
def test_a_megabyte_without_a_cut_takes_about_linear_time(text):
    tokens = mccore_rustbpe.train([text], 290)
    encoder = mccore_rustbpe.Encoder(tokens)
    whole = encoder.encode(text)
    assert encoder.decode(whole) == text.encode()
    byte_encoder = mccore_rustbpe.Encoder([*BYTES, b"aa", b"  "])
    assert byte_encoder.decode(byte_encoder.encode(text)) == text.encode()


def test_threads_may_share_an_encoder():
    texts = library_texts()
    expected = [ENCODER.encode(text) for text in texts]
    wrong = []

    def work():
        for _ in range(5):
            if [ENCODER.encode(text) for text in texts] != expected:
                wrong.append(True)

    workers = [threading.Thread(target=work) for _ in range(4)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert not wrong


def test_an_encoder_works_in_a_forked_process():
    code = """
import os, mccore_rustbpe
encoder = mccore_rustbpe.Encoder([bytes([i]) for i in range(256)])
texts = ["some text\\nMore " * 50_000] * 4
expected = len(encoder.encode_batch(texts, threads=2)[0])
pid = os.fork()
if pid == 0:
    os._exit(0 if len(encoder.encode_batch(texts, threads=2)[0]) == expected else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200).stdout
    assert out == "0\n"


def test_ctrl_c_ends_a_batch():
    code = """
import mccore_rustbpe
encoder = mccore_rustbpe.Encoder([bytes([i]) for i in range(256)], pattern=r"\\\\w+|\\\\W+")
text = "one two three " * 20_000
try:
    print("started", flush=True)  # inside: the signal may come before the next line
    while True:
        encoder.encode_batch([text] * 100, threads=2)
except KeyboardInterrupt:
    print("interrupted")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=200)
    assert out == "interrupted\n"
