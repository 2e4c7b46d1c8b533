"""The batcher by itself: who goes to the device, with whom, and what becomes of those who don't."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch

from service.batching import workers
from service.batching.batcher import Batcher, Done, Limits, Unfinished, Watcher, abandon
from service.batching.queue import Size, Work
from service.batching.workers import Crew, Run
from service.errors import OverloadedError, UnavailableError

pytestmark = pytest.mark.anyio


def limits(waiting_tokens: int, waiting_jobs: int, batch_tokens: int) -> Limits:
    """Of tokens alone."""
    return Limits(waiting_tokens, waiting_jobs, Size(batch_tokens))


ROOMY, ALONE = limits(1000, 100, 10), Crew(1)


def submit(batcher: Batcher, work: Work, jobs: Sequence[Any], tokens: Sequence[int]) -> list[asyncio.Future[Done]]:
    return batcher.submit(work, jobs, list(map(Size, tokens)))


class Device:
    """Work that notes its batches, fails for poisoned jobs, and can be held up."""

    def __init__(self, lane: str = "") -> None:
        self.lane = lane or self
        self.batches: list[list[Any]] = []
        self.free = threading.Event()
        self.free.set()
        self.busy = threading.Event()

    def __call__(self, jobs: Sequence[Any]) -> list[Any]:
        self.batches.append(list(jobs))
        self.busy.set()
        assert self.free.wait(10)
        if "poison" in jobs:
            raise ValueError(f"poisoned among {len(jobs)}")
        return [f"{job} done" for job in jobs]

    async def hold(self, batcher: Batcher) -> asyncio.Future[Any]:
        """Keep the device busy until it is set free."""
        self.free.clear()
        self.busy.clear()
        [held] = submit(batcher, self, ["held"], [1])
        await asyncio.to_thread(self.busy.wait, 10)
        self.batches.clear()
        return held


@pytest.fixture
def device() -> Device:
    return Device()


@asynccontextmanager
async def started(limits: Limits = ROOMY, crew: Crew = ALONE, **more: Any) -> AsyncIterator[Batcher]:
    """A batcher at work; nothing in these tests takes long, so that what hangs fails."""
    batcher = Batcher(limits, crew, **more)
    batcher.start()
    async with asyncio.timeout(20):
        yield batcher
        await batcher.close()


async def test_idle_device_starts_at_once(device: Device) -> None:
    async with started() as batcher:
        [done] = await asyncio.gather(*submit(batcher, device, ["a"], [1]))
        assert done.result == "a done"
        assert done.run.jobs == 1
        assert 0 <= done.waited_s < 1


async def test_what_waits_goes_together(device: Device) -> None:
    async with started() as batcher:
        held = await device.hold(batcher)
        futures = [future for job in "abc" for future in submit(batcher, device, [job], [3])]
        device.free.set()
        done = await asyncio.gather(*futures)
        assert [each.result for each in done] == ["a done", "b done", "c done"]
        assert device.batches == [["a", "b", "c"]]
        assert {each.run for each in done} == {done[0].run}
        assert done[0].run.jobs == 3
        assert (await held).run.jobs == 1


async def test_batch_is_filled_up_to_its_budget(device: Device) -> None:
    async with started() as batcher:
        await device.hold(batcher)
        futures = [submit(batcher, device, [job], [tokens])[0] for job, tokens in zip("abcd", (6, 5, 4, 3), strict=True)]
        device.free.set()
        await asyncio.gather(*futures)
        assert device.batches == [["a", "c"], ["b", "d"]]


async def test_job_larger_than_a_batch_goes_alone(device: Device) -> None:
    async with started() as batcher:
        await device.hold(batcher)
        futures = [submit(batcher, device, [job], [tokens])[0] for job, tokens in (("a", 1), ("huge", 50), ("b", 1))]
        device.free.set()
        await asyncio.gather(*futures)
        assert device.batches == [["a", "b"], ["huge"]]


async def test_each_work_has_its_own_batches_by_arrival_of_their_heads() -> None:
    first, second = Device("shared"), Device("shared")
    async with started() as batcher:
        await first.hold(batcher)
        futures = [
            *submit(batcher, first, ["a"], [6]),
            *submit(batcher, second, ["x"], [6]),
            *submit(batcher, first, ["b"], [6]),
            *submit(batcher, second, ["y"], [4]),
        ]
        order = [job for batch in (await record_order(first, second, futures)) for job in batch]
        assert order == ["a done", "x done", "y done", "b done"]


async def record_order(first: Device, second: Device, futures: list[asyncio.Future[Any]]) -> list[list[Any]]:
    """Results by the batch that they came in, in the order of the batches."""
    batches: dict[Any, list[Any]] = {}
    for future in futures:
        future.add_done_callback(lambda each: batches.setdefault(each.result().run, []).append(each.result().result))
    first.free.set()
    await asyncio.gather(*futures)
    return list(batches.values())


async def test_cancelled_job_never_reaches_the_device(device: Device) -> None:
    async with started() as batcher:
        await device.hold(batcher)
        a, b, c = submit(batcher, device, ["a", "b", "c"], [1, 1, 1])
        b.cancel()
        device.free.set()
        await asyncio.gather(a, c)
        assert device.batches == [["a", "c"]]


async def test_job_cancelled_on_the_device_harms_nobody(device: Device) -> None:
    async with started() as batcher:
        held = await device.hold(batcher)
        held.cancel()
        device.free.set()
        [done] = await asyncio.gather(*submit(batcher, device, ["next"], [1]))
        assert done.result == "next done"


async def test_poisoned_job_fails_alone(device: Device) -> None:
    async with started() as batcher:
        await device.hold(batcher)
        futures = submit(batcher, device, ["a", "b", "poison", "c", "d"], [1] * 5)
        device.free.set()
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert [getattr(each, "result", str(each)) for each in outcomes] == [
            "a done",
            "b done",
            "poisoned among 1",
            "c done",
            "d done",
        ]
        assert device.batches == [["a", "b", "poison", "c", "d"], ["a", "b"], ["poison", "c", "d"], ["poison"], ["c", "d"]]


class Countdown(Device):
    """Work that goes on until its job, a list with a number, is at zero."""

    def __call__(self, jobs: Sequence[Any]) -> list[Any]:
        super().__call__([job[0] for job in jobs])
        for job in jobs:
            job[0] -= 1
        return [Unfinished(job[0], Size(1)) if job[0] else job[0] for job in jobs]


async def followed(future: asyncio.Future[Done]) -> list[Any]:
    """The results of all of a job's runs."""
    done = await future
    results = [done.result]
    while done.next is not None:
        done = await done.next
        results.append(done.result)
    return results


