"""The goals: our time over the fastest peer's in the same run, and the reasons where a goal is missed."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from . import added_by_se
from .blocks import SHAPES, Task
from .rounds import Timing, compute_ratio

SMALL, SEVEN = (SHAPES[0],), SHAPES[1:3]
REST = SHAPES[3:]
F32, F32_TRAINING, BF16, BF16_TRAINING = (
    (dtype, training) for dtype in ("float32", "bfloat16") for training in (False, True)
)
FIRST, LAST = "NCHW", "channels_last"
Results = dict[str, Any]
"""The results that ``python -m evidence.bench`` writes."""


class Line(NamedTuple):
    """The time of one of our blocks on one task, with the times of its peers.

    Args:
        home: the process that measured it.
        who: the block.
        how: its layout or compiler.
        task: the task.
        time: its time.
        peers: the times of the peers with the same ``how``.
        floor: the memory floor in microseconds; None where it was not measured.
    """

    home: str
    who: str
    how: str
    task: Task
    time: Timing
    peers: dict[str, Timing]
    floor: float | None

    @property
    def best(self) -> str:
        """The fastest peer."""
        return min(self.peers, key=lambda name: self.peers[name].median)

    @property
    def fastest(self) -> float:
        """The time of the fastest peer in microseconds."""
        return self.peers[self.best].median

    @property
    def ratio(self) -> float:
        """Our time over the fastest peer's."""
        return self.over(self.best)

    @property
    def is_twin(self) -> bool:
        """Whether it is a traced layer, which computes the same as a traced model of that layer."""
        return self.who == "ours layer" and self.how != "eager"

    def over(self, peer: str) -> float:
        """Our time over a peer's."""
        return compute_ratio(self.time, self.peers[peer])


def iterate_lines(home: str, tasks: list[dict[str, Any]]) -> Iterator[Line]:
    """Yield a line for each of our blocks, in order."""
    for entry in tasks:
        task = Task(tuple(entry["shape"]), entry["dtype"], entry["training"])
        times: dict[str, dict[str, Timing]] = {}
        for name, measured in entry["times"].items():
            who, how = name.rsplit(", ", 1)
            times.setdefault(how, {})[who] = Timing(**measured)
        floor = sum(timing.median for timing in times.pop("floor").values()) if "floor" in times else None
        for how, timings in times.items():
            peers = {who: timing for who, timing in timings.items() if not who.startswith("ours")}
            for who in timings:
                if who not in peers:
                    yield Line(home, who, how, task, timings[who], peers, floor)


class Goal(NamedTuple):
    """A line of the table.

    Args:
        what: the goal in words.
        limit: the ratio to reach.
        measured: ``(results) -> ratios``, by what was measured.
        limited_by: what was tried and what limits it, if the goal is missed.
    """

    what: str
    limit: float
    measured: Callable[[Results], dict[str, float]]
    limited_by: str = ""


def make_ratio_function(
    home: str,
    kind: tuple[str, bool],
    shapes: tuple[tuple[int, ...], ...],
    how: str | None = None,
    who: str | None = None,
    peer: str | None = None,
) -> Callable[[Results], dict[str, float]]:
    """Make a function that computes the ratios to the best peer, or to ``peer``."""

    def measure(results: Results) -> dict[str, float]:
        return {
            _format_label(line.task, line.who.removeprefix("ours").strip(), line.how if how is None else ""): (
                line.ratio if peer is None else line.over(peer)
            )
            for line in iterate_lines(home, results["homes"][home]["tasks"])
            if line.task in [Task(shape, *kind) for shape in shapes]
            and how in (None, line.how)
            and who in (None, line.who)
        }

    return measure


def make_floor_ratio_function(shapes: tuple[tuple[int, ...], ...]) -> Callable[[Results], dict[str, float]]:
    """Make a function that computes the ratios of PyTorch's forward pass to the memory floor."""

    def measure(results: Results) -> dict[str, float]:
        return {
            _format_label(line.task): line.time.median / line.floor
            for line in iterate_lines("torch", results["homes"]["torch"]["tasks"])
            if line.task in [Task(shape) for shape in shapes]
            and (line.who, line.how) == ("ours", "NCHW")
            and line.floor
        }

    return measure


def read_peaks(results: Results) -> dict[str, float]:
    """Read the memory that a training step in PyTorch adds, in sizes of x; y is 1, dx is 1."""
    return {how: results["peaks"]["torch"]["float32"][f"ours, {how}"] for how in (FIRST, LAST)}


def compute_se_overhead(results: Results) -> dict[str, float]:
    """Compute the time of SE-ResNet-50 over ResNet-50's for one image."""
    return {
        way: compute_ratio(Timing(**times["with"]), Timing(**times["without"]))
        for way, times in results["networks"].items()
        if way in added_by_se.WAYS
    }


def _format_label(task: Task, *more: str) -> str:
    return " ".join(["x".join(map(str, task.shape)), *filter(None, more)])


