"""The tokenizer: round trips, special tokens, its file, streaming, evaluation."""

import inspect
import json
import subprocess
import sys
import textwrap

import mccore_rustbpe
import numpy as np
import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mccore.data.tokenizer.evaluate import FIXED_TEXTS, evaluate_tokenizer, present_vocabularies, read_vocabulary
from mccore.data.tokenizer.formats import write_huggingface, write_tiktoken
from mccore.data.tokenizer.tokenizer import FILE_NAME, SPECIALS, StreamDecoder, Tokenizer
from mccore.errors import DataError, RunError

TEXT = inspect.getsource(textwrap) + "\n".join(FIXED_TEXTS.values())
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([TEXT], 700)


def content(directory):
    return json.loads((directory / FILE_NAME).read_text(encoding="utf-8"))


def rewrite(directory, **changes):
    (directory / FILE_NAME).write_text(json.dumps({**content(directory), **changes}), encoding="utf-8")


def test_vocab_size_counts_special_tokens_which_come_last(tokenizer):
    assert tokenizer.vocab_size == 700
    assert list(tokenizer.specials) == list(SPECIALS)
    assert list(tokenizer.specials.values()) == list(range(691, 700))
    assert tokenizer.bos_id == tokenizer.special("bos") == tokenizer.special("<|bos|>") == 691
    assert tokenizer.special("output_end") == 699
    with pytest.raises(DataError, match="no special token 'eos'"):
        tokenizer.special("eos")


def test_the_tokens_are_the_trainers():
    tokens = mccore_rustbpe.train([TEXT], 691)
    tokenizer = Tokenizer.train([TEXT], 700, threads=1)
    assert [tokenizer.decode_bytes([i]) for i in range(691)] == tokens


def test_a_small_corpus_gives_a_smaller_vocabulary():
    assert Tokenizer.train([], 5000).vocab_size == 265
    tokenizer = Tokenizer.train(["abc"], 5000)
    assert tokenizer.vocab_size == 267
    assert tokenizer.encode("abc") == [257]


def test_training_refuses_what_it_cannot_use():
    with pytest.raises(DataError, match="264 ids is too small"):
        Tokenizer.train(["a"], 264)
    with pytest.raises(DataError, match=r"texts\[1\] isn't valid Unicode"):
        Tokenizer.train(["a", "\ud800"], 300)
    with pytest.raises(DataError, match="pattern isn't valid"):
        Tokenizer.train(["a"], 300, pattern="(")
    with pytest.raises(ZeroDivisionError):  # a fault of the corpus keeps its own name
        Tokenizer.train((1 / 0 for _ in "a"), 300)


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT)
@example("")
@example("<|bos|>\0\r\n\u2028\ufeff 漢字 🙂🏽 e\u0301")
def test_decoding_gives_back_any_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    array = tokenizer.encode_to_array(text)
    assert array.dtype == np.int32
    assert array.tolist() == ids
    assert tokenizer.decode(array) == text


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
@example("I'LL 'ſ  \r\n x 12345 漢字 <|bos|>")
def test_ids_are_those_of_tiktoken(tokenizer, text):
    assert tokenizer.encode(text) == tiktoken_of(tokenizer).encode_ordinary(text)


def tiktoken_of(tokenizer):
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    return tiktoken.Encoding(
        "ours", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens=tokenizer.specials
    )


def test_ids_are_those_of_tiktoken_on_sources_and_fixed_texts(tokenizer):
    theirs = tiktoken_of(tokenizer)
    for text in (TEXT, *FIXED_TEXTS.values()):
        assert tokenizer.encode(text) == theirs.encode_ordinary(text)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(SPECIALS) | ANY_TEXT).map("".join))
