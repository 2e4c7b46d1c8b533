"""The queue's policy by itself: no thread, no clock, any traffic."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.queue import FEWEST, Batch, Queue, Size, Waiting, total

BUDGET = Size(tokens=40, cells=300, answer_bytes=500)


@dataclass(frozen=True)
class Task:
    """Work of a lane."""

    lane: str
    name: str = ""

    def __call__(self, jobs: Sequence[Any]) -> Sequence[Any]:
        return jobs


class Reading(Task):
    """Work of another type."""


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class Traffic:
    """A queue, and a note of what came and what went."""

    def __init__(self, loop: asyncio.AbstractEventLoop, budget: Size = BUDGET, batch_s: float = math.inf) -> None:
        self.queue = Queue(budget, batch_s)
        self.waiting: list[Waiting] = []
        self.gone: list[list[Waiting]] = []
        self._loop = loop
        self._now = 0.0

    def come(self, task: Task, *sizes: Size | int, request: Any = None) -> list[Waiting]:
        """A request of several jobs."""
        self._now += 1
        each = [size if isinstance(size, Size) else Size(size) for size in sizes]
        jobs = [Waiting(task, (request, index), size, self._loop.create_future(), self._now) for index, size in enumerate(each)]
        self.queue.put(jobs)
        self.waiting += jobs
        return jobs

    def go(self, idle: int = 1, seconds: float | None = None) -> Batch:
        """A batch, which takes a second a token unless said."""
        batch = self.queue.take(idle)
        self.queue.took(batch, float(batch.size.tokens) if seconds is None else seconds)
        self.gone.append(batch.jobs)
        for job in batch.jobs:
            self.waiting.remove(job)
        return batch

    def heads(self) -> dict[Task, Waiting]:
        """The oldest job of each kind."""
        heads: dict[Task, Waiting] = {}
        for job in self.waiting:
            heads.setdefault(job.work, job)  # type: ignore[arg-type]
        return heads


def names(batch: Batch) -> list[Any]:
    return [job.job[0] for job in batch.jobs]


A, B = Task("a"), Task("b")

tasks = st.sampled_from([Task("a"), Task("a", "other"), Task("b"), Task("c")])
sizes = st.builds(Size, st.integers(0, 60), st.integers(0, 400), st.integers(0, 600))
requests = st.tuples(tasks, st.lists(sizes, min_size=1, max_size=12))
events = st.lists(
    st.one_of(requests, st.tuples(st.just("go"), st.integers(1, 4)), st.tuples(st.just("drop"), st.integers(0, 99))), max_size=60
)


@settings(max_examples=300, deadline=None)
@given(events=events)
def test_any_traffic_leaves_whole_in_order_within_its_budget_and_without_starving(
    loop: asyncio.AbstractEventLoop, events: list[Any]
) -> None:
    traffic, came, dropped = Traffic(loop), [], set()
    for number, event in enumerate(events):
        match event:
            case ("go", idle):
                if traffic.queue:
                    check_batch(traffic, idle)
            case ("drop", index):
                if traffic.waiting:
                    job = traffic.waiting.pop(index % len(traffic.waiting))
                    assert traffic.queue.drop(job)
                    assert not traffic.queue.drop(job)
                    dropped.add(job)
            case (task, job_sizes):
                came += traffic.come(task, *job_sizes, request=number)
        assert len(traffic.queue) == len(traffic.waiting)
        assert traffic.queue.size == total(job.size for job in traffic.waiting)
    while traffic.queue:
        check_batch(traffic, idle=1)
    went = [job for batch in traffic.gone for job in batch]
    assert len(went) == len(set(went))
    assert {*went} | dropped == {*came}
    order = defaultdict(list)
    for job in went:
        order[job.job[0]].append(job.job[1])
    assert all(indices == sorted(indices) for indices in order.values())


def check_batch(traffic: Traffic, idle: int) -> None:
    heads, waiting = traffic.heads(), list(traffic.waiting)
    batch = traffic.go(idle)
    [work] = {job.work for job in batch.jobs}
    assert batch.jobs[0] is heads[work]  # type: ignore[index]
    assert batch.size == total(job.size for job in batch.jobs)
    assert len(batch.jobs) == 1 or batch.size.fits(BUDGET)
    if idle == 1 and batch.size.tokens < BUDGET.tokens:
        room = BUDGET - batch.size
        first_left = {job.job[0]: job for job in reversed(waiting) if job.work == work and job not in batch.jobs}
        assert not batch.size.fits(BUDGET) or not any(job.size.fits(room) for job in first_left.values())


def test_lone_request_behind_one_of_many_goes_with_the_next_batch(loop: asyncio.AbstractEventLoop) -> None:
    traffic = Traffic(loop)
    traffic.come(A, *[4] * 200, request="many")
    traffic.come(A, 4, request="lone")
    batch = traffic.go()
    assert names(batch).count("lone") == 1
    assert len(batch.jobs) == 10


def test_requests_of_many_share_what_does_not_go_by_arrival(loop: asyncio.AbstractEventLoop) -> None:
    traffic = Traffic(loop)
    for request in "xyz":
        traffic.come(A, *[2] * 100, request=request)
    went = "".join("".join(names(traffic.go())) for _ in range(3))
    assert all(abs(went.count(request) - share) <= 1 for request, share in {"x": 40, "y": 10, "z": 10}.items())


def test_request_of_many_is_at_most_half_as_fast_as_in_a_plain_queue(loop: asyncio.AbstractEventLoop) -> None:
    """Lone requests keep coming, more than the device can do; the one of many goes on at half the device's speed."""
    traffic = Traffic(loop)
    many = traffic.come(A, *[4] * 100, request="many")
    batches = 0
    while any(job in traffic.waiting for job in many):
        for _ in range(20):
            traffic.come(A, 4, request="lone")
        traffic.go()
        batches += 1
    assert batches <= 2 * math.ceil(100 * 4 / BUDGET.tokens) + 1


