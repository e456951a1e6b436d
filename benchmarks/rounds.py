"""Callables timed in turns, in shuffled rounds, by processor time and by the clock."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

VISIT = 0.02
"""Seconds that a callable is timed for when its turn comes, at least one call."""


class Timing(NamedTuple):
    """Seconds per call, one for each round."""

    processor: list[float]
    wall: list[float]

    @property
    def median(self) -> float:
        """Of processor time, which another process does not make longer."""
        return statistics.median(self.processor)


def side_by_side(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Time each in every round, in an order drawn anew, after one call that is not timed."""
    calls = {name: _calls(run) for name, run in runs.items()}
    timings = {name: Timing([], []) for name in runs}
    turns, order = random.Random(0), list(runs)
    for _ in range(rounds):
        turns.shuffle(order)
        for name in order:
            run = runs[name]
            run()
            wall, own = time.perf_counter(), time.process_time()
            for _ in range(calls[name]):
                run()
            timings[name].processor.append((time.process_time() - own) / calls[name])
            timings[name].wall.append((time.perf_counter() - wall) / calls[name])
    return timings


def _calls(run: Callable[[], object]) -> int:
    run()
    begun = time.perf_counter()
    run()
    return max(1, int(VISIT / (time.perf_counter() - begun)))


def ratio(one: Timing, other: Timing) -> float:
    """The median over the rounds of how much longer one took than the other in the same round."""
    return statistics.median(a / b for a, b in zip(one.processor, other.processor, strict=True))
