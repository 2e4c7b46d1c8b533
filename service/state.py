"""All that outlives a request."""

from collections import defaultdict
from dataclasses import dataclass, field

from service.batching.batcher import Batcher
from service.errors import OverloadedError
from service.http.auth import Keys
from service.http.embed_tokens import EmbedTokens
from service.models import Models
from service.observing.heads import Heads
from service.observing.metrics import Metrics
from service.oip.statistics import ModelStatistics
from service.settings import Settings


class Answers:
    """The answers under way, from when a request is let in until its answer has been sent: memory has room for only so much."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def hold(self, size: int) -> None:
        """Make room for one. Raises `OverloadedError`, but never where there are no others: no answer is too large for ever."""
        if self.held_bytes and self.held_bytes + size > self.limit_bytes:
            raise OverloadedError(f"answers of {self.held_bytes} bytes are under way already", retry_after_s=1)
        self.held_bytes += size

    def let_go(self, size: int) -> None:
        """It has been sent, or nobody wants it."""
        self.held_bytes -= size


@dataclass
class Service:
    """The parts that routes share."""

    settings: Settings
    models: Models
    batcher: Batcher
    answers: Answers
    metrics: Metrics
    heads: Heads
    keys: Keys
    embed_tokens: EmbedTokens
    draining: bool = False
    """About to stop: requests are still taken, but no new ones should be sent here."""
    statistics: dict[str, ModelStatistics] = field(default_factory=lambda: defaultdict(ModelStatistics))
    """What has been asked by Open Inference Protocol, by model."""

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.models.ready and not self.draining
