"""Who goes to the device next, and with whom: the policy by itself, without threads and without a clock.

It is fair on three levels, each by its own measure:

- **Lanes** share the device by the seconds that their work takes: the one that took least goes first, and one that was away gets
  nothing for that (start-time fair queueing: Goyal, Vin, Cheng, 1996). A model is a lane.
- Within a lane, the **kind** of work goes whose oldest job came first. A batch is of one kind.
- Within a batch, half of the room goes by arrival, so that nobody waits more than about twice as long as in a plain queue; the rest
  goes in turns, a job of each request, so that a request of many sequences doesn't keep those waiting that came after it alone.

A batch has a budget, of which seconds are a part: who came while a slow model's batch runs waits for its end. The oldest job of a
kind always goes with its next batch, however large: nobody starves.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol

LOOK_AHEAD = 64
"""Requests that are looked at for a batch, so that a long queue is not searched while everybody waits for it."""

WORTH_A_TRIP = 8
"""Tokens that a batch keeps at least when a small queue is divided among idle workers: less, such as the next tokens of a few
generations, goes faster together."""

FEWEST = 64
"""Tokens that a batch may have however slow they are, or the generations of a slow model would go one by one: a pass reads all of
the weights, and SmolLM2 takes five times as long for so many as for one."""


class Work(Protocol):
    """What is done with jobs of one kind. Works that are equal may share a batch."""

    @property
    def lane(self) -> Hashable:
        """Works of one lane have one share of the device between them."""

    def __call__(self, jobs: Sequence[Any], /) -> Sequence[Any]:
        """A result for each job, in order."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a job takes, or several do, or a batch may."""

    tokens: int
    cells: int = 0
    """Weights that are looked at: queries × keys × heads × layers."""
    answer_bytes: int = 0
    """What it gives, as it will be sent, about."""

    def __add__(self, other: "Size") -> "Size":
        return Size(self.tokens + other.tokens, self.cells + other.cells, self.answer_bytes + other.answer_bytes)

    def __sub__(self, other: "Size") -> "Size":
        return Size(self.tokens - other.tokens, self.cells - other.cells, self.answer_bytes - other.answer_bytes)

    def fits(self, room: "Size") -> bool:
        """Whether there is room for it, by every measure."""
        return self.tokens <= room.tokens and self.cells <= room.cells and self.answer_bytes <= room.answer_bytes


NOTHING = Size(0)


def total(sizes: Iterable[Size]) -> Size:
    """Of several together."""
    return sum(sizes, NOTHING)


@dataclass(eq=False)
class Fate:
    """What has become of a job that goes on, told at once to those who run it, who may be ahead of those who wait."""

    abandoned: bool = False


@dataclass(eq=False, slots=True)
class Waiting:
    """A job in the queue."""

    work: Work
    job: Any
    size: Size
    future: asyncio.Future[Any]
    """Cancelled when nobody wants the result any more."""
    since: float
    fate: Fate = field(default_factory=Fate)
    """Shared by all runs of a job that goes on."""


class Request:
    """Those of one request's jobs that wait for one kind of work, in order."""

    def __init__(self, jobs: Iterable[Waiting]) -> None:
        self.jobs = deque(jobs)


class Kind:
    """All that waits for one kind of work."""

    def __init__(self) -> None:
        self.tokens = 0
        self._arrivals: OrderedDict[Request, None] = OrderedDict()
        self._turns: OrderedDict[Request, None] = OrderedDict()
        """Whose turn it is; the same requests in another order."""

    @property
    def is_empty(self) -> bool:
        return not self._arrivals

    @property
    def head(self) -> Waiting:
        """The oldest job."""
        return next(iter(self._arrivals)).jobs[0]

    def put(self, request: Request) -> None:
        self._arrivals[request] = self._turns[request] = None
        self.tokens += sum(waiting.size.tokens for waiting in request.jobs)

    def drop(self, request: Request, waiting: Waiting) -> None:
        """Take a job out, which nobody wants any more."""
        request.jobs.remove(waiting)
        self._removed(request, waiting)

    def fill(self, budget: Size) -> list[Waiting]:
        """A batch, which leaves the queue: the head, and what fits beside it."""
        batch: list[Waiting] = []
        room = budget - self._take(next(iter(self._arrivals)), batch)
        for request in first(self._arrivals):
            while request.jobs and 2 * room.tokens > budget.tokens and request.jobs[0].size.fits(room):
                room -= self._take(request, batch)
        found = True
        while found and room.tokens > 0:
            found = False
            for request in first(self._turns):
                if request.jobs[0].size.fits(room):
                    room -= self._take(request, batch)
                    found = True
        return batch

    def _take(self, request: Request, batch: list[Waiting]) -> Size:
        """The request's next job, which was its turn."""
        waiting = request.jobs.popleft()
        batch.append(waiting)
        self._turns.move_to_end(request)
        self._removed(request, waiting)
        return waiting.size

    def _removed(self, request: Request, waiting: Waiting) -> None:
        self.tokens -= waiting.size.tokens
        if not request.jobs:
            del self._arrivals[request], self._turns[request]