PYTHON = (
    "A quarter to a half of the time is memory access. The check of x, the parameters, and the rules for dtypes, "
    "autocast and transformations are about as much Python as the tutorials' six calls of modules, and make hooks and "
    "parametrizations work."
)
SAME = (
    "The block runs the same operations in the same order as the tutorials' block. The addresses of arrays change a "
    "ratio by 0.05 to 0.1, and the fastest of three equal blocks is by chance some hundredths faster."
)
GATE = "The gate's two matrix products take a seventh of the time, in the fastest peer as well."
ROWS = (
    "The products of dy and x are summed in rows of 49 numbers, which takes a quarter of the time in NCHW. With batch "
    "normalization's kernel the step would take 2 to 11 % less, which is not more than runs differ. The channels_last "
    "step is computed in chunks and in place, and takes a quarter less than with addcmul."
)
CALLS = "A quarter of the time is memory access, and the rest is calls, of which the peers have as many."
HALF = (
    "Below half a million elements the hand-written gradients take longer than autograd's, which widen x (SPEC N-1); "
    "the peers round each product to bfloat16. Larger maps need two passes over dy and one over x, and no array in "
    "float32; chunks, addcmul, bmm and vecdot are slower."
)
TRACED = "The block compiles the same operations with the same compiler."
HEAP = "The memory is y, dx, the buffer of one chunk, and smaller arrays that malloc keeps."
KERAS = (
    "A call of a Keras model or layer takes the time of ten operations; our block has one layer, and no operation that "
    "it could omit."
)
JITTED = (
    "The block compiles the same operations with the same compiler; at the smallest shape NNX's state, which is "
    "flattened at each call, takes the time."
)
READS = "The block only reads x twice and writes y; the plain block also writes a float32 copy of x."
NETWORK = (
    "SE adds sixteen means and products over maps that convolutions have left in the cache, and, op by op, their calls."
)
EAGER = partial(make_ratio_function, "torch", who="ours")
GOALS = (
    Goal("torch float32 forward, small", 0.85, EAGER(F32, SMALL), PYTHON),
    Goal("torch float32 forward, 7x7, channels_last", 0.85, EAGER(F32, SEVEN, LAST), PYTHON),
    Goal("torch float32 forward, 7x7, NCHW", 1.0, EAGER(F32, SEVEN, FIRST), SAME),
    Goal("torch float32 forward, larger, NCHW", 1.0, EAGER(F32, REST, FIRST), SAME),
    Goal("torch float32 forward, larger, channels_last", 1.0, EAGER(F32, REST, LAST), SAME),
    Goal(
        "torch float32 forward over the floor of memory, 50 MB and more",
        1.1,
        make_floor_ratio_function(SHAPES[5:]),
        SAME,
    ),
    Goal("torch float32 forward over the floor of memory, 25 MB", 1.25, make_floor_ratio_function(SHAPES[4:5]), GATE),
    Goal("torch float32 training, NCHW", 0.8, EAGER(F32_TRAINING, SHAPES[1:], FIRST), ROWS),
    Goal("torch float32 training, channels_last", 0.55, EAGER(F32_TRAINING, SHAPES[1:], LAST), ROWS),
    Goal("torch float32 training, memory of a step in sizes of x, including y and dx", 2.05, read_peaks, HEAP),
    Goal("torch bfloat16 forward", 0.6, EAGER(BF16, SHAPES), CALLS),
    Goal("torch bfloat16 training, 56x56", 0.75, EAGER(BF16_TRAINING, SMALL + SHAPES[6:], peer="tutorial"), HALF),
    Goal("torch bfloat16 training, others", 0.6, EAGER(BF16_TRAINING, SHAPES[1:6], peer="tutorial"), HALF),
    Goal("torch compiled, float32 forward", 1.0, make_ratio_function("torch compiled", F32, SHAPES), TRACED),
    Goal("torch compiled, float32 training", 1.0, make_ratio_function("torch compiled", F32_TRAINING, SHAPES), TRACED),
    Goal(
        "Keras eager, small, the layer",
        0.5,
        make_ratio_function("keras tensorflow", F32, SMALL, "eager", "ours layer"),
        KERAS,
    ),
    Goal(
        "Keras eager, small, as a model",
        0.5,
        make_ratio_function("keras tensorflow", F32, SMALL, "eager", "ours"),
        KERAS,
    ),
    Goal("Keras eager, others", 1.0, make_ratio_function("keras tensorflow", F32, SHAPES[1:], "eager"), KERAS),
    Goal("Keras tf.function", 1.0, make_ratio_function("keras tensorflow", F32, SHAPES, "tf.function"), TRACED),
    Goal("Keras XLA", 1.0, make_ratio_function("keras tensorflow", F32, SHAPES, "XLA"), TRACED),
    Goal("Keras on JAX", 1.0, make_ratio_function("keras jax", F32, SHAPES), TRACED),
    Goal("Keras on PyTorch, eager", 1.0, make_ratio_function("keras torch", F32, SHAPES, "eager"), KERAS),
    Goal("Flax float32 forward", 1.0, make_ratio_function("flax", F32, SHAPES, "jax.jit", peer="plain"), JITTED),
    Goal(
        "Flax float32 training", 1.0, make_ratio_function("flax", F32_TRAINING, SHAPES, "jax.jit", peer="plain"), JITTED
    ),
    Goal(
        "Flax bfloat16 forward, 8 MB and more",
        0.55,
        make_ratio_function("flax", BF16, REST, "jax.jit", peer="plain"),
        READS,
    ),
    Goal("onnxruntime, over the tutorials' block", 1.0, make_ratio_function("onnxruntime", F32, SHAPES), TRACED),
    Goal(
        "NumPy oracle, over a textbook block in float64",
        2.0,
        make_ratio_function("numpy", ("float64", False), SHAPES),
        PYTHON,
    ),
    Goal("what SE adds to ResNet-50, one image", 1.018, compute_se_overhead, NETWORK),
)
