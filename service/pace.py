"""How many cores one batch is worth: tried out while the service runs, for it depends on what else the machine does.

Measured on two cores, a sentence that comes alone takes 11 ms on both and 16 ms on one. With a neighbour on one of them it takes
500 ms on both, since OpenMP's threads wait for each other by spinning, and 30 ms on one.
"""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

FIRST_TRIAL, LAST_TRIAL = 16, 1024
"""How many batches it takes until the way that seems slower is tried again: as long again each time that it is slower still."""

WEIGHT = 0.3
"""Of a new measurement against those before it."""


@dataclass
class Trial:
    """What is known of batches of one kind and about one size: seconds a token, on one core and on several."""

    seconds: dict[bool, float] = field(default_factory=dict)
    until_trial: int = FIRST_TRIAL
    patience: int = FIRST_TRIAL

    @property
    def faster(self) -> bool:
        """Whether several cores are."""
        return self.seconds[True] < self.seconds[False]

    def choose(self) -> bool:
        """Whether the next batch should have several."""
        if len(self.seconds) < 2:
            return False in self.seconds
        self.until_trial -= 1
        return self.faster if self.until_trial > 0 else not self.faster

    def learn(self, is_wide: bool, seconds: float) -> None:
        """Note how it went. What was tried anew is judged by that alone: what was known of it is long ago."""
        is_trial = len(self.seconds) == 2 and is_wide != self.faster
        before = self.seconds.get(is_wide, seconds)
        self.seconds[is_wide] = seconds if is_trial else before + WEIGHT * (seconds - before)
        if is_trial:
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
