"""A transformers model as a network that the engine can run."""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from kqv.attention.call import Attend
from kqv.attention.packed import attend_packed
from kqv.config import ModelShape
from kqv.huggingface.memory import remember
from kqv.huggingface.registry import Listener, Step, listening
from kqv.packing import Packing
from kqv.transformer import Inputs, Row, run_sides


class Side:
    """The encoder or the decoder of a transformers model, and the calls of attention that it makes in every pass."""

    def __init__(self, body: Any, steps: Sequence[Step], *, has_token_types: bool, crosses: bool) -> None:
        self.body, self.steps, self.crosses = body, steps, crosses
        self._named = inspect.signature(body.forward).parameters
        self._has_token_types = has_token_types and "token_type_ids" in self._named

    @property
    def weight(self) -> Float[Tensor, "V W"]:
        """The table of token embeddings."""
        return self.body.get_input_embeddings().weight

    @property
    def has_token_types(self) -> bool:
        """Whether it reads the segment of each token."""
        return self._has_token_types

    def lookup(self, ids: Int[Tensor, " N"]) -> Float[Tensor, "N W"]:
        """What vectors stand in for."""
        return self.body.get_input_embeddings()(ids)

    def arguments(self, inputs: Inputs, source: Row | None) -> dict[str, Any]:
        """What its forward is called with. All sequences are of one length, and nothing is padding."""
        batch, read = len(inputs.packing.lengths), inputs.caches[0].length if inputs.caches else 0
        tokens = inputs.tokens.unflatten(0, (batch, -1))
        given: dict[str, Any] = {
            "inputs_embeds" if tokens.is_floating_point() else "input_ids": tokens,
            "attention_mask": ones(batch, read + tokens.shape[1], tokens.device),
        }
        if inputs.token_types is not None:
            given["token_type_ids"] = inputs.token_types.unflatten(0, (batch, -1))
        if "use_cache" in self._named:
            given["use_cache"] = bool(inputs.caches)
        if inputs.caches:
            layers = 1 + max(step.layer for step in self.steps)
            given["past_key_values"] = remember(inputs.caches, layers, crosses=self.crosses)
        if self.crosses:
            given["encoder_hidden_states"] = self.source(inputs, source, batch)
            given["encoder_attention_mask"] = ones(batch, given["encoder_hidden_states"].shape[1], tokens.device)
        return given

    def source(self, inputs: Inputs, source: Row | None, batch: int) -> Float[Tensor, "B m W"]:
        """What cross-attention looks at; where the caches have it, only its length is asked for."""
        if source is not None:
            return source.x.unflatten(0, (batch, -1))
        length = inputs.caches[0].count("cross", 0)
        return torch.zeros(batch, length, 1, device=self.weight.device, dtype=self.weight.dtype)

    def __call__(self, inputs: Inputs, source: Row | None, attend: Attend) -> Row:
        """The last hidden states."""
        listener = Listener(self.steps, attend)
        with listening(listener):
            hidden = self.body(**self.arguments(inputs, source)).last_hidden_state
        listener.finish()
        return Row(hidden.flatten(0, 1), Packing(inputs.packing.lengths))


class Given(nn.Module):
    """Stands for a part of a model whose outcome is known: asked for anything else, it has nothing."""

    def __init__(self, hidden: Float[Tensor, "1 n W"]) -> None:
        super().__init__()
        self.last_hidden_state = hidden

    def forward(self, *args: Any, **kwargs: Any) -> "Given":
        return self

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattr__(name)
        return self if name == "decoder" else None  # OPT's head asks past its body for the decoder in it


class TransformersNetwork(nn.Module):
    """A transformers model, taken by its sides; `kqv.huggingface.loading` makes it, and has held it against eager attention.

    Padding is never fed: transformers' layers know no packed rows, so only sequences of one length share a pass.
    """

    mixes_lengths = False

    def __init__(self, model: Any, config: ModelShape, encoder: Side | None, decoder: Side | None) -> None:
        super().__init__()
        self.model, self.config, self.encoder, self.decoder = model, config, encoder, decoder
        attending = {step.module for side in (encoder, decoder) if side is not None for step in side.steps}
        self._bodies = frozenset(name for name, part in model.named_children() if attending.intersection(part.modules()))

    def forward(self, encoder: Inputs | None, decoder: Inputs | None = None, attend: Attend = attend_packed) -> Row:
        """The last hidden states: the decoder's, where there is one."""
        return run_sides(self.encoder, self.decoder, encoder, decoder, attend)

    @property
    def head(self) -> Callable[[Float[Tensor, "n W"]], Float[Tensor, "n V"]] | None:
        """What makes logits of hidden states."""
        return None if self.config.head == "none" else self.logits

    def logits(self, hidden: Float[Tensor, "n W"]) -> Float[Tensor, "n V"]:
        """What the model does after its layers, whatever that is: a copy of it runs whose layers hand on what they are given."""
        shell = copy.copy(self.model)
        given = Given(hidden.unsqueeze(0))
        shell._modules = {name: given if name in self._bodies else part for name, part in self.model._modules.items()}
        nothing = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        sides = {"decoder_input_ids": nothing} if self.encoder is not None and self.decoder is not None else {}
        return shell(input_ids=nothing, **sides).logits[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TransformersNetwork":
        """Move or convert everything, but leave rotary frequencies in float32: rounded, they would turn far tokens anyhow."""
        kept = [
            (part, name, part.get_buffer(name)) for part in self.modules() for name in part._buffers if name.endswith("inv_freq")
        ]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for part, name, before in kept:
            part._buffers[name] = before.to(part.get_buffer(name).device)
        return self


def ones(batch: int, length: int, device: torch.device) -> Int[Tensor, "B n"]:
    """transformers' way to say that nothing is padding."""
    return torch.ones(batch, length, dtype=torch.long, device=device)