def test_large_job_is_overtaken_only_until_it_is_the_oldest(loop: asyncio.AbstractEventLoop) -> None:
    traffic = Traffic(loop)
    traffic.come(A, 1, request="small")
    traffic.come(A, 41, request="large")
    traffic.come(A, 1, request="small")
    assert names(traffic.go()) == ["small", "small"]
    for _ in range(50):
        traffic.come(A, 1, request="small")
    assert names(traffic.go()) == ["large"]


@pytest.mark.parametrize("size", [Size(1, cells=200), Size(1, answer_bytes=300)])
def test_maps_and_answers_fill_a_batch_too(loop: asyncio.AbstractEventLoop, size: Size) -> None:
    traffic = Traffic(loop)
    for request in "xyz":
        traffic.come(A, size, request=request)
    assert [names(traffic.go()) for _ in range(3)] == [["x"], ["y"], ["z"]]


def test_batch_of_a_slow_lane_takes_no_longer_than_it_may(loop: asyncio.AbstractEventLoop) -> None:
    traffic = Traffic(loop, Size(1000), batch_s=100)
    for task in (A, B):
        for _ in range(300):
            traffic.come(task, 10)
    took: dict[Any, list[float]] = {"a": [], "b": []}
    for _ in range(12):
        batch = traffic.queue.take()
        seconds = batch.size.tokens * (0.8 if batch.work == A else 0.01)
        traffic.queue.took(batch, seconds)
        took[batch.work.lane].append(seconds)
    assert took["a"][0] > 100, "nobody knew how slow it is"
    assert all(80 < seconds <= 100 for seconds in took["a"][1:])
    assert set(took["b"]) == {10.0}, "these have the whole budget"


def test_few_tokens_go_together_however_slow(loop: asyncio.AbstractEventLoop) -> None:
    traffic = Traffic(loop, Size(1000), batch_s=100)
    for _ in range(3):
        for _ in range(FEWEST):
            traffic.come(A, 1)
        assert len(traffic.go(seconds=5000.0).jobs) == FEWEST


