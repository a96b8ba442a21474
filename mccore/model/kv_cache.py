"""Keys and values of the tokens a model has read, so that the next token costs one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mccore.config import ModelConfig
from mccore.errors import MccoreError
from mccore.model.rotary import Rotary, rotate

HIDDEN = -1e30  # score of what nobody may see; finite: a query that sees nothing at all would turn into NaN


class CacheFull(MccoreError):
    """A key/value cache was asked to hold more entries than it has room for."""


class KVCache:
    """Preallocated keys and values of all layers for a batch of rows of equal length.

    `length` counts the entries held, `capacity` the room. Keys are stored already rotated, so positions may be any.
    Appending past the capacity raises CacheFull before anything is written; `truncate` drops the newest entries and
    `expand` copies one row to many. `grow=True` doubles the room instead of raising. `config` must be a derived one
    (`GPT.config` is).
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        grow: bool = False,
    ) -> None:
        shape = (config.depth, rows, config.n_kv_head, capacity, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # [L, B, G, capacity, C]
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        width = config.n_embd if config.smear else 0
        # Normed embeddings before the smear: the next token takes its share of the last; all are kept for `truncate`.
        self.embeddings = torch.zeros((rows, capacity, width), dtype=dtype, device=device)  # [B, capacity, D or 0]
        self.key_bias: Tensor | None = None  # [B, capacity, R] once a call brought one
        self.length = 0
        self.grow = grow

    @property
    def rows(self) -> int:
        return self.keys.size(1)

    @property
    def capacity(self) -> int:
        return self.keys.size(3)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        held = [self.keys, self.values, self.embeddings] + ([] if self.key_bias is None else [self.key_bias])
        return sum(tensor.nbytes for tensor in held)

    def truncate(self, length: int) -> None:
        """Forget all entries from index `length` on; with none left, that there ever were biases as well."""
        if not 0 <= length <= self.length:
            raise ValueError(f"can't truncate a cache of {self.length} entries to {length}")
        self.length = length
        if not length:
            self.key_bias = None

    def select(self, entries: Tensor) -> None:
        """Hold these entries, int64 [E] indices below `length`, in this order, and no others."""
        count = len(entries)
        if count > self.capacity:
            raise ValueError(f"can't hold {count} entries in a cache of {self.capacity}")
        self.keys[:, :, :, :count] = self.keys[:, :, :, entries]
        self.values[:, :, :, :count] = self.values[:, :, :, entries]
        self.embeddings[:, :count] = self.embeddings[:, entries]
        if self.key_bias is not None:
            self.key_bias[:, :count] = self.key_bias[:, entries]
        self.length = count

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Hold these rows, in this order, and no others."""
        index = torch.tensor(rows, device=self.keys.device)
        self.keys, self.values, self.embeddings = self.keys[:, index], self.values[:, index], self.embeddings[index]
        self.key_bias = None if self.key_bias is None else self.key_bias[index]

    def first_rows(self, count: int) -> KVCache:
        """A cache of the first rows alone, in the same memory: what is appended to it is here, but not counted as held here."""
        part = object.__new__(KVCache)
        part.keys, part.values, part.embeddings = self.keys[:, :count], self.values[:, :count], self.embeddings[:count]
        part.key_bias = None if self.key_bias is None else self.key_bias[:count]
        part.length, part.grow = self.length, False
        return part

    def copy_row(
        self, row: int, start: int, source: KVCache, source_row: int = 0, entries: slice | None = None
    ) -> None:
        """Write entries of a row of another cache, by default all it holds, from index `start` on of this cache's `row`.

        Counts none of them as held: see `advance`. What is written is there already, or fits the capacity.
        """
        entries = slice(0, source.length) if entries is None else entries
        into = slice(start, start + entries.stop - entries.start)
        self.keys[:, row, :, into] = source.keys[:, source_row, :, entries]
        self.values[:, row, :, into] = source.values[:, source_row, :, entries]
        self.embeddings[row, into] = source.embeddings[source_row, entries]
        bias = None if source.key_bias is None else source.key_bias[source_row, entries]
        if self.key_bias is None and bias is not None and bool(bias.any()):
            self.key_bias = bias.new_zeros((self.rows, self.capacity, bias.size(-1)))
        if self.key_bias is not None:
            self.key_bias[row, into] = 0.0 if bias is None else bias

    def tensors(self) -> dict[str, Tensor]:
        """What is held, by name, for `fill` to read again."""
        held = slice(0, self.length)
        tensors = {
            "keys": self.keys[:, :, :, held],
            "values": self.values[:, :, :, held],
            "embeddings": self.embeddings[:, held],
        }
        return tensors if self.key_bias is None else {**tensors, "key_bias": self.key_bias[:, held]}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Hold what `tensors` gave, of a cache of as many rows, and nothing else. Raises CacheFull where it has no room."""
        self.truncate(0)
        count, device = tensors["keys"].size(3), self.keys.device
        self.reserve(self.rows, count)
        self.keys[:, :, :, :count] = tensors["keys"].to(device)
        self.values[:, :, :, :count] = tensors["values"].to(device)
        self.embeddings[:, :count] = tensors["embeddings"].to(device)
        if "key_bias" in tensors:
            bias = tensors["key_bias"].to(device)
            self.key_bias = bias.new_zeros((self.rows, self.capacity, bias.size(-1)))
            self.key_bias[:, :count] = bias
        self.length = count

    def shift_key_bias(self, entries: Tensor, by: float) -> None:
        """Add `by` to the first key bias of those entries, bool [E], of the first E; nothing where there are no biases."""
        if self.key_bias is not None:
            self.key_bias[0, : len(entries), 0] += by * entries

    def turn(self, by: Rotary) -> None:
        """Rotate the keys of all entries held on, each by its own angles [1, length, C / 2]: as if they had stood elsewhere."""
        held = self.keys[:, :, :, : self.length]
        keys = held.flatten(0, 1).transpose(1, 2)  # [L * B, length, G, C]
        held.copy_(rotate(keys, by).transpose(1, 2).unflatten(0, held.shape[:2]))

    def copy(self) -> KVCache:
        """A cache that holds the same and changes on its own."""
        twin = object.__new__(KVCache)
        twin.keys, twin.values, twin.embeddings = self.keys.clone(), self.values.clone(), self.embeddings.clone()
        twin.key_bias = None if self.key_bias is None else self.key_bias.clone()
        twin.length, twin.grow = self.length, self.grow
        return twin

    def expand(self, rows: int) -> KVCache:
        """A cache of `rows` copies of the only row: one prompt, many continuations."""
        if self.rows != 1:
            raise ValueError(f"only a cache of one row can be expanded; this one has {self.rows}")
        copy = object.__new__(KVCache)
        copy.keys = self.keys.repeat(1, rows, 1, 1, 1)
        copy.values = self.values.repeat(1, rows, 1, 1, 1)
        copy.embeddings = self.embeddings.repeat(rows, 1, 1)
        copy.key_bias = None if self.key_bias is None else self.key_bias.repeat(rows, 1, 1)
        copy.length = self.length
        copy.grow = self.grow
        return copy

    # What follows is the model's side: `reserve` once per pass, `append` per layer, `advance` at the end.

    def reserve(self, rows: int, count: int, *, grow: bool = False) -> None:
        """Make sure that `count` more entries of `rows` rows fit, this once by growing. Raises CacheFull, ValueError for
        other rows."""
        if rows != self.rows:
            raise ValueError(f"the cache holds {self.rows} rows, the input has {rows}")
        needed = self.length + count
        if needed <= self.capacity:
            return
        if not (grow or self.grow):
            raise CacheFull(
                f"{count} more entries don't fit in a cache of {self.capacity} that holds {self.length}",
                hint="make the cache larger, shorten the input, or truncate the cache",
            )
        room = max(needed, 2 * self.capacity) - self.capacity
        self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, room))
        self.values = torch.nn.functional.pad(self.values, (0, 0, 0, room))
        self.embeddings = torch.nn.functional.pad(self.embeddings, (0, 0, 0, room))
        if self.key_bias is not None:
            self.key_bias = torch.nn.functional.pad(self.key_bias, (0, 0, 0, room))

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values [B, G, Q, C]; returns views of all [B, G, length + Q, C]."""
        end = self.length + keys.size(2)
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def append_embeddings(self, embeddings: Tensor) -> Tensor | None:
        """Write the normed embeddings [B, Q, D]; returns the entry before them [B, 1, D], None at the very start."""
        self.embeddings[:, self.length : self.length + embeddings.size(1)] = embeddings
        return self.embeddings[:, self.length - 1 : self.length] if self.length else None

    def append_key_bias(self, bias: Tensor | None, count: int) -> Tensor | None:
        """Write the key biases [B, Q, R] of `count` entries (None means 0); returns all [B, length + Q, R] or None."""
        if bias is None and self.key_bias is None:
            return None
        if self.key_bias is None:
            assert bias is not None
            self.key_bias = bias.new_zeros((self.rows, self.capacity, bias.size(-1)))
        end = self.length + count
        self.key_bias[:, self.length : end] = 0.0 if bias is None else bias
        return self.key_bias[:, :end]

    def advance(self, count: int) -> None:
        """Count `count` entries as held: the last step of a pass, so that a failed pass leaves the cache as it was."""
        self.length += count
