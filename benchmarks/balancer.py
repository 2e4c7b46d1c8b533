"""Replicas behind the balancer, killed and restarted under load: does a request get lost?"""

import asyncio
import itertools
import signal

from benchmarks.cluster import Cluster, cluster
from benchmarks.server import Server
from benchmarks.side_by_side import CONSOLE
from service.cli.bench import told
from service.cli.load import Tally, Target, mixed_bodies, open_loop, poisson


def run(requests: int = 6000, rate: float = 20.0) -> None:
    """MiniLM: kill -9 of one and a rolling restart of all by SIGTERM, over and over, until so many requests were answered."""
    with CONSOLE.status("starting three replicas"), cluster("minilm", drain_s=3) as replicated:
        tally, disturbed = asyncio.run(disturb_under_load(replicated, requests, rate))
    lost = {outcome: count for outcome, count in tally.outcomes.items() if outcome != "200"}
    CONSOLE.print(f"{disturbed} disturbances, {tally.outcomes.total()} requests (asked: 5000 or more)")
    CONSOLE.print(f"{sum(lost.values())} lost (asked: 0) {lost or ''}")


async def disturb_under_load(replicated: Cluster, requests: int, rate: float) -> tuple[Tally, int]:
    """What became of the requests, and how often a replica was killed or restarted meanwhile."""
    tally, disturbed = Tally(), 0
    bodies = mixed_bodies(4, 28, {"weights": "none", "outputs": ["pooled"]})
    seconds = requests / rate
    load = asyncio.create_task(
        open_loop(Target.parse(replicated.address), itertools.islice(bodies, requests), poisson(rate, 2 * seconds), tally.note)
    )
    started = asyncio.get_running_loop().time()
    with told(seconds) as tell:
        for replica, how in itertools.cycle(disturbances(replicated)):
            if load.done():
                break
            await asyncio.to_thread(replicated.replace, replica, how)
            disturbed += 1
            tell(asyncio.get_running_loop().time() - started, tally)
    await load
    return tally, disturbed


def disturbances(replicated: Cluster) -> list[tuple[Server, signal.Signals]]:
    """One is killed, then all are restarted one by one."""
    return [(replicated.replicas[0], signal.SIGKILL), *((replica, signal.SIGTERM) for replica in replicated.replicas)]
