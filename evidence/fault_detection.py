"""Injects each fault of the catalogue and counts how many the judge detects and names.

``python -m evidence.fault_detection`` injects them into two blocks, with ``--all`` into thirteen.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from se_conformance.cases import DTYPES
from se_conformance.comparison import FLOAT32_INTERMEDIATES
from se_conformance.faults import CATALOGUE
from se_conformance.faults.fault import Fault
from se_conformance.guard import Guard
from se_conformance.judge import TrialRunner, check, trials_with_references
from se_conformance.verdict import Verdict
from se_spec import HardSigmoid, LeakyReLU, SESpec

SPECS = (
    SESpec(16, hidden=4, bias=True),
    SESpec(12, hidden=12, bias=True, activation="hard_swish", gate="hard_sigmoid"),
    SESpec(24, hidden=6, activation="silu", squeeze="avg_max", gain=2.0, residual=True),
    SESpec(10, single_projection=True, bias=True, gate="hard_sigmoid"),
    SESpec(16, hidden=5, bias=True, squeeze="max", activation="gelu", gate="tanh"),
    SESpec(640, hidden=40),
    SESpec(20, hidden=32, activation=LeakyReLU(slope=0.15), gate=HardSigmoid(slope=0.2, offset=0.5)),
    SESpec(16, hidden=8, activation="relu6", gate="relu", bias=True),
    SESpec(16, hidden=8, activation="tanh", gate="identity"),
    SESpec(16, hidden=8, activation="sigmoid", bias=True),
    SESpec(16, hidden=8, activation="gelu_tanh", bias=True),
    SESpec(8, hidden=3, activation="identity"),
    SESpec(4, hidden=1),
)
"""Blocks on which every fault is detectable; most are on the first two."""
GUARDED = {"output buffer shared by all calls"}
"""Faults that only the guard of the calls detects, whose checks take time."""


@dataclass(frozen=True)
class FaultTrial:
    """One fault injected into one block, and the verdict on it."""

    fault: Fault
    verdict: Verdict

    @property
    def detected(self) -> bool:
        """Whether the block failed."""
        return not self.verdict.passed

    @property
    def place(self) -> int:
        """The position of the fault among the causes, from 1; 0 if it is not among them."""
        causes = self.verdict.causes
        return causes.index(self.fault.name) + 1 if self.fault.name in causes else 0


def try_faults(specs: Iterable[SESpec], dtype: str) -> Iterator[FaultTrial]:
    """Inject every fault, in each of its forms, into every block on which it is detectable in ``dtype``."""
    for spec, fault in iterate_detectable_faults(specs, dtype):
        yield FaultTrial(fault, judge_fault(fault, spec, dtype))


def iterate_detectable_faults(specs: Iterable[SESpec], dtype: str) -> Iterator[tuple[SESpec, Fault]]:
    """Yield the blocks and the faults of ``try_faults``."""
    for spec in specs:
        for named in CATALOGUE.values():
            yield from ((spec, fault) for fault in named.variants() if fault.is_detectable(spec, dtype))


def judge_fault(fault: Fault, spec: SESpec, dtype: str) -> Verdict:
    """Judge a block with this fault, whose intermediates are in float32 otherwise."""
    block = fault.block(spec, dtype)
    vjp = block.vjp if fault.stage == "gradient" else None
    return check(block.function(), spec, vjp, dtype=dtype, ranks=(fault.rank,), intermediates="float32")


def is_undetected(fault: Fault, spec: SESpec, dtype: str) -> bool:
    """Whether no trial detects the fault; trials end with the first that does."""
    block = fault.block(spec, dtype)
    vjp = block.vjp if fault.stage == "gradient" else None
    guard = Guard() if fault.name in GUARDED else None
    runner = TrialRunner(block.function(), vjp, None, spec, dtype, "channels_last", guard)
    cases = trials_with_references(spec, dtype, fault.rank, 0, FLOAT32_INTERMEDIATES, vjp is not None)
    return all(result.passed for trial, expected in cases for result in runner.run(trial, expected, fault.rank))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; exit status 0 if all are found, 95 % named first and all among the first three, else 1.

    It is 2 if nothing was judged.
    """
    parser = argparse.ArgumentParser(
        "python -m evidence.fault_detection", description="count the known mistakes that the judge finds"
    )
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="may be repeated (float32)")
    parser.add_argument("--all", action="store_true", help="on many blocks instead of a few")
    options = parser.parse_args(arguments)
    missed = done = first = third = 0
    for dtype in options.dtype or ["float32"]:
        for found in try_faults(SPECS if options.all else SPECS[:2], dtype):
            done += 1
            missed += not found.detected
            first += found.place == 1
            third += 1 <= found.place <= 3
            if found.place != 1:
                word = (
                    "not found"
                    if not found.detected
                    else f"named as {', '.join(found.verdict.causes[:3]) or 'nothing'}"
                )
                print(f"{found.fault.name}, {found.verdict.spec}, {dtype}: {word}")
    print(f"{done - missed} of {done} found, {first} named first, {third} among the first three")
    if not done:
        return 2
    return int(bool(missed) or first < 0.95 * done or third < done)


if __name__ == "__main__":
    sys.exit(main())
