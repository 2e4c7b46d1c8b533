"""What a `Model` asks of whatever runs its forward pass: a transformer of ours (`kqv.transformer`) or one of another library's."""

from collections.abc import Callable, Iterator
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor, nn

from kqv.attention.call import Attend
from kqv.config import ModelShape
from kqv.transformer import Inputs, Row


class Side(Protocol):
    """An encoder or a decoder, as far as its inputs go."""

    @property
    def weight(self) -> Float[Tensor, "..."]:
        """The table of token embeddings; inputs go where it is, and vectors become what it is made of."""

    @property
    def has_token_types(self) -> bool:
        """Whether it reads the segment of each token."""

    def lookup(self, ids: Int[Tensor, " N"]) -> Float[Tensor, "N W"]:
        """What vectors stand in for: what is looked up for each token, before positions are added."""


class Network(Protocol):
    """A forward pass and its weights; every attention in it goes through `attend`. Calls share nothing and change nothing."""

    @property
    def config(self) -> ModelShape:
        """What kind of model it is."""

    @property
    def encoder(self) -> Side | None:
        """The side that reads the source, where there is one."""

    @property
    def decoder(self) -> Side | None:
        """The side that looks back, where there is one."""

    @property
    def head(self) -> Callable[[Float[Tensor, "n W"]], Float[Tensor, "n V"]] | None:
        """What makes logits of hidden states, where the model has that."""

    @property
    def mixes_lengths(self) -> bool:
        """Whether sequences of unlike lengths can share a pass; those of one length always can."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights, shared ones once."""

    def __call__(self, encoder: Inputs | None, decoder: Inputs | None = None, attend: Attend = ...) -> Row:
        """The last hidden states: the decoder's, where there is one.

        `encoder` and `decoder` hold the packed sequences of each side that the model has, in the same order. A decoder whose caches
        know the source needs no `encoder`.
        """
