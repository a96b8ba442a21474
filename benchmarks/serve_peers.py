"""Decoding by `mccore serve` beside vanilla decoding by Hugging Face transformers: the same widths, the same window.

The peer is the nearest Llama of equal size, random weights, eager attention, its own KV cache, fp32, as many rows side by
side as there are conversations. Both get the same number of tokens of prompt. It isn't a dependency:

uv run --with transformers python benchmarks/serve_peers.py RUN --conversations 1,16 --tokens 128
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import torch

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
        done = list(pool.map(lambda session: client.answer(session, text, tokens), sessions))
    return sum(each.tokens for each in done) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--conversations", default="1,16")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    _, checkpoint = find_checkpoint(find_run(options.run), None)
    model = open_model(checkpoint)
    llama, parameters = llama_of(model.gpt)
    own = sum(parameter.numel() for parameter in model.gpt.parameters())
    print(json.dumps({"own_parameters": own, "peer_parameters": parameters, "threads": torch.get_num_threads()}))
    text = "Tell me more about it. " * 8
    prompt = len(model.tokenizer.encode(text))
    with tempfile.TemporaryDirectory() as sessions, served(options.run, Path(sessions)) as (url, _):
        client = Client(url)
        for rows in (int(part) for part in options.conversations.split(",")):
            pairs = [
                (own_speed(client, rows, text, options.tokens), peer_speed(llama, rows, prompt, options.tokens))
                for _ in range(options.rounds)
            ]
            ours, theirs = (median(pair[side] for pair in pairs) for side in (0, 1))
            print(json.dumps({"conversations": rows, "ours": ours, "transformers": theirs, "ratio": ours / theirs}))


if __name__ == "__main__":
    main()
