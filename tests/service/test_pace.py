"""How many cores a batch has: the faster way, found out at little cost, and found out anew when it changes."""

import itertools
import random
from collections import Counter
from collections.abc import Callable

from service.batching.pace import LAST_TRIAL, Pace

TOKENS = 20


def run(pace: Pace, seconds: Callable[[bool], float], times: int, tokens: int = TOKENS) -> list[bool]:
    """The ways that batches went, each of which took so long."""
    ways = []
    for _ in range(times):
        ways.append(pace.choose("lane", tokens))
        pace.learn("lane", tokens, ways[-1], seconds(ways[-1]))
    return ways


def quiet(is_wide: bool) -> float:
    return 0.011 if is_wide else 0.016


def beside_a_neighbour(is_wide: bool) -> float:
    return 0.5 if is_wide else 0.03


def test_both_ways_are_tried_first() -> None:
    assert run(Pace(), quiet, 2) == [False, True]


def test_faster_way_is_taken() -> None:
    assert Counter(run(Pace(), quiet, 1000)[2:])[True] > 960
    assert Counter(run(Pace(), beside_a_neighbour, 1000)[2:])[False] > 980


def test_batches_that_were_held_up_for_a_moment_dont_choose() -> None:
    """One in twenty takes ten times as long, as if another program had a core meanwhile."""
    draw = random.Random(0)
    ways = run(Pace(), lambda is_wide: quiet(is_wide) * (10 if is_wide and draw.random() < 0.05 else 1), 2000)
    assert Counter(ways)[True] > 1800


def test_neighbour_is_noticed_at_once_and_tried_ever_less_often() -> None:
    pace = Pace()
    run(pace, quiet, 100)
    first = run(pace, beside_a_neighbour, 10_000)
    assert first.index(False) <= 3
    tries = [index for index, is_wide in enumerate(first) if is_wide]
    assert len(tries) < 40
    assert max(later - earlier for earlier, later in itertools.pairwise(tries)) <= LAST_TRIAL


def test_neighbour_that_leaves_is_noticed_too() -> None:
    pace = Pace()
    run(pace, beside_a_neighbour, 10_000)
    assert run(pace, quiet, 2 * LAST_TRIAL)[-20:] == [True] * 20


def test_sizes_and_models_are_told_apart() -> None:
    pace = Pace()
    run(pace, beside_a_neighbour, 100)
    assert run(pace, quiet, 2, tokens=500) == [False, True]
    assert pace.choose("another model", TOKENS) is False
    assert pace.choose("lane", TOKENS) is False
