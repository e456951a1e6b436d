"""Two files of one network, run: does the port answer as its source does?"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import se_numpy
from se_spec import LayoutError, NetworkSpec, SESpec

from .api import known, loaded
from .sources import Source, opened

if TYPE_CHECKING:
    from se_parity.implementations import Worker

RUNS = {"se_keras": "keras tensorflow", "se_flax": "nnx", "se_flax.linen": "linen"}
"""The implementation of ``se_conformance`` that runs a layout; all others run in PyTorch."""
ALLOWANCE = 2.0


@dataclass(frozen=True)
class Verification:
    """How far the target's logits are from the source's.

    Args:
        different: parameters that are not the same to the bit.
        implementation: what ran the target, in float32.
        error: of that, against the source's parameters in the float64 oracle; root mean square over the logits, in
            terms of theirs.
        floor: the same implementation's error with the source's own parameters, so rounding alone.
    """

    different: tuple[str, ...]
    implementation: str
    error: float
    floor: float

    @property
    def passed(self) -> bool:
        """Whether the error is rounding."""
        return self.error <= ALLOWANCE * self.floor

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
    source: Source,
    target: Source,
    spec: NetworkSpec | str | None = None,
    source_layout: str = "auto",
    target_layout: str = "auto",
    seed: int = 0,
) -> Verification:
    """Run both through their implementations, on seeded images.

    Raises:
        FileFormatError, LayoutError: as ``load``; or the files hold a block, which ``se_conformance.check`` judges.
    """
    from se_parity.implementations import IMPLEMENTATIONS, Worker

    theirs, ours = opened(source), opened(target)
    net = known(theirs, spec, source_layout)
    if isinstance(net, SESpec):
        raise LayoutError("the files hold a block; se_conformance.check judges a block on any input")
    before, after = loaded(theirs, net, source_layout), loaded(ours, net, target_layout)
    values, ported = dict(before.parameters), dict(after.parameters)
    different = tuple(name for name, value in values.items() if value.tobytes() != ported[name].tobytes())
    size = min(net.input_size, 64)
    x = np.random.default_rng(seed).normal(0.3, 1.0, (2, size, size, net.channels)).astype(np.float32)
    want = se_numpy.senet(x, net, values, data_format="channels_last")
    one = IMPLEMENTATIONS[RUNS.get(after.layout, "torch")]
    if one.missing:
        raise LayoutError(
            f"running {after.layout} needs {', '.join(one.missing)}; install it, or compare the parameters"
        )
    worker = Worker(one)
    error, floor = (_error(worker, net, given, x, want) for given in (ported, values))
    worker.close()
    return Verification(different, one.name, error, floor)


def _error(worker: "Worker", net: NetworkSpec, values: dict[str, np.ndarray], x: np.ndarray, want: np.ndarray) -> float:
    single = {name: value.astype(np.float32) for name, value in values.items()}
    got = worker.logits(net, single, x, mode="eager").result().values
    return float(np.sqrt(((got - want) ** 2).mean() / (want**2).mean()))
