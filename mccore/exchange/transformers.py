"""The layout of transformers' models, with its NanoChat class: what of a configuration it can hold, written and read.

config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mccore.config import ModelConfig
from mccore.config.section import describe_validation
from mccore.data.tokenizer.formats import read_tokenizer
from mccore.data.tokenizer.huggingface import read_huggingface, read_json_file
from mccore.data.tokenizer.tokenizer import SPECIALS, Tokenizer
from mccore.errors import CheckpointError, DataError
from mccore.exchange.incoming import Incoming
from mccore.exchange.tensor_names import to_ours, to_theirs
from mccore.host.json_file import BadJson, read_object
from mccore.host.text import open_regular, spell
from mccore.scaling.model import layer_windows

ROWS = ("embedding.weight", "head.weight")  # a row for each id
_CLASS = "NanoChatForCausalLM"

CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}"
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}"
    "{{ '<|user_start|>' + (first if loop.first else '') + message['content'] + '<|user_end|>' }}"
    "{% else %}{{ '<|assistant_start|>' + message['content'] + '<|assistant_end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant_start|>' }}{% endif %}"
)


def misfits(model: ModelConfig) -> list[str]:
    """What of a model its NanoChat class has no place for, each in words with its setting; empty where it holds all."""
    found = []
    if model.value_embeddings:
        found.append("value embeddings (model.value_embeddings)")
    if model.residual_scalars:
        found.append("per-layer scales (model.residual_scalars)")
    if model.smear:
        found.append("smear (model.smear)")
    if model.backout:
        found.append("backout (model.backout)")
    if any(layer_windows(model)):
        found.append(f"attention windows (model.window_pattern={model.window_pattern})")
    if model.qk_scale != 1.0:
        found.append(f"a factor on queries and keys (model.qk_scale={model.qk_scale:g})")
    if model.rope_dtype != "float32":
        found.append(f"rounded rotary tables (model.rope_dtype={model.rope_dtype})")
    return found


def config_of(model: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json of a derived configuration that its class holds."""
    return {
        "architectures": [_CLASS],
        "model_type": "nanochat",
        "dtype": "float32",
        "vocab_size": model.vocab_ids,
        "hidden_size": model.n_embd,
        "intermediate_size": model.mlp_ratio * model.n_embd,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.n_head,
        "num_key_value_heads": model.n_kv_head,
        "max_position_embeddings": model.max_seq_len,
        "hidden_act": "relu2",
        "rms_norm_eps": model.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_base},
        "final_logit_softcapping": model.logit_softcap or None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        **token_ids(tokenizer),
    }


def token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids that begin a document, end an answer, and fill a row."""
    end = tokenizer.special("assistant_end")
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": end, "pad_token_id": end}


def tokenizer_config(model: ModelConfig) -> dict[str, Any]:
    """tokenizer_config.json: what `apply_chat_template` gives is our chat format."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.max_seq_len,
        "bos_token": "<|bos|>",
        "eos_token": "<|assistant_end|>",
        "pad_token": "<|assistant_end|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def tensors_of(state: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Tensors of our GPT as its class has them: a row for each id that exists."""
    cut = {name: tensor[: model.vocab_ids] if name in ROWS else tensor for name, tensor in state.items()}
    return {name: tensor.contiguous() for name, tensor in to_theirs(cut, "transformers", model.head_dim).items()}


def read_directory(directory: Path, stage: str) -> tuple[Incoming, Tokenizer]:
    """The model and the tokenizer in a folder of transformers' layout.

    Raises CheckpointError for a model of another class, or one with anything that ours hasn't; DataError for the tokenizer.
    """
    path = directory / "config.json"
    try:
        config = read_object(path)
    except OSError as error:
        raise CheckpointError(
            f"can't read {spell(path)}: {error.strerror}",
            hint="give the folder of a model of transformers' NanoChat class",
        ) from error
    except BadJson as error:
        raise CheckpointError(f"{spell(path)} is damaged: {error}", hint="fetch it again") from error
    if config.get("model_type") != "nanochat":
        raise CheckpointError(
            f"{spell(path)} describes a model of the type {config.get('model_type')!r:.40}, not nanochat",
            hint="models of transformers' NanoChat class can be taken",
        )
    model = _model_config(config, path)
    file = directory / "model.safetensors"

    def read() -> dict[str, Tensor]:
        state = read_tensors(file)
        ours = {name: tensor.float().contiguous() for name, tensor in _ours(state, model, file).items()}
        padding = model.vocab_size - model.vocab_ids
        return {
            f"gpt.{name}": F.pad(tensor, (0, 0, 0, padding)) if name in ROWS else tensor
            for name, tensor in ours.items()
        }

    return Incoming(stage, 0, model, read, spell(file)), _read_tokenizer(directory / "tokenizer.json")


def _model_config(config: dict[str, Any], path: Path) -> ModelConfig:
    rope = config.get("rope_parameters") or {}
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    inner = config.get("intermediate_size")
    sound = all(type(number) is int and number > 0 for number in (heads, width, inner))
    if not sound or width % heads or inner % width:
        raise CheckpointError(f"{spell(path)} doesn't describe a model that ours can be: its widths don't divide")
    expected = {
        "hidden_act": "relu2", "attention_bias": False, "tie_word_embeddings": False, "head_dim": width // heads,
        "rope_parameters.rope_type": "default",
    }  # fmt: skip
    told = {**config, "rope_parameters.rope_type": rope.get("rope_type")}
    for name, value in expected.items():
        if told.get(name, value) not in (value, None):
            raise CheckpointError(f"{spell(path)}: {name} is {told[name]!r:.40}, and ours is {value!r}")
    try:
        ids = config["vocab_size"]
        return ModelConfig(
            depth=config["num_hidden_layers"],
            head_dim=width // heads,
            n_embd=width,
            n_head=heads,
            n_kv_head=config.get("num_key_value_heads") or heads,
            vocab_size=-(-ids // 64) * 64,
            vocab_ids=ids,
            max_seq_len=config["max_position_embeddings"],
            mlp_ratio=inner // width,
            rope_base=rope.get("rope_theta", 10_000.0),
            qk_scale=1.0,
            norm_eps=config.get("rms_norm_eps", 1e-6),
            logit_softcap=config.get("final_logit_softcapping", 15.0) or 0.0,
            value_embeddings=False,
            residual_scalars=False,
            smear=False,
            backout=False,
        )
    except ValidationError as error:
        raise CheckpointError(f"{spell(path)} describes a model that can't be: {describe_validation(error)}") from error
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{spell(path)} lacks {error}: it doesn't describe a model") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError."""
    open_regular(path).close()  # a device or a pipe would be waited for
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{spell(path)} can't be read: {error}", hint="fetch it again") from error


def _ours(state: dict[str, Tensor], model: ModelConfig, path: Path) -> dict[str, Tensor]:
    try:
        return to_ours(state, "transformers", model.head_dim)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{spell(path)} doesn't hold the model its configuration describes: {error}", hint="fetch it again"
        ) from error


def _read_tokenizer(path: Path) -> Tokenizer:
    tokenizer = read_tokenizer(read_huggingface(path))
    added = {token["content"]: token["id"] for token in read_json_file(path).get("added_tokens") or []}
    if added != tokenizer.specials:
        odd = sorted(set(added) ^ set(SPECIALS)) or ["their ids"]
        raise DataError(f"{spell(path)}: its special tokens aren't nanochat's nine behind the others: {odd[0]}")
    return tokenizer