def test_text_never_turns_into_a_special_token(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(id < 691 for id in ids)
    assert tokenizer.encode_to_array(text).tolist() == ids
    assert tokenizer.encode_batch([text, text], threads=2) == [ids, ids]


def test_special_tokens_decode_to_their_names(tokenizer):
    assert tokenizer.decode([tokenizer.bos_id, *tokenizer.encode("x")]) == "<|bos|>x"


def test_batches_keep_their_order(tokenizer):
    texts = [f"text number {i} " * (i % 7) for i in range(50)]
    for threads in (None, 1, 3):
        assert tokenizer.encode_batch(texts, threads) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []


@pytest.mark.parametrize("bos", [False, True])
def test_a_batch_is_one_array(tokenizer, bos):
    texts = ["one text", "", "a\ud800b", TEXT]
    ids, offsets = tokenizer.encode_batch_to_array(texts, bos=bos, threads=2)
    assert (ids.dtype, offsets.dtype) == (np.int32, np.int64)
    begin = [tokenizer.bos_id] if bos else []
    assert [ids[offsets[i] : offsets[i + 1]].tolist() for i in range(4)] == [
        begin + tokenizer.encode(text) for text in texts
    ]


def test_lone_surrogates_become_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.encode_to_array("a\ud800b").tolist() == tokenizer.encode("a\ufffdb")


@pytest.mark.parametrize("space", [" ", " \u3000", "\n\t "])
def test_a_run_of_space_beyond_the_regex_engines_stack(tokenizer, space):
    text = "start" + space * 700_000 + "end" + " " * 10
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_to_array(text).tolist() == ids


def test_a_long_text_is_the_sum_of_its_pieces(tokenizer):
    text = "word " * 26_214 + "\n" * 60_000 + "  x  \n" * 30_000 + "   "
    assert len(text) > 1 << 17
    pieces = mccore_rustbpe.split(text)
    assert tokenizer.encode(text) == [id for piece in pieces for id in tokenizer.encode(piece)]


def test_ids_that_do_not_exist(tokenizer):
    for ids in ([5, 700], [-1], [2**40]):
        with pytest.raises(DataError, match=f"id {ids[-1]} isn't in this tokenizer of 700 ids"):
            tokenizer.decode(ids)


def test_token_bytes_are_the_raw_bytes(tokenizer):
    lengths = tokenizer.token_bytes()
    assert lengths.dtype == np.int32
    assert lengths.shape == (700,)
    assert lengths[:256].tolist() == [1] * 256  # also where a single byte is no character
    assert lengths[691:].tolist() == [0] * 9
    ids = tokenizer.encode(TEXT)
    assert lengths[ids].sum() == len(TEXT.encode())


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "tokenizer")
    loaded = Tokenizer.load(tmp_path / "new" / "tokenizer")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.specials == tokenizer.specials
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT)
    assert [path.name for path in (tmp_path / "new" / "tokenizer").iterdir()] == [FILE_NAME]


def test_the_file_can_be_read_by_people(tmp_path):
    Tokenizer.train(["über the Brücke the"], 400).save(tmp_path)
    lines = (tmp_path / FILE_NAME).read_text(encoding="utf-8").splitlines()
    assert '" the",' in lines
    assert '"ü",' in lines
    assert '{"hex": "ff"},' in lines
    assert content(tmp_path)["pattern"] == mccore_rustbpe.PATTERN


def test_the_fingerprint_tells_tokenizers_apart(tokenizer):
    again = Tokenizer.train([TEXT], 700, threads=3)
    smaller = Tokenizer.train([TEXT], 699)
    other_pattern = Tokenizer(mccore_rustbpe.train([TEXT], 691), pattern=r"\S+|\s+")
    assert again.fingerprint == tokenizer.fingerprint
    assert len({tokenizer.fingerprint, smaller.fingerprint, other_pattern.fingerprint}) == 3
    assert len(tokenizer.fingerprint) == 64


def test_saving_where_nothing_can_be_written(tokenizer, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="can't write"):
        tokenizer.save(tmp_path / "file")


def test_loading_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no tokenizer at"):
        Tokenizer.load(tmp_path)
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(DataError, match="can't read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "isn't a tokenizer of mccore"),
        ({"version": 2}, "has version 2 of the tokenizer format; this mccore reads 1"),
        ({"pattern": None}, "lacks the pattern or the tokens"),
        ({"tokens": {}}, "lacks the pattern or the tokens"),
        ({"tokens": []}, "must be the bytes 0 to 255"),
        ({"specials": ["<|bos|>"]}, "special tokens aren't"),
        ({"fingerprint": "0" * 64}, "doesn't match its fingerprint"),
        ({"pattern": "("}, "pattern isn't valid"),
        ({"pattern": "x"}, "doesn't match its fingerprint"),
    ],
)
def test_loading_a_changed_file(tokenizer, tmp_path, changes, message):
    tokenizer.save(tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("the 300th", "doesn't match its fingerprint"),
        ({"hex": "e2"}, "tokens 226 and 300 are the same"),
        ({"hex": "xy"}, "token 300 is neither text nor"),
        ({"hex": "ffff", "more": 1}, "token 300 is neither text nor"),
        ("\ud800", "token 300 is neither text nor"),
        (None, "token 300 is neither text nor"),
        ("", "a token is empty"),
    ],
)
def test_loading_a_file_with_a_changed_token(tokenizer, tmp_path, token, message):
    tokenizer.save(tmp_path)
    tokens = content(tmp_path)["tokens"]
    rewrite(tmp_path, tokens=[*tokens[:300], token, *tokens[301:]])
    with pytest.raises(DataError, match=message):
        Tokenizer.load(tmp_path)


