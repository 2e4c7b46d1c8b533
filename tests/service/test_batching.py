"""The batcher by itself: who goes to the device, with whom, and what becomes of those who don't."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.batching import Batcher, Done, Limits, Unfinished, Waiting, abandon, next_batch
from service.errors import OverloadedError, UnavailableError

pytestmark = pytest.mark.anyio
ROOMY = Limits(waiting_cost=1000, waiting_jobs=100, batch_cost=10)


class Device:
    """Work that notes its batches, fails for poisoned jobs, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.free = threading.Event()
        self.free.set()
        self.busy = threading.Event()

    def work(self, jobs: Sequence[Any]) -> list[Any]:
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
        [held] = batcher.submit(self.work, ["held"], [1])
        await asyncio.to_thread(self.busy.wait, 10)
        self.batches.clear()
        return held


@pytest.fixture
def device() -> Device:
    return Device()


@asynccontextmanager
async def started(limits: Limits = ROOMY) -> AsyncIterator[Batcher]:
    batcher = Batcher(limits)
    batcher.start()
    yield batcher
    await batcher.close()


async def test_idle_device_starts_at_once(device: Device) -> None:
    async with started() as batcher:
        [done] = await asyncio.gather(*batcher.submit(device.work, ["a"], [1]))
        assert done.result == "a done"
        assert done.run.jobs == 1
        assert 0 <= done.waited_s < 1


async def test_what_waits_goes_together(device: Device) -> None:
    async with started() as batcher:
        held = await device.hold(batcher)
        futures = [future for job in "abc" for future in batcher.submit(device.work, [job], [3])]
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
        futures = batcher.submit(device.work, ["a", "b", "c", "d"], [6, 5, 4, 1])
        device.free.set()
        await asyncio.gather(*futures)
        assert device.batches == [["a", "c"], ["b", "d"]]


async def test_job_larger_than_a_batch_goes_alone(device: Device) -> None:
    async with started() as batcher:
        await device.hold(batcher)
        futures = batcher.submit(device.work, ["a", "huge", "b"], [1, 50, 1])
        device.free.set()
        await asyncio.gather(*futures)
        assert device.batches == [["a", "b"], ["huge"]]


