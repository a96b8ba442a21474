"""Normal forms as `tokenizers` makes them, by the tables of an old Unicode: ours are to be the same by whatever tables."""

import unicodedata
from functools import cache

import pytest
import tokenizers
import unicodedata2

from mccore.data.tokenizer import huggingface

# Alone, after a letter, before and between marks that are sorted or composed with it, and in a syllable.
FRAMES = (
    "{}",
    "a{}",
    "a{}\u0323\u0301",
    "a\u0301{}\u0323",
    "\u1100{}\u11a8",
    "{}\u0338",
    "\u0b47{}",
    "a\u0345{}\u0300",
)


@cache
def changing():
    """All characters that a normal form changes, moves or joins with another, by the newest tables."""
    parts = set()
    for code in range(0x110000):
        letter = chr(code)
        taken = unicodedata2.decomposition(letter)
        if taken or unicodedata2.combining(letter):
            parts.add(letter)
        parts.update(chr(int(each, 16)) for each in taken.split() if not each.startswith("<"))
    return sorted(parts | {chr(code) for code in (*range(0x1100, 0x1200), *range(0xAC00, 0xAC80))})


@pytest.mark.parametrize("tables", [unicodedata, unicodedata2], ids=["this Python's", "the newest"])
@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_every_character_that_a_form_changes(monkeypatch, form, tables):
    monkeypatch.setattr(huggingface, "unicodedata", tables)
    ours = huggingface._normalizer({"type": form}, lambda what: AssertionError(what))
    theirs = getattr(tokenizers.normalizers, form)()
    assert len(changing()) > 18_000
    different = []
    for letter in changing():
        text = "\n".join(frame.format(letter) for frame in FRAMES)  # nothing reaches over a line's end
        if ours(text) != theirs.normalize_str(text):
            different.append(f"{ord(letter):04X}")
    assert different == []
