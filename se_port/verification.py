"""Verification of a port: both files of a network are run, and their logits compared."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import se_numpy
from se_spec import LayoutError, NetworkSpec, SESpec
from se_spec.texts import shorten

from .canonical import load_canonical
from .sources import SourceLike, open_source

if TYPE_CHECKING:
    from se_parity.implementations import Implementation, Worker

RUNS = {
    "se_keras": ("keras tensorflow", "keras jax", "keras torch"),
    "se_flax": ("nnx",),
    "se_flax.linen": ("linen",),
}
"""The implementations of ``se_parity`` that run a layout, of which the first that is installed does; all other layouts
run in PyTorch."""
EXTRAS = {"keras tensorflow": "keras-tf", "nnx": "flax", "linen": "flax", "torch": "torch"}
"""The extra that has what an implementation needs."""
MAX_ERROR_RATIO = 2.0
"""The largest ratio of error to floor that still is rounding."""
MAX_INPUT_SIZE = 64
"""Pixels of an image's side; larger networks are run on smaller images."""


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Args:
        different: parameters that are not the same to the bit.
        implementation: the implementation that ran the target, in float32.
        error: root mean square difference of its logits from those of the float64 oracle with the source's parameters,
            relative to the logits' root mean square.
        floor: the same implementation's error with the source's own parameters, which is rounding alone.

    Example:
        >>> Verification((), "torch", error=2e-7, floor=2e-7).passed
        True
    """

    different: tuple[str, ...]
    implementation: str
    error: float
    floor: float

    @property
    def passed(self) -> bool:
        """Whether the error is rounding alone."""
        return self.error <= MAX_ERROR_RATIO * self.floor

    def to_dict(self) -> dict[str, Any]:
        """Return the result as data for JSON."""
        return {
            "passed": self.passed,
            "different": list(self.different),
            "implementation": self.implementation,
            "error": self.error,
            "floor": self.floor,
        }

    def __str__(self) -> str:
        bits = (
            f"{len(self.different)} parameters differ" if self.different else "all parameters are the same to the bit"
        )
        verdict = "rounding alone" if self.passed else "NOT the same network"
        return (
            f"{bits}; {self.implementation} in float32 is {self.error:.1e} from the float64 oracle, "
            f"with the source's own parameters {self.floor:.1e}: {verdict}"
        )


def verify(
    source: SourceLike,
    target: SourceLike,
    spec: NetworkSpec | str | None = None,
    source_layout: str = "auto",
    target_layout: str = "auto",
    seed: int = 0,
) -> Verification:
    """Run both files of a network on seeded images and compare.

    Args:
        source: a path, or a mapping such as a ``state_dict``.
        target: a path, or a mapping such as a ``state_dict``.
        spec: the network or its name; None recognises it in the source.
        source_layout: the layout of the source's names; ``"auto"`` recognises it.
        target_layout: the layout of the target's names; ``"auto"`` recognises it.
        seed: the seed of the images, at least 0.

    Returns:
        The parameters that differ and the errors of the logits; ``print`` shows it as text.

    Raises:
        FileFormatError, LayoutError: as ``load``; LayoutError also if the files hold a block, which
            ``se_conformance.check`` judges.

    >>> import se_numpy
    >>> from se_spec import network
    >>> net = network("se_resnet20")
    >>> same = dict(se_numpy.initialize(net, seed=0))
    >>> verify(same, same, net).passed
    True
    """
    from se_parity.implementations import Worker

    if target_layout != "auto":  # else it is known when the target has been opened, and nothing has been run
        _choose_implementation(target_layout)
    before = load_canonical(open_source(source), spec, source_layout)
    net = before.spec
    if isinstance(net, SESpec):
        raise LayoutError("the files hold a block; se_conformance.check judges a block on any input")
    after = load_canonical(open_source(target), net, target_layout)
    implementation = _choose_implementation(after.layout)
    values, ported = dict(before.parameters), dict(after.parameters)
    different = tuple(name for name, value in values.items() if value.tobytes() != ported[name].tobytes())
    size = min(net.input_size, MAX_INPUT_SIZE)
    x = np.random.default_rng(seed).normal(0.3, 1.0, (2, size, size, net.channels)).astype(np.float32)
    expected = se_numpy.senet(x, net, values, data_format="channels_last")
    worker = Worker(implementation)
    error, floor = (_measure_error(worker, net, given, x, expected) for given in (ported, values))
    worker.close()
    return Verification(different, implementation.name, error, floor)


def _choose_implementation(layout: str) -> "Implementation":
    """Choose what runs a layout.

    Raises:
        LayoutError: it is not installed; the message names the extra that has it.
    """
    from se_parity.implementations import IMPLEMENTATIONS

    candidates = [IMPLEMENTATIONS[name] for name in RUNS.get(layout, ("torch",))]
    chosen = next((candidate for candidate in candidates if not candidate.missing), None)
    if chosen is None:
        first = candidates[0]
        raise LayoutError(
            f"running {shorten(layout)} needs {' and '.join(first.missing)}, not installed; "
            f"pip install 'se-suite[{EXTRAS[first.name]}]', or compare the parameters that load gives of both files"
        )
    return chosen


def _measure_error(
    worker: "Worker", net: NetworkSpec, values: dict[str, np.ndarray], x: np.ndarray, expected: np.ndarray
) -> float:
    single = {name: value.astype(np.float32) for name, value in values.items()}
    logits = worker.logits(net, single, x, mode="eager").result().values
    return float(np.sqrt(((logits - expected) ** 2).mean() / (expected**2).mean()))
