"""How a session focuses: one value, from the flags of a command to the Working Context."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pydantic import ValidationError

from mccore.config import Choice, MegaContextConfig, SearchConfig
from mccore.errors import ConfigError

KvPolicy = Literal["exact", "reuse"]


@dataclass(frozen=True)
class SessionOptions:
    """How sessions focus, by the names that the configuration has for it (`megacontext.<name>`).

    wc_length: entries of the Working Context (W). refocus_interval: tokens between two refocuses. surprise: NLL in nats of a
    token that brings the next refocus forward; 0 for never. gist_dtype: what gists are stored as. search: what finds spans of
    a history that its newest tokens are about. allocator, tree: plugins by name. rounds: refocuses that a long new history gets.
    """

    wc_length: int
    refocus_interval: int
    kv_policy: KvPolicy = "exact"
    surprise: float = 0.0
    search: SearchConfig = field(default_factory=SearchConfig)
    token_positions: Literal["absolute", "contiguous"] = "absolute"
    gist_dtype: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    allocator: Choice = field(default_factory=lambda: Choice(name="greedy"))
    tree: Choice = field(default_factory=lambda: Choice(name="ram"))
    rounds: int = 8

    @classmethod
    def of(cls, config: MegaContextConfig, **changes: Any) -> SessionOptions:
        """A model's configuration with `changes`, by the names above; None leaves a value as it is, `search` names a kind.

        Raises ConfigError for a value that isn't allowed.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        if (kind := given.get("search")) is not None:
            given["search"] = {**config.search.model_dump(), "kind": kind}
        for name in ("allocator", "tree"):
            if isinstance(choice := given.get(name), Choice):
                given[name] = choice.model_dump()
        try:
            changed = MegaContextConfig.model_validate({**config.model_dump(), **given})
        except ValidationError as error:
            (first, *_) = error.errors()
            raise ConfigError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
        return cls(**{each.name: getattr(changed, each.name) for each in fields(cls) if each.name != "rounds"})
