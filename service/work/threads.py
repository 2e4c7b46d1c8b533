"""What goes to a thread and what doesn't."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from service.batching.workers import use_threads

P = ParamSpec("P")
T = TypeVar("T")


def make_executor() -> ThreadPoolExecutor:
    """Threads for what isn't the device's. They compute alone: the cores are the workers'."""
    return ThreadPoolExecutor(thread_name_prefix="off-loop", initializer=use_threads, initargs=(1,))


async def run_off_loop(is_long: bool, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result: from a thread where it takes long, else at once, since the way there and back costs 0.1 ms."""
    return await asyncio.to_thread(function, *args, **kwargs) if is_long else function(*args, **kwargs)