def test_loading_any_cut_or_flipped_file_is_an_error_or_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    for cut in range(0, len(whole) - 2, 401):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            Tokenizer.load(tmp_path)
    for place in range(0, len(whole), 41):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            loaded = Tokenizer.load(tmp_path)
        except DataError:
            continue
        assert loaded.fingerprint == tokenizer.fingerprint  # the flip hit white space between values


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_streaming_equals_decoding_at_once(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, 699)) | ANY_TEXT.map(tokenizer.encode))
    decoder = StreamDecoder(tokenizer)
    shown = []
    rest = ids
    while rest:
        n = data.draw(st.integers(1, len(rest)))
        shown.append(decoder.feed(rest[:n]))
        rest = rest[n:]
    assert "".join(shown) + decoder.flush() == tokenizer.decode(ids)


def test_streaming_never_shows_half_a_character():
    tokenizer = Tokenizer.train([], 265)  # one id per byte
    decoder = StreamDecoder(tokenizer)
    text = "né漢🙂"
    shown = [decoder.feed(id) for id in tokenizer.encode(text)]
    assert shown == ["n", "", "é", "", "", "漢", "", "", "", "🙂"]
    assert decoder.flush() == ""
    assert [decoder.feed(np.int64(id)) for id in "é".encode()[:1]] == [""]
    assert decoder.flush() == "\ufffd"
    assert decoder.feed(np.array([104, 105])) == "hi"
    assert decoder.flush() == ""


def test_evaluation(tokenizer):
    result = evaluate_tokenizer(tokenizer, {"source": TEXT, "documents": iter(["ab", "漢"]), "empty": ""})
    assert result["vocab_size"] == 700
    assert result["fingerprint"] == tokenizer.fingerprint
    texts = result["texts"]
    assert set(texts) == {*FIXED_TEXTS, "source", "documents", "empty"}
    assert all(row["round_trip"] for row in texts.values())
    assert texts["documents"]["bytes"] == 5
    assert texts["documents"]["characters"] == 3
    assert texts["empty"]["bytes_per_token"] == 0.0
    assert texts["source"]["tokens"] == len(tokenizer.encode(TEXT))
    assert texts["source"]["bytes_per_token"] == len(TEXT.encode()) / len(tokenizer.encode(TEXT)) > 2
    assert "others" not in result
    raw = evaluate_tokenizer(Tokenizer.train([], 265), {})
    assert {row["bytes_per_token"] for row in raw["texts"].values()} == {1.0}
    json.dumps(result)


def test_evaluation_beside_others(tokenizer, tmp_path):
    bytes_only = Tokenizer.train([], 265)
    tokenizer.save(tmp_path / "run" / "tokenizer")
    tokenizer.save(tmp_path / "saved")
    write_tiktoken(tokenizer, tmp_path / "gpt2_like.tiktoken")
    write_huggingface(tokenizer, tmp_path / "hf.json")
    names = ("run", "saved", "gpt2_like.tiktoken", "hf.json")
    others = {name: read_vocabulary(tmp_path / name) for name in names}
    result = evaluate_tokenizer(bytes_only, {"corpus": [TEXT]}, others)
    expected = len(TEXT.encode()) / len(tokenizer.encode(TEXT))
    for name, other in result["others"].items():
        assert other["vocab_size"] == (691 if "." in name else 700)
        assert set(other["bytes_per_token"]) == set(result["texts"])
        if name != "gpt2_like.tiktoken":  # whose pattern is another
            assert other["bytes_per_token"]["corpus"] == expected
    assert 1 < result["others"]["gpt2_like.tiktoken"]["bytes_per_token"]["corpus"] < expected * 1.2
    assert set(present_vocabularies(tmp_path)) == {"gpt2_like", "hf"}
    assert present_vocabularies(tmp_path / "nowhere") == {}
    json.dumps(result)


def test_vocabularies_that_cannot_be_read(tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"can't read .*No such file"):
        read_vocabulary(tmp_path / "gpt2.tiktoken")
    (tmp_path / "mine.tiktoken").write_text("QQ== 0\n")
    with pytest.raises(DataError, match=r"pattern of .* isn't known"):
        read_vocabulary(tmp_path / "mine.tiktoken")
    (tmp_path / "gpt2.tiktoken").write_text("QQ== 0\nQg== 1\n")
    with pytest.raises(DataError, match="can't be used: no token is the single byte"):
        read_vocabulary(tmp_path / "gpt2.tiktoken")
    (tmp_path / "tokenizer.json").write_text('{"format": "mccore-tokenizer", "version": 99}')
    with pytest.raises(DataError, match="has version 99"):
        read_vocabulary(tmp_path)


def test_importing_the_tokenizer_loads_nothing_heavy():
    code = "import sys, mccore.data.tokenizer.tokenizer as _; print(sorted({'torch', 'numpy', 'tiktoken'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"