async def test_each_work_has_its_own_batches_by_arrival_of_their_heads() -> None:
    first, second = Device(), Device()
    async with started() as batcher:
        await first.hold(batcher)
        futures = [
            *batcher.submit(first.work, ["a"], [6]),
            *batcher.submit(second.work, ["x"], [6]),
            *batcher.submit(first.work, ["b"], [6]),
            *batcher.submit(second.work, ["y"], [4]),
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
        a, b, c = batcher.submit(device.work, ["a", "b", "c"], [1, 1, 1])
        b.cancel()
        device.free.set()
        await asyncio.gather(a, c)
        assert device.batches == [["a", "c"]]


async def test_job_cancelled_on_the_device_harms_nobody(device: Device) -> None:
    async with started() as batcher:
        held = await device.hold(batcher)
        held.cancel()
        device.free.set()
        [done] = await asyncio.gather(*batcher.submit(device.work, ["next"], [1]))
        assert done.result == "next done"


async def test_poisoned_job_fails_alone(device: Device) -> None:
    async with started() as batcher:
        await device.hold(batcher)
        futures = batcher.submit(device.work, ["a", "b", "poison", "c", "d"], [1] * 5)
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

    def work(self, jobs: Sequence[Any]) -> list[Any]:
        super().work([job[0] for job in jobs])
        for job in jobs:
            job[0] -= 1
        return [Unfinished(job[0], 1) if job[0] else job[0] for job in jobs]


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
    async with started(Limits(waiting_cost=2, waiting_jobs=2, batch_cost=10)) as batcher:
        held = Device()
        await held.hold(batcher)
        futures = batcher.submit(device.work, [[3]], [1]) + batcher.submit(device.work, [[2]], [1])
        held.free.set()
        assert await asyncio.gather(*map(followed, futures)) == [[2, 1, 0], [1, 0]]
        assert device.batches == [[3, 2], [2, 1], [1]]


async def test_job_that_goes_on_gives_way_to_those_who_wait() -> None:
    device, other = Countdown(), Device()
    async with started() as batcher:
        await other.hold(batcher)
        [goes_on] = batcher.submit(device.work, [[2]], [1])
        [between] = batcher.submit(other.work, ["a"], [1])
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
        [future] = batcher.submit(device.work, [[10**9]], [1])
        first = future
        for _ in range(steps_seen):
            future = (await future).next or future
        abandon(first)
        [done] = await asyncio.gather(*batcher.submit(Device().work, ["next"], [1]))
        count = len(device.batches)
        await asyncio.gather(*batcher.submit(Device().work, ["one more"], [1]))
        assert done.run.jobs == 1
        assert len(device.batches) <= count + 1


async def test_work_that_loses_results_fails_instead_of_hanging() -> None:
    async with started() as batcher:
        [future] = batcher.submit(lambda jobs: [], ["a"], [1])
        with pytest.raises(ValueError, match="shorter"):
            await future


async def test_full_queue_refuses_a_request_whole(device: Device) -> None:
    async with started(Limits(waiting_cost=10, waiting_jobs=3, batch_cost=10)) as batcher:
        await device.hold(batcher)
        kept = batcher.submit(device.work, ["a"], [6])
        with pytest.raises(OverloadedError, match="6 tokens wait for the device already; try again in 1 s"):
            batcher.submit(device.work, ["b", "c"], [2, 3])
        kept += batcher.submit(device.work, ["d", "e"], [2, 2])
        with pytest.raises(OverloadedError):
            batcher.submit(device.work, ["f"], [0])  # the tokens would fit, but it is one job too many
        device.free.set()
        await asyncio.gather(*kept)
        assert device.batches == [["a", "d", "e"]]


async def test_empty_queue_takes_a_request_of_any_size(device: Device) -> None:
    async with started(Limits(waiting_cost=1, waiting_jobs=1, batch_cost=10)) as batcher:
        await device.hold(batcher)
        futures = batcher.submit(device.work, ["a", "b"], [5, 5])
        device.free.set()
        await asyncio.gather(*futures)


async def test_retry_after_is_the_queue_over_the_measured_speed(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))
    async with started(Limits(waiting_cost=100, waiting_jobs=100, batch_cost=10)) as batcher:
        with monkeypatch.context() as patched:
            patched.setattr("service.batching.time.monotonic", lambda: next(clock))
            await asyncio.gather(*batcher.submit(device.work, ["a"], [10]))  # 10 tokens in 2 seconds
        await device.hold(batcher)
        kept = batcher.submit(device.work, ["b"], [96])
        with pytest.raises(OverloadedError) as caught:
            batcher.submit(device.work, ["c"], [5])
        assert caught.value.headers == {"retry-after": "20"}  # 96 tokens at 5 a second
        device.free.set()
        await asyncio.gather(*kept)


async def test_closing_finishes_what_waits_and_takes_nothing_more(device: Device) -> None:
    batcher = Batcher(ROOMY)
    batcher.start()
    held = await device.hold(batcher)
    [waiting] = batcher.submit(device.work, ["a"], [1])
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError, match="about to stop"):
        batcher.submit(device.work, ["late"], [1])
    device.free.set()
    await closing
    assert ((await held).result, (await waiting).result) == ("held done", "a done")


async def test_head_of_the_queue_is_never_overtaken_twice() -> None:
    """However many small jobs keep coming, a large one goes with the batch after the one that it didn't fit."""

    def entry(name: str, cost: int) -> Waiting:
        return Waiting(sorted, name, cost, asyncio.get_running_loop().create_future(), 0.0)

    queue = [entry("small", 1), entry("large", 10)]
    batch, queue = next_batch(queue, 10)
    assert [each.job for each in batch] == ["small"]
    batch, queue = next_batch([*queue, *(entry("small", 1) for _ in range(20))], 10)
    assert [each.job for each in batch] == ["large"]
    assert len(queue) == 20