def test_sequence_longer_than_a_batch_may_take_goes_alone(loop: asyncio.AbstractEventLoop) -> None:
    traffic = Traffic(loop, Size(1000), batch_s=100)
    for _ in range(4):
        traffic.come(A, 500)
    assert [len(traffic.go().jobs) for _ in range(3)] == [2, 1, 1]


def test_what_one_type_of_work_takes_says_nothing_of_another(loop: asyncio.AbstractEventLoop) -> None:
    """A generation's next token is slow; a text of the same model is read a hundred times as fast."""
    traffic, reading = Traffic(loop, Size(1000), batch_s=100), Reading("a")
    traffic.come(A, 10)
    traffic.go(seconds=1000.0)
    for charged_s in (0.0, 20.0, 20.0, 20.0):
        traffic.come(reading, 200)
        assert traffic.go(seconds=20.0).charged_s == pytest.approx(charged_s)
    for _ in range(4):
        traffic.come(reading, 200)
    assert len(traffic.go().jobs) == 4


def test_lanes_share_the_device_by_the_time_that_they_take(loop: asyncio.AbstractEventLoop) -> None:
    """A token of the one takes three times as long as one of the other; both always have work."""
    traffic, seconds = Traffic(loop), {"a": 0.0, "b": 0.0}
    for _ in range(400):
        traffic.come(A, 40)
        traffic.come(B, 40)
    for _ in range(200):
        batch = traffic.queue.take()
        took = batch.size.tokens * (3.0 if batch.work == A else 1.0)
        traffic.queue.took(batch, took)
        seconds[batch.work.lane] += took  # type: ignore[index]
    assert abs(seconds["a"] - seconds["b"]) <= 2 * 3.0 * 40


def test_lane_that_was_away_is_given_nothing_for_it(loop: asyncio.AbstractEventLoop) -> None:
    traffic = Traffic(loop)
    for _ in range(100):
        traffic.come(A, 40, request="a")
    for _ in range(50):
        traffic.go()
    for _ in range(100):
        traffic.come(B, 40, request="b")
    went = [names(traffic.go())[0] for _ in range(20)]
    assert 9 <= went.count("a") <= 11


def test_two_kinds_of_one_lane_have_one_share(loop: asyncio.AbstractEventLoop) -> None:
    traffic = Traffic(loop)
    for _ in range(100):
        traffic.come(A, 40, request="a")
        traffic.come(Task("a", "other"), 40, request="other")
        traffic.come(B, 40, request="b")
    went = [names(traffic.go())[0] for _ in range(40)]
    assert 19 <= went.count("b") <= 21
    assert abs(went.count("a") - went.count("other")) <= 1


def test_idle_workers_divide_a_small_queue(loop: asyncio.AbstractEventLoop) -> None:
    traffic = Traffic(loop)
    traffic.come(A, 9, request="x")
    traffic.come(A, 9, request="y")
    assert names(traffic.go(idle=2)) == ["x"]
    assert names(traffic.go(idle=1)) == ["y"]


def test_next_tokens_of_a_few_generations_are_not_divided(loop: asyncio.AbstractEventLoop) -> None:
    traffic = Traffic(loop)
    for request in "abcdefg":
        traffic.come(A, 1, request=request)
    assert names(traffic.go(idle=2)) == list("abcdefg")


def test_idle_workers_take_different_kinds_whole(loop: asyncio.AbstractEventLoop) -> None:
    traffic = Traffic(loop)
    for task in (A, B):
        for request in range(2):
            traffic.come(task, 9, request=(task.lane, request))
    assert names(traffic.go(idle=2)) == [("a", 0), ("a", 1)]


def test_long_queue_is_looked_at_only_so_far(loop: asyncio.AbstractEventLoop) -> None:
    traffic = Traffic(loop)
    traffic.come(A, 39, request="first")
    for _ in range(100):
        traffic.come(A, 2, request="misfit")
    traffic.come(A, 1, request="would fit")
    assert names(traffic.go()) == ["first"]