def first(requests: Iterable[Request]) -> tuple[Request, ...]:
    """Those that are looked at, however they are moved meanwhile."""
    return tuple(islice(requests, LOOK_AHEAD))


def smoothed(average: float, measured: float) -> float:
    """The average of the last few, once one more was measured; 0 stands for none yet."""
    return average + (measured - average) * (0.2 if average else 1.0)


@dataclass(eq=False)
class Lane:
    """Works that have one share of the device between them."""

    kinds: dict[Work, Kind] = field(default_factory=dict)
    spent_s: float = 0.0
    """Seconds of one worker that its batches took, and what it was given for being away."""
    s_per_token: dict[type[Work], float] = field(default_factory=dict)
    """As it was over the last few batches: a generation's next token takes many times as long as one of a text that is read."""

    def oldest(self) -> Work:
        """The kind whose oldest job came first."""
        return min(self.kinds, key=lambda work: self.kinds[work].head.since)

    def expect(self, work: Work) -> float:
        """Seconds a token; 0 before the first batch."""
        return self.s_per_token.get(type(work), 0.0)

    def correct(self, batch: "Batch", took_s: float) -> None:
        """Put what a batch took in the place of what was expected of it."""
        self.spent_s += took_s - batch.charged_s
        if batch.size.tokens:
            self.s_per_token[type(batch.work)] = smoothed(self.expect(batch.work), took_s / batch.size.tokens)


@dataclass(frozen=True, eq=False)
class Batch:
    """Jobs that go together, and what their lane was charged for them beforehand."""

    jobs: list[Waiting]
    size: Size
    charged_s: float

    @property
    def work(self) -> Work:
        """The same for all."""
        return self.jobs[0].work


class Queue:
    """All that waits for a device. It belongs to whoever holds the lock."""

    def __init__(self, budget: Size, batch_s: float = math.inf) -> None:
        """A batch is within the budget, and is expected to take no longer than that."""
        self._budget = budget
        self._batch_s = batch_s
        self._lanes: dict[Hashable, Lane] = {}
        self._requests: dict[Waiting, Request] = {}
        self._clock_s = 0.0
        """What the lane had spent that went last: where one begins that comes anew."""
        self.size = NOTHING

    def __len__(self) -> int:
        return len(self._requests)

    def put(self, jobs: Sequence[Waiting]) -> None:
        """Let in the jobs of one request, all of one kind."""
        work, request = jobs[0].work, Request(jobs)
        lane = self._lanes.setdefault(work.lane, Lane())
        if not lane.kinds:
            lane.spent_s = max(lane.spent_s, self._clock_s)
        lane.kinds.setdefault(work, Kind()).put(request)
        self._requests |= dict.fromkeys(jobs, request)
        self.size += total(waiting.size for waiting in jobs)

    def drop(self, waiting: Waiting) -> bool:
        """Take out a job that nobody wants any more; false where it has gone already."""
        request = self._requests.get(waiting)
        if request is None:
            return False
        self._lanes[waiting.work.lane].kinds[waiting.work].drop(request, waiting)
        self._left([waiting])
        return True

    def clear(self) -> list[Waiting]:
        """Take out everything."""
        everything = list(self._requests)
        for waiting in everything:
            self.drop(waiting)
        return everything

    def take(self, idle: int = 1) -> Batch:
        """The next batch of a queue that isn't empty: no more than one worker's share, where several are idle."""
        waiting = [lane for lane in self._lanes.values() if lane.kinds]
        lane = min(waiting, key=lambda each: each.spent_s)
        work = lane.oldest()
        kind, kinds = lane.kinds[work], sum(len(each.kinds) for each in waiting)
        shares = max(1, min(math.ceil(idle / kinds), kind.tokens // WORTH_A_TRIP))
        s_per_token = lane.expect(work)
        most = self._most_tokens(s_per_token)
        share = most if shares == 1 else min(most, math.ceil(kind.tokens / shares))
        jobs = kind.fill(replace(self._budget, tokens=share))
        self._left(jobs)
        size = total(job.size for job in jobs)
        self._clock_s, charged_s = lane.spent_s, size.tokens * s_per_token
        lane.spent_s += charged_s
        return Batch(jobs, size, charged_s)

    def took(self, batch: Batch, seconds: float) -> None:
        """Note how long a batch kept a worker, or several together."""
        self._lanes[batch.work.lane].correct(batch, seconds)

    def _most_tokens(self, s_per_token: float) -> int:
        """Of a batch, at that speed."""
        in_time = self._batch_s / s_per_token if s_per_token else math.inf
        return int(min(self._budget.tokens, max(FEWEST, in_time)))

    def _left(self, jobs: Sequence[Waiting]) -> None:
        """Forget jobs of one kind that are no longer among those that wait."""
        work = jobs[0].work
        kinds = self._lanes[work.lane].kinds
        if kinds[work].is_empty:
            del kinds[work]
        for waiting in jobs:
            del self._requests[waiting]
        self.size -= total(waiting.size for waiting in jobs)
