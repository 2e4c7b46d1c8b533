"""How many cores one batch is worth: tried out while the service runs, for it depends on what else the machine does.

Measured on two cores, a sentence that comes alone takes 11 ms on both and 16 ms on one. With a neighbour on one of them it takes
500 ms on both, since OpenMP's threads wait for each other by spinning, and 30 ms on one.
"""

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from statistics import median

FIRST_TRIAL, LAST_TRIAL = 16, 1024
"""How many batches it takes until the way that seems slower is tried again: as long again each time that it is slower still."""

TRIES = 5
"""Batches that a way is judged by, its last few. One alone decides nothing: of 16 to 31 tokens it takes a fifth more or less a
token by the same way, and ten times as much when a thread is displaced for a moment."""

HOPELESS = 5.0
"""Times as slow as the other way: two such batches end a trial early."""


def recent(seconds: Iterable[float] = ()) -> deque[float]:
    """The last few."""
    return deque(seconds, maxlen=TRIES)


@dataclass
class Trial:
    """What is known of batches of one kind and about one size: seconds a token, on one core and on several."""

    seconds: dict[bool, deque[float]] = field(default_factory=lambda: {False: recent(), True: recent()})
    until_trial: int = FIRST_TRIAL
    patience: int = FIRST_TRIAL
    tried: list[float] = field(default_factory=list)
    """What the trial that goes on has found so far."""

    @property
    def faster(self) -> bool:
        """Whether several cores are."""
        return median(self.seconds[True]) < median(self.seconds[False])

    def choose(self) -> bool:
        """Whether the next batch should have several."""
        for is_wide, seconds in self.seconds.items():
            if not seconds:
                return is_wide
        self.until_trial -= 1
        return self.faster if self.until_trial > 0 else not self.faster

    def learn(self, is_wide: bool, seconds: float) -> None:
        """Note how it went."""
        if not (self.seconds[is_wide] and self.seconds[not is_wide]):
            self.seconds[is_wide].append(seconds)
        elif is_wide != self.faster:
            self._try(is_wide, seconds)
        else:
            self.seconds[is_wide].append(seconds)
            if is_wide != self.faster:
                self.patience = self.until_trial = FIRST_TRIAL  # it may have been for a moment

    def _try(self, is_wide: bool, seconds: float) -> None:
        """Note a batch of a trial. Its end decides by the trial alone: what was known of that way is long ago."""
        self.tried.append(seconds)
        limit = HOPELESS * median(self.seconds[not is_wide])
        if len(self.tried) < TRIES and sum(each >= limit for each in self.tried) < 2:
            return
        self.seconds[is_wide], self.tried = recent(self.tried), []
        self.patience = FIRST_TRIAL if self.faster == is_wide else min(2 * self.patience, LAST_TRIAL)
        self.until_trial = self.patience


class Pace:
    """The trials of one worker."""

    def __init__(self) -> None:
        self._trials: dict[tuple[Hashable, int], Trial] = defaultdict(Trial)

    def choose(self, lane: Hashable, tokens: int) -> bool:
        """Whether a batch that may have several cores should."""
        return self._trials[lane, tokens.bit_length()].choose()

    def learn(self, lane: Hashable, tokens: int, is_wide: bool, seconds: float) -> None:
        """Note how long it took."""
        self._trials[lane, tokens.bit_length()].learn(is_wide, seconds / max(1, tokens))
