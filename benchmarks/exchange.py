"""Models of nanochat's taken in, and ours given to transformers, each beside the other's own code.

    python benchmarks/exchange.py CHECKOUT [--depth 4] [--tokens 256]

CHECKOUT is a work tree of github.com/karpathy/nanochat, of 2025 (such as 885a4f2) or of March 2026 and later (such as
92d63d4); its `nanochat/gpt.py` is loaded. A random model of it is saved as its own code saves one, imported, and asked the same
ids, at once and token by token. A model of 2025 then goes to transformers' class, where that is installed
(`uv run --with transformers`). Ends with 1 where logits differ by more than 1e-4, an id differs, or a round trip isn't equal bit
for bit.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import tiktoken
import torch
from torch import Tensor

from mccore.data.tokenizer.tokenizer import SPECIALS, Tokenizer
from mccore.exchange import nanochat, outgoing
from mccore.exchange import transformers as theirs
from mccore.exchange.incoming import make_run
from mccore.exchange.pickled import read_pickled_tokenizer
from mccore.runs.checkpoints import latest
from mccore.runs.rundir import RunDir
from mccore.runtime.open import open_model

BOUND = 1e-4
TEXTS = ("Hello, world! 12345 + 678", "  \n\n\tdef f(x):\n    return x", "naïve 東京 🙂 <|bos|> ok", "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MCCORE_BASE_DIR"] = folder
        return compare(options.checkout, Path(folder), options.depth, options.tokens)


def compare(checkout: Path, folder: Path, depth: int, length: int) -> int:
    """0 where everything is as it should be."""
    encoding = make_encoding()
    model = their_model(checkout, encoding.n_vocab, depth, length)
    save_as_they_do(model, encoding, folder / "cache", depth)
    ids = torch.randint(0, encoding.n_vocab, (2, length))
    with torch.inference_mode():
        expected = model(ids)
    run = take(folder / "cache", "taken")
    good = check("nanochat's own code", expected, logits_of(run, ids))
    good &= check("nanochat's own code, token by token", expected, logits_by_token(run, ids))
    good &= check_ids(encoding, Tokenizer.load(run.tokenizer_dir))
    good &= check_round_trip(run, folder)
    if "smear_gate.weight" in model.state_dict():
        return int(not good)
    exact = take(folder / "cache", "exact", exact_rotary=True)
    difference = (logits_of(exact, ids) - expected).abs().max().item()
    print(f"{'nanochat beside fp32 rotary tables (not asked to be equal)':62} {difference:.2e}")
    if importlib.util.find_spec("transformers") is None:
        print("transformers isn't installed: not compared")
        return int(not good)
    good &= compare_transformers(exact, folder, ids)
    return int(not good)


def make_encoding() -> tiktoken.Encoding:
    """A tokenizer as nanochat makes one: bytes, merges, and its nine special tokens behind."""
    text = Path(__file__).read_text(encoding="utf-8")
    trained = Tokenizer.train([text, *TEXTS], 256 + len(SPECIALS) + 135)
    ranks = {token: rank for rank, token in enumerate(trained.tokens)}
    specials = {name: len(ranks) + place for place, name in enumerate(SPECIALS)}
    return tiktoken.Encoding("rustbpe", pat_str=trained.pattern, mergeable_ranks=ranks, special_tokens=specials)


def their_model(checkout: Path, vocabulary: int, depth: int, length: int) -> Any:
    """A model of theirs in which every number is random, and large enough to matter."""
    sys.path.insert(0, str(checkout))
    gpt = importlib.import_module("nanochat.gpt")
    heads = depth // 2
    config = gpt.GPTConfig(
        sequence_len=length, vocab_size=vocabulary, n_layer=depth, n_head=heads, n_kv_head=heads, n_embd=64 * depth
    )
    model = gpt.GPT(config)
    model.init_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if parameter.dim() < 2 else 1.0 if "wte" in name else parameter.size(-1) ** -0.5
            parameter.normal_(0.0, scale)
    return model.eval()


def save_as_they_do(model: Any, encoding: tiktoken.Encoding, base: Path, depth: int) -> None:
    """A base directory as theirs is: `torch.save` of the state, JSON beside it, a pickled tokenizer."""
    directory = base / "base_checkpoints" / f"d{depth}"
    directory.mkdir(parents=True)
    (base / "tokenizer").mkdir()
    state = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(state, directory / "model_000017.pt")
    meta = {"step": 17, "val_bpb": 1.25, "model_config": vars(model.config), "user_config": {"run": "dummy"}}
    (directory / "meta_000017.json").write_text(json.dumps(meta))
    with open(base / "tokenizer" / "tokenizer.pkl", "wb") as file:
        pickle.dump(encoding, file)


def take(base: Path, name: str, *, exact_rotary: bool = False) -> RunDir:
    """The run that `mccore import nanochat` makes."""
    found = nanochat.find_checkpoints(base, stage=None, tag=None, step=None)
    models = [nanochat.incoming(each, exact_rotary=exact_rotary) for each in found]
    tokenizer = read_pickled_tokenizer(nanochat.find_tokenizer(base))
    return make_run(name, models, tokenizer, recipe="nanochat", corpus="fineweb_edu")


def checkpoint_of(run: RunDir) -> Path:
    found = latest(run.checkpoint_dir("base"))
    assert found is not None
    return found


def logits_of(run: RunDir, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return open_model(checkpoint_of(run)).gpt(ids)


def logits_by_token(run: RunDir, ids: Tensor) -> Tensor:
    """The same through a cache: a few tokens at once, then one by one."""
    gpt = open_model(checkpoint_of(run)).gpt
    with torch.inference_mode():
        cache = gpt.new_cache(ids.size(0), ids.size(1))
        first = gpt(ids[:, :5], cache=cache)
        rest = [gpt(ids[:, place : place + 1], cache=cache) for place in range(5, ids.size(1))]
    return torch.cat((first, *rest), dim=1)


def check(name: str, expected: Tensor, found: Tensor) -> bool:
    difference = (expected.float() - found.float()).abs().max().item()
    good = difference <= BOUND
    print(f"{name:62} {difference:.2e}  {'same' if good else 'DIFFERENT'}  (largest logit {expected.abs().max():.2f})")
    return good


def check_ids(encoding: Any, tokenizer: Tokenizer) -> bool:
    same = all(encoding.encode_ordinary(text) == tokenizer.encode(text) for text in TEXTS)
    print(f"{'ids of the tokenizer':62} {'same' if same else 'DIFFERENT'}")
    return same


def check_round_trip(run: RunDir, folder: Path) -> bool:
    """Out as safetensors and in again: the same tensors to the last bit."""
    outgoing.export(checkpoint_of(run), "safetensors", folder / "out")
    model, tokenizer, recipe = outgoing.read_exported(folder / "out")
    again = make_run("again", [model], tokenizer, recipe=recipe, corpus="fineweb_edu")
    ours, back = (open_model(checkpoint_of(each)).gpt.state_dict() for each in (run, again))
    same = ours.keys() == back.keys() and all(torch.equal(ours[name], back[name]) for name in ours)
    print(f"{'export and import again, bit for bit':62} {'same' if same else 'DIFFERENT'}")
    return same


def compare_transformers(run: RunDir, folder: Path, ids: Tensor) -> bool:
    """Ours as transformers loads it: logits, ids, the chat format, and back again."""
    import transformers

    outgoing.export(checkpoint_of(run), "transformers", folder / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "hf").eval()
    with torch.inference_mode():
        found = model(ids).logits
    good = check(f"transformers {transformers.__version__}", logits_of(run, ids), found)
    tokenizer, ours = transformers.AutoTokenizer.from_pretrained(folder / "hf"), Tokenizer.load(run.tokenizer_dir)
    plain = [text for text in TEXTS if "<|" not in text]
    same = all(tokenizer(text)["input_ids"] == ours.encode(text) for text in plain)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    chat += [{"role": "assistant", "content": "So."}, {"role": "user", "content": "Really?"}]
    from mccore.data.tokenizer.chat_format import render_for_completion

    rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True)["input_ids"]
    same &= rendered == render_for_completion(ours, chat)
    print(f"{'ids and chat format in transformers':62} {'same' if same else 'DIFFERENT'}")
    incoming, taken = theirs.read_directory(folder / "hf", "base")
    again = make_run("back", [incoming], taken, recipe="transformers", corpus="fineweb_edu")
    before, after = (open_model(checkpoint_of(each)).gpt.state_dict() for each in (run, again))
    kept = run.config.model.vocab_ids
    equal = all(torch.equal(before[name][:kept], after[name][:kept]) for name in theirs.ROWS)
    equal &= all(torch.equal(before[name], after[name]) for name in before if name not in theirs.ROWS)
    print(f"{'transformers and back, bit for bit':62} {'same' if equal else 'DIFFERENT'}")
    return good and same and equal


if __name__ == "__main__":
    sys.exit(main())
