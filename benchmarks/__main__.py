"""Run the benchmarks by name, or those that take minutes; `--short` runs them to see that they work: its figures say nothing."""

import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from benchmarks import (
    analysis,
    attention,
    balancer,
    broken,
    decoding,
    gpu,
    lens,
    memory,
    overload,
    readiness,
    request,
    service,
    sharing,
    soak,
    variants,
)


class Benchmark(NamedTuple):
    """In full, and in seconds where it takes long."""

    run: Callable[[], None]
    short: Callable[[], None] | None = None
    by_name_only: bool = False


BENCHMARKS = {
    "attention": Benchmark(attention.run),
    "gpu": Benchmark(gpu.run),
    "analysis": Benchmark(analysis.run),
    "decoding": Benchmark(decoding.run),
    "request": Benchmark(request.run),
    "readiness": Benchmark(readiness.run),
    "variants": Benchmark(variants.run),
    "memory": Benchmark(memory.run),
    "lens": Benchmark(lens.run),
    "service": Benchmark(service.compare, partial(service.compare, rounds=1, seconds=1, levels=(4,))),
    "service-full": Benchmark(service.compare_full, partial(service.compare_full, rounds=1, seconds=1, levels=(1,))),
    "overload": Benchmark(overload.run, partial(overload.run, seconds=8, best_seconds=3, max_waiting_tokens=2048)),
    "sharing": Benchmark(sharing.run, partial(sharing.run, rounds=1, seconds=2)),
    "broken": Benchmark(broken.run, partial(broken.run, count=500)),
    "balancer": Benchmark(balancer.run, partial(balancer.run, requests=600)),
    "soak": Benchmark(soak.run, partial(soak.run, minutes=0.4, warm_up_minutes=0.1), by_name_only=True),
}


def main(arguments: list[str]) -> None:
    names = [argument for argument in arguments if argument != "--short"]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in names or [name for name, benchmark in BENCHMARKS.items() if not benchmark.by_name_only]:
        benchmark = BENCHMARKS[name]
        run = benchmark.short if "--short" in arguments else None
        (run or benchmark.run)()


if __name__ == "__main__":
    main(sys.argv[1:])
