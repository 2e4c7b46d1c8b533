"""What is to be looked at in one sequence, and the facts about its tokens that the diagnostics need."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kqv.attention.foresight import Shown
from kqv.attention.lowering import TOP
from kqv.attention.relations import Tokens
from kqv.config import Group
from kqv.diagnostics import DIAGNOSTICS
from kqv.selection import PER_HEAD, Scope, Selection
from kqv.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Watch:
    """One sequence's selection, settled, and its tokens."""

    selection: Selection
    scopes: dict[Group, Scope]
    tokens: dict[Group, Tokens]

    def is_simple(self, group: Group) -> bool:
        """Whether nothing is wanted of the heads but means over queries, and weights as they are."""
        chosen = self.selection
        reduced = chosen.weights in ("top", "pooled")
        by_query = reduced or chosen.per_query or chosen.top_k > TOP or not PER_HEAD.isdisjoint(chosen.outputs)
        return (
            not by_query and self.scopes[group].attention is None and not any(DIAGNOSTICS[name].of_head for name in chosen.measures)
        )

    def wants(self, group: Group, layer: int) -> bool:
        """Whether anything of this layer is reported."""
        return self.selection.looks_at_heads and layer in self.scopes[group].layers

    def show(self, group: Group, heads: int) -> Shown | None:
        """Room for the weights that are wanted of this kind of attention, which has so many heads; None where none are."""
        if self.selection.weights != "full":
            return None
        scope = self.scopes[group]
        return Shown.room(scope.layers, scope.heads, heads, scope.queries, scope.keys)


def describe(
    lengths: dict[Group, tuple[int, int]],
    ids: dict[Group, tuple[int, ...] | None],
    device: torch.device,
    tokenizer: Tokenizer | None,
) -> dict[Group, Tokens]:
    """What the diagnostics know of the tokens of each kind of attention: `lengths` of queries and keys, `ids` of the keys."""
    described: dict[Group, Tokens] = {}
    for group, (queries, keys) in lengths.items():
        key_ids, special = ids[group], None
        key_tensor = None if key_ids is None else torch.tensor(key_ids, device=device)
        if key_ids is not None and tokenizer is not None:
            special = torch.tensor([index in tokenizer.special_ids for index in key_ids], device=device)
        described[group] = Tokens(queries, keys, device, group != "cross", key_tensor, special)
    return described


def of_scope(tensor: Tensor, scope: Scope) -> Tensor:
    """The layers and heads that are reported, of [L, H, …]; a view where these are all."""
    if scope.layers != tuple(range(len(tensor))):
        tensor = tensor[list(scope.layers)]
    return tensor if scope.heads == tuple(range(tensor.shape[1])) else tensor[:, list(scope.heads)]
