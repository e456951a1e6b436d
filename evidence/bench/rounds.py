"""Times callables in turns, in shuffled rounds, by processor time and by the clock."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

TURN_SECONDS = 0.02
"""How long a callable is timed in its turn; at least one call."""
ROUNDS = (5, 31)
"""The least and the largest number of rounds."""


class Timing(NamedTuple):
    """Microseconds per call, one for each round."""

    processor: list[int]
    wall: list[int]

    @property
    def median(self) -> float:
        """The median processor time, which other processes disturb less than the clock's."""
        return statistics.median(self.processor)


def time_side_by_side(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Timing]:
    """Time callables in as many rounds as fit into ``seconds``; one call before each turn is not timed."""
    takes = {name: _time_once(run) for name, run in runs.items()}
    calls = {name: max(1, int(TURN_SECONDS / taken)) for name, taken in takes.items()}
    whole = sum((calls[name] + 1) * taken for name, taken in takes.items())
    return time_in_turns(runs, min(max(ROUNDS[0], int(seconds / whole)), ROUNDS[1]), calls, before=1)


def time_in_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int, calls: Mapping[str, int], before: int
) -> dict[str, Timing]:
    """Time ``calls`` calls of each callable in every round, after ``before`` untimed ones, in shuffled order."""
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


def _time_once(run: Callable[[], object]) -> float:
    run()
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def compute_ratio(ours: Timing, other: Timing) -> float:
    """Compute the median over the rounds of the ratio of two times."""
    return statistics.median(a / b for a, b in zip(ours.processor, other.processor, strict=True))