async def test_jobs_that_go_on_stay_in_step_with_each_other_and_are_never_refused() -> None:
    device = Countdown()
    async with started(limits(2, 2, 10)) as batcher:
        held = Device()
        await held.hold(batcher)
        futures = submit(batcher, device, [[3]], [1]) + submit(batcher, device, [[2]], [1])
        held.free.set()
        assert await asyncio.gather(*map(followed, futures)) == [[2, 1, 0], [1, 0]]
        assert device.batches == [[3, 2], [2, 1], [1]]


async def test_job_that_goes_on_gives_way_to_those_who_wait() -> None:
    device, other = Countdown("shared"), Device("shared")
    async with started() as batcher:
        await other.hold(batcher)
        [goes_on] = submit(batcher, device, [[2]], [1])
        [between] = submit(batcher, other, ["a"], [1])
        order: list[str] = []
        goes_on.add_done_callback(lambda done: done.result().next.add_done_callback(lambda _: order.append("second step")))
        between.add_done_callback(lambda _: order.append("between"))
        other.free.set()
        await asyncio.gather(followed(goes_on), between)
        assert order == ["between", "second step"]


@pytest.mark.parametrize("steps_seen", [0, 1, 2])
async def test_abandoned_job_does_not_go_on(steps_seen: int) -> None:
    device = Countdown()
    async with started() as batcher:
        [future] = submit(batcher, device, [[10**9]], [1])
        first = future
        for _ in range(steps_seen):
            future = (await future).next or future
        abandon(first)
        [done] = await asyncio.gather(*submit(batcher, Device(), ["next"], [1]))
        count = len(device.batches)
        await asyncio.gather(*submit(batcher, Device(), ["one more"], [1]))
        assert done.run.jobs == 1
        assert len(device.batches) <= count + 1


class Losing(Device):
    """Work that forgets one of several jobs."""

    def __call__(self, jobs: Sequence[Any]) -> list[Any]:
        return super().__call__(jobs)[1:]


async def test_work_that_loses_results_fails_instead_of_hanging() -> None:
    device = Losing()
    async with started() as batcher:
        futures = submit(batcher, device, ["a", "b", "c"], [1, 1, 1])
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["1 jobs gave 0 results"] * 3


