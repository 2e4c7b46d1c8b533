"""Our caches, as transformers' models ask for them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache as TheirCache
from transformers import EncoderDecoderCache
from transformers.cache_utils import CacheLayerMixin

from kqv.cache import Cache
from kqv.config import Group


class Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values of B sequences that have read equally much. Windows are for masks: all keys are kept."""

    is_sliding = False
    is_initialized = True

    def __init__(self, group: Group, layer: int, caches: Sequence[Cache]) -> None:
        self._place, self._caches = (group, layer), caches

    @property
    def keys(self) -> Tensor:
        """[B, G, S, D]."""
        return torch.stack([cache.read(*self._place)[0].transpose(0, 1) for cache in self._caches])

    @property
    def values(self) -> Tensor:
        """[B, G, S, D]."""
        return torch.stack([cache.read(*self._place)[1].transpose(0, 1) for cache in self._caches])

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: our caches make room when something comes."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep the keys and values of further tokens; return all that there are."""
        for cache, k, v in zip(self._caches, key_states, value_states, strict=True):
            cache.extend(*self._place, k.transpose(0, 1), v.transpose(0, 1))
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """How many keys there are."""
        return self._caches[0].count(*self._place)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many keys there will be with so many more, and the index of the first."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1


def remember(caches: Sequence[Cache], layers: int, *, crosses: bool) -> TheirCache:
    """What a decoder of so many layers reads and extends; with `crosses` the source's keys and values too."""
    own, source = (TheirCache(layers=[Layer(group, layer, caches) for layer in range(layers)]) for group in ("decoder", "cross"))
    return EncoderDecoderCache(own, source) if crosses else own
