"""llama.cpp's server over a Llama of random weights, for benchmarks/serve_peers.py: written by llama.cpp's own package `gguf`.

The server is that of `xllamacpp`, which has llama.cpp built; `llama-cpp-python` has to be compiled first. Run as a program this
file is the server: `python benchmarks/serve_llama.py MODEL ROWS THREADS` listens until its input ends.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

CONTEXT = 512  # tokens of one conversation


def write_gguf(path: Path, config: Any, inner: int) -> int:
    """A Llama of the widths of a ModelConfig in fp32; how many parameters it has."""
    import gguf

    width, heads = config.n_embd, config.n_head
    writer, draws = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    writer.add_context_length(CONTEXT * 64)
    writer.add_embedding_length(width)
    writer.add_block_count(config.depth)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.n_kv_head)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    marks = [b"<unk>", b"<s>", b"</s>"]
    letters = [f"<0x{byte:02X}>".encode() for byte in range(256)]
    words = [f"w{number}".encode() for number in range(config.vocab_size - len(marks) - len(letters))]
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*marks, *letters, *words])
    writer.add_token_scores([0.0] * config.vocab_size)
    writer.add_token_types(
        [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + [kinds.BYTE] * len(letters) + [kinds.NORMAL] * len(words)
    )
    kv_width = config.n_kv_head * config.head_dim
    shapes = {
        "token_embd": (config.vocab_size, width), "output": (config.vocab_size, width), "output_norm": (width,),
    }  # fmt: skip
    for layer in range(config.depth):
        each = {
            "attn_norm": (width,), "attn_q": (width, width), "attn_k": (kv_width, width), "attn_v": (kv_width, width),
            "attn_output": (width, width), "ffn_norm": (width,), "ffn_gate": (inner, width), "ffn_up": (inner, width),
            "ffn_down": (width, inner),
        }  # fmt: skip
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in each.items()}
    for name, shape in shapes.items():
        drawn = 0.05 * draws.standard_normal(shape) if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(f"{name}.weight", drawn.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sum(int(np.prod(shape)) for shape in shapes.values())


@contextlib.contextmanager
def llama_served(model: Path, rows: int, threads: int) -> Iterator[str]:
    """A server of a model for so many conversations side by side: its address."""
    command = [sys.executable, __file__, str(model), str(rows), str(threads)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("listening at "):
                yield line.split()[-1]
                break
        else:
            raise RuntimeError("llama.cpp's server didn't start")
    finally:
        process.kill()
        process.wait()


def llama_speed(url: str, rows: int, prompt: list[int], tokens: int) -> float:
    """Tokens per second of so many conversations that stream greedy answers."""
    address = urlsplit(url)

    def ask(row: int) -> None:
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=600)
        body = {
            "prompt": [1, 300 + row, *prompt], "n_predict": tokens, "ignore_eos": True, "temperature": 0, "stream": True,
            "cache_prompt": False,
        }  # fmt: skip
        connection.request("POST", "/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
        response, heard = connection.getresponse(), b""
        while piece := response.read1(2**16):
            heard += piece
        connection.close()
        done = json.loads(heard.rstrip().rpartition(b"\n")[2].removeprefix(b"data: "))
        assert done["tokens_predicted"] == tokens, done

    began = time.perf_counter()
    with ThreadPoolExecutor(rows) as pool:
        list(pool.map(ask, range(rows)))
    return rows * tokens / (time.perf_counter() - began)


def serve(model: str, rows: int, threads: int) -> None:
    """Listen until standard input ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.port = model, 0
    params.n_parallel, params.n_ctx = rows, CONTEXT * rows
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    print("listening at", server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