async def test_bisecting_that_loses_jobs_fails_instead_of_hanging(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = workers.attempt
    monkeypatch.setattr(workers, "attempt", lambda jobs: attempt(jobs[: len(jobs) // 2]))
    async with started() as batcher:
        futures = submit(batcher, device, ["a", "b"], [1, 1])
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["the outcomes of a batch were lost"] * 2


class Deadly(Device):
    """Work that ends its thread."""

    def __call__(self, jobs: Sequence[Any]) -> list[Any]:
        super().__call__(jobs)
        raise SystemExit


@pytest.mark.parametrize("count", [1, 3])
async def test_worker_that_dies_leaves_nobody_waiting(count: int) -> None:
    deadly, held = Deadly(), Device()
    async with started(crew=Crew(count)) as batcher:
        others = [Device() for _ in range(count - 1)]
        busy = [await other.hold(batcher) for other in others]
        await deadly.hold(batcher)
        waiting = submit(batcher, held, ["a", "b"], [1, 1])
        deadly.free.set()
        for future in waiting:
            with pytest.raises(UnavailableError, match="the device of this replica has failed"):
                await future
        assert batcher.broken
        with pytest.raises(UnavailableError, match="has failed"):
            submit(batcher, held, ["late"], [1])
        assert held.batches == []
        for other in others:
            other.free.set()
        assert [(await future).result for future in busy] == ["held done"] * (count - 1)


async def test_device_that_never_works_again_ends_the_service(device: Device) -> None:
    def probe() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    async with started(probe=probe) as batcher:
        good = submit(batcher, device, ["a"], [1])
        assert (await good[0]).result == "a done"
        assert not batcher.broken
        [poisoned] = submit(batcher, device, ["poison"], [1])
        with pytest.raises(ValueError, match="poisoned"):
            await poisoned
        with pytest.raises(UnavailableError):
            await submit(batcher, device, ["next"], [1])[0]


async def test_requests_that_wait_for_idle_workers_run_side_by_side() -> None:
    together = threading.Barrier(2)

    class Meeting(Device):
        def __call__(self, jobs: Sequence[Any]) -> list[Any]:
            together.wait(10)
            return super().__call__(jobs)

    meeting = Meeting()
    async with started(limits(1000, 100, 100), Crew(2)) as batcher:
        await asyncio.gather(*submit(batcher, meeting, ["a", "b"], [9, 9]))
        assert sorted(meeting.batches) == [["a"], ["b"]]


class Counting(Device):
    """Work that tells how many threads of torch's it has."""

    def __call__(self, jobs: Sequence[Any]) -> list[Any]:
        super().__call__(jobs)
        return [torch.get_num_threads()] * len(jobs)


async def test_lone_batch_is_tried_with_the_threads_of_idle_workers() -> None:
    counting, other = Counting(), Device()
    async with started(crew=Crew(workers=3, threads=2)) as batcher:
        threads = [(await submit(batcher, counting, ["a"], [8])[0]).result for _ in range(2)]
        await other.hold(batcher)
        threads.append((await submit(batcher, counting, ["a"], [8])[0]).result)
        assert threads[:2] == [2, 6]
        assert threads[2] <= 4  # the cores of the worker that is busy are not lent
        other.free.set()


async def test_while_a_wide_batch_runs_the_others_stand_back(device: Device) -> None:
    wide, late = Device(), Device()
    async with started(crew=Crew(workers=2)) as batcher:
        await submit(batcher, wide, ["narrow"], [8])[0]
        wide.free.clear()
        wide.busy.clear()
        [first] = submit(batcher, wide, ["wide"], [8])
        await asyncio.to_thread(wide.busy.wait, 10)
        [second] = submit(batcher, late, ["b"], [1])
        await asyncio.sleep(0.05)
        assert not late.busy.is_set()
        assert batcher.load == (1, 1, 1)
        wide.free.set()
        await asyncio.gather(first, second)


async def test_cancelled_job_frees_its_place_at_once(device: Device) -> None:
    async with started(limits(10, 3, 10)) as batcher:
        await device.hold(batcher)
        futures = submit(batcher, device, ["a", "b"], [5, 5])
        with pytest.raises(OverloadedError):
            submit(batcher, device, ["c"], [5])
        futures[0].cancel()
        await asyncio.sleep(0)
        assert batcher.load == (1, 1, 5)
        futures += submit(batcher, device, ["c"], [5])
        device.free.set()
        await asyncio.gather(*futures[1:])
        assert device.batches == [["b", "c"]]


class Events(Watcher):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def ran(self, run: Run, largest: int) -> None:
        self.told.append(("ran", run.jobs, run.cost, largest))

    def failed(self) -> None:
        self.told.append(("failed",))

    def cancelled(self, stage: str, jobs: int) -> None:
        if jobs:
            self.told.append(("cancelled", stage, jobs))


async def test_watcher_is_told_what_happens(device: Device) -> None:
    events = Events()
    async with started(watcher=events) as batcher:
        held = await device.hold(batcher)
        a, b, poison = submit(batcher, device, ["a", "b", "poison"], [2, 3, 4])
        b.cancel()
        held.cancel()
        await asyncio.sleep(0)
        device.free.set()
        await asyncio.gather(a, poison, return_exceptions=True)
        assert events.told == [
            ("cancelled", "queue", 1),
            ("cancelled", "forward", 1),
            ("ran", 1, 1, 1),
            ("ran", 1, 2, 2),
            ("failed",),
        ]


class Unlucky(Device):
    """Work that fails as a whole now and then, always with a poisoned job, and loses its temper altogether never."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.draw = random.Random(seed)
        self.seen: Counter[Any] = Counter()

    def __call__(self, jobs: Sequence[Any]) -> list[Any]:
        if any(job % 17 == 0 for job in jobs) or self.draw.random() < 0.1:
            raise ValueError("bad luck")
        self.seen.update(jobs)
        return [job * 2 for job in jobs]


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_under_load_with_failures_and_cancellations_nothing_is_lost_or_done_twice(count: int) -> None:
    works = [Unlucky(seed) for seed in range(3)]
    draw = random.Random(count)
    async with started(limits(10**6, 10**6, 30), Crew(count)) as batcher:
        futures: dict[int, asyncio.Future[Done]] = {}
        for request in range(300):
            jobs = [len(futures) + index for index in range(draw.randint(1, 9))]
            submitted = submit(batcher, works[request % 3], jobs, [draw.randint(1, 20) for _ in jobs])
            futures |= dict(zip(jobs, submitted, strict=True))
            if draw.random() < 0.2:
                draw.choice(submitted).cancel()
            if draw.random() < 0.3:
                await asyncio.sleep(0.001)
        outcomes = await asyncio.gather(*futures.values(), return_exceptions=True)
    seen = sum((work.seen for work in works), Counter())
    for job, outcome in zip(futures, outcomes, strict=True):
        if isinstance(outcome, Done):
            assert (outcome.result, seen[job]) == (job * 2, 1)
        elif isinstance(outcome, ValueError):
            assert seen[job] == 0
        else:
            assert isinstance(outcome, asyncio.CancelledError)
            assert seen[job] <= 1
    assert batcher.load == (0, 0, 0)


async def test_full_queue_refuses_a_request_whole(device: Device) -> None:
    async with started(limits(10, 3, 10)) as batcher:
        await device.hold(batcher)
        kept = submit(batcher, device, ["a"], [6])
        with pytest.raises(OverloadedError, match="6 tokens wait for the device already; try again in 1 s"):
            submit(batcher, device, ["b", "c"], [2, 3])
        kept += submit(batcher, device, ["d", "e"], [2, 2])
        with pytest.raises(OverloadedError):
            submit(batcher, device, ["f"], [0])  # the tokens would fit, but it is one job too many
        with pytest.raises(OverloadedError):
            batcher.check_room()
        device.free.set()
        await asyncio.gather(*kept)
        assert device.batches == [["a", "d", "e"]]


async def test_empty_queue_takes_a_request_of_any_size(device: Device) -> None:
    async with started(limits(1, 1, 10)) as batcher:
        await device.hold(batcher)
        futures = submit(batcher, device, ["a", "b"], [5, 5])
        device.free.set()
        await asyncio.gather(*futures)


async def test_retry_after_is_the_queue_over_the_measured_speed(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))
    async with started(limits(100, 100, 10)) as batcher:
        with monkeypatch.context() as patched:
            patched.setattr("service.batching.batcher.time.monotonic", lambda: next(clock))
            await asyncio.gather(*submit(batcher, device, ["a"], [10]))  # 10 tokens in 2 seconds
        await device.hold(batcher)
        kept = submit(batcher, device, ["b"], [96])
        with pytest.raises(OverloadedError) as caught:
            submit(batcher, device, ["c"], [5])
        assert caught.value.headers == {"retry-after": "20"}  # 96 tokens at 5 a second
        device.free.set()
        await asyncio.gather(*kept)


async def test_closing_finishes_what_waits_and_takes_nothing_more(device: Device) -> None:
    batcher = Batcher(ROOMY)
    batcher.start()
    held = await device.hold(batcher)
    [waiting] = submit(batcher, device, ["a"], [1])
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError, match="about to stop"):
        submit(batcher, device, ["late"], [1])
    device.free.set()
    await closing
    assert ((await held).result, (await waiting).result) == ("held done", "a done")
