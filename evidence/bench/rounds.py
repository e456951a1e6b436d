"""Callables timed in turns, in shuffled rounds, by processor time and by the clock."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

VISIT = 0.02
"""Seconds that a callable is timed for when its turn comes, at least one call."""
ROUNDS = (5, 31)
"""As many as fit into the time allowed, but not fewer or more than these."""


class Timing(NamedTuple):
    """Microseconds per call, one for each round."""

    processor: list[int]
    wall: list[int]

    @property
    def median(self) -> float:
        """Of processor time, which another process makes less longer than the clock's."""
        return statistics.median(self.processor)


def side_by_side(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Timing]:
    """Time what is short, in as many rounds as fit, each turn after one call that is not timed."""
    takes = {name: _takes(run) for name, run in runs.items()}
    calls = {name: max(1, int(VISIT / taken)) for name, taken in takes.items()}
    whole = sum((calls[name] + 1) * taken for name, taken in takes.items())
    return in_turns(runs, min(max(ROUNDS[0], int(seconds / whole)), ROUNDS[1]), calls, before=1)


def in_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int, calls: Mapping[str, int], before: int
) -> dict[str, Timing]:
    """Time so many calls of each in every round, after those before that are not timed, in an order drawn anew."""
    timings = {name: Timing([], []) for name in runs}
    turns, order = random.Random(0), list(runs)
    for _ in range(rounds):
        turns.shuffle(order)
        for name in order:
            run = runs[name]
            for _ in range(before):
                run()
            wall, own = time.perf_counter(), time.process_time()
            for _ in range(calls[name]):
                run()
            own, wall = time.process_time() - own, time.perf_counter() - wall
            timings[name].processor.append(round(1e6 * own / calls[name]))
            timings[name].wall.append(round(1e6 * wall / calls[name]))
    return timings


def _takes(run: Callable[[], object]) -> float:
    run()
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def ratio(one: Timing, other: Timing) -> float:
    """The median over the rounds of how much longer one took than the other in the same round."""
    return statistics.median(a / b for a, b in zip(one.processor, other.processor, strict=True))
