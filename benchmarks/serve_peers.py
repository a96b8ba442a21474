"""Decoding by `mccore serve` beside vanilla decoding by transformers and by llama.cpp's server: the same widths and window.

The peers are the nearest Llama of equal size, random weights, fp32: Hugging Face transformers with eager attention and its own
KV cache, as many rows side by side as there are conversations, and llama.cpp over HTTP, streaming, where it is installed. All
decode greedily, after the same number of tokens of prompt, and take turns. They are no dependencies:

uv run --with transformers --with xllamacpp --with gguf python benchmarks/serve_peers.py RUN --conversations 1,16 --tokens 128

Ours is measured with what it does beside: histories on disk, journals, the lookup, answers over HTTP.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
from serve_llama import llama_served, llama_speed, write_gguf

from mccore.config.stages import TRAINING_STAGES
from mccore.runtime.open import find_checkpoint, find_run, open_model
from mccore.serve.cost import Client, served


def llama_of(gpt: object) -> tuple[object, int]:
    """The Llama of the model's widths, and how many parameters it has."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = gpt.config  # type: ignore[attr-defined]
    heads = config.n_embd // config.head_dim
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_ids,
            hidden_size=config.n_embd,
            intermediate_size=8 * config.n_embd // 3,
            num_hidden_layers=config.depth,
            num_attention_heads=heads,
            num_key_value_heads=config.n_kv_head or heads,
            max_position_embeddings=2**20,
            attn_implementation="eager",
        )
    ).eval()
    return made, sum(parameter.numel() for parameter in made.parameters())


@torch.inference_mode()
def peer_speed(llama: object, rows: int, prompt: int, tokens: int) -> float:
    """Tokens per second of `generate` for so many rows."""
    ids = torch.randint(0, 256, (rows, prompt))
    began = time.perf_counter()
    done = llama.generate(  # type: ignore[attr-defined]
        ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, use_cache=True, pad_token_id=0
    )
    return rows * (done.size(1) - prompt) / (time.perf_counter() - began)


def own_speed(client: Client, rows: int, text: str, tokens: int) -> float:
    """Tokens per second of so many conversations on a server."""
    sessions = [client.new() for _ in range(rows)]
    began = time.perf_counter()
    with ThreadPoolExecutor(rows) as pool:
        done = list(pool.map(lambda session: client.answer(session, text, tokens, temperature=0), sessions))
    return sum(each.tokens for each in done) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--conversations", default="1,16")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of llama.cpp")
    parser.add_argument(
        "--stage", default=TRAINING_STAGES[0], help="of ours; the first one's text doesn't end by itself"
    )
    options = parser.parse_args()
    _, checkpoint = find_checkpoint(find_run(options.run), None)
    model = open_model(checkpoint)
    llama, parameters = llama_of(model.gpt)
    own = sum(parameter.numel() for parameter in model.gpt.parameters())
    print(json.dumps({"own_parameters": own, "peer_parameters": parameters, "threads": torch.get_num_threads()}))
    text = "Tell me more about it. " * 8
    ids = model.tokenizer.encode(text)
    counts = [int(part) for part in options.conversations.split(",")]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peers = {"transformers": lambda rows: peer_speed(llama, rows, len(ids), options.tokens)}
        if find_spec("xllamacpp"):
            size = write_gguf(folder / "model.gguf", model.gpt.config, 8 * model.gpt.config.n_embd // 3)
            print(json.dumps({"llama_cpp_parameters": size}))
            served_at = stack.enter_context(llama_served(folder / "model.gguf", max(counts), options.threads))
            peers["llama_cpp"] = lambda rows: llama_speed(served_at, rows, ids, options.tokens)
        url, _ = stack.enter_context(served(options.run, folder / "sessions", "--stage", options.stage))
        client = Client(url)
        peers["ours"] = lambda rows: own_speed(client, rows, text, options.tokens)
        for rows in counts:
            rounds = [{name: speed(rows) for name, speed in peers.items()} for _ in range(1 + options.rounds)]
            found = {name: median(each[name] for each in rounds[1:]) for name in peers}  # the first warms up
            ratios = {f"ratio_to_{name}": found["ours"] / found[name] for name in peers if name != "ours"}
            print(json.dumps({"conversations": rows, **found, **ratios}), flush=True)


if __name__ == "__main__":
    main()
