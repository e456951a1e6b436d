"""Judges the independent set of wrong and right blocks, and prints what the judge found.

``python -m evidence.independent_blocks`` judges all of them, each framework in a process of its own;
``--framework numpy`` judges those of one framework. The blocks are in ``tests/se_conformance/independent``.
"""

import argparse
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from se_conformance import check

FRAMEWORKS = ("numpy", "torch", "keras", "jax")


class Outcome(NamedTuple):
    """The verdict on one block, beside what the set says of it.

    ``cause`` is the first cause that the judge named, ``same`` are those that it named beside the first because they
    answer the same, and ``nearest`` is the one that it called nearest where it named none. ``expected_cause`` and
    ``expected_stage`` are those of the set, empty where it has none.
    """

    name: str
    framework: str
    is_right: bool
    passed: bool
    cause: str
    nearest: str
    stage: str
    expected_cause: str
    expected_stage: str
    seconds: float
    same: tuple[str, ...] = ()

    @property
    def is_named(self) -> bool:
        """Whether the expected cause is the one that was named, or answers the same as that one."""
        return self.expected_cause in (self.cause, *self.same)

    @property
    def as_expected(self) -> bool:
        """Whether a right block passed or a wrong one failed."""
        return self.passed == self.is_right

    def __str__(self) -> str:
        kind, verdict = "right" if self.is_right else "wrong", "passed" if self.passed else "failed"
        mark = "  " if self.as_expected else "!!"
        line = f"{mark} {kind} {verdict} {self.seconds:5.1f} s  {self.framework}: {self.name}"
        if self.passed:
            return line
        cause = self.cause or (f"none, nearest {self.nearest}" if self.nearest else "none")
        stages = (
            self.stage if self.stage == self.expected_stage else f"{self.stage}, meant {self.expected_stage or '-'}"
        )
        cause += f", or the same {', or '.join(self.same)}" if self.same else ""
        expected = "" if not self.expected_cause or self.is_named else f", expected {self.expected_cause}"
        return f"{line}\n{' ' * 10}cause {cause}{expected}; stage {stages}"


def judge_framework(framework: str, names: tuple[str, ...] = ()) -> list[Outcome]:
    """Judge the blocks of one framework in this process.

    Args:
        framework: one of ``FRAMEWORKS``.
        names: the blocks to judge; all if empty.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    blocks = importlib.import_module("tests.se_conformance.independent").load_blocks(framework)
    return [judge_block(block) for block in blocks if not names or block.name in names]


def judge_block(block: Any, *, diagnose: bool = True) -> Outcome:
    """Judge one block of the set, and name its mistake if ``diagnose``."""
    start = time.perf_counter()
    verdict = check(
        block.function,
        block.spec,
        block.vjp,
        dtype=block.dtype,
        data_format=block.data_format,
        ranks=block.ranks,
        diagnose=diagnose,
    )
    first = next(iter(verdict.causes), "")
    found = verdict.diagnosis
    agrees = found is not None and found.agrees
    return Outcome(
        name=block.name,
        framework=block.framework,
        is_right=block.is_right,
        passed=verdict.passed,
        cause=first if agrees else "",
        nearest="" if agrees else first,
        stage=verdict.stage,
        expected_cause=block.cause or "",
        expected_stage=block.stage,
        seconds=time.perf_counter() - start,
        same=() if found is None else tuple(fault.name for fault in found.same),
    )


def judge_in_processes(frameworks: Iterable[str], names: tuple[str, ...] = ()) -> Iterable[Outcome]:
    """Judge the blocks of each framework in a process of its own, one process after another."""
    for framework in frameworks:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            yield from process.submit(judge_framework, framework, names).result()


def summarize(outcomes: list[Outcome]) -> str:
    """Return the totals as text."""
    wrong = [outcome for outcome in outcomes if not outcome.is_right]
    caught = [outcome for outcome in wrong if not outcome.passed]
    with_name = [outcome for outcome in wrong if outcome.expected_cause]
    named = sum(outcome.is_named for outcome in with_name)
    stages = sum(outcome.stage == outcome.expected_stage for outcome in caught)
    alarms = sum(outcome.is_right and not outcome.passed for outcome in outcomes)
    return (
        f"caught {len(caught)} of {len(wrong)} wrong blocks; named first {named} of {len(with_name)} that have a name; "
        f"stage as meant {stages} of {len(caught)}; false alarms {alarms} of {len(outcomes) - len(wrong)} right blocks"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; exit status 1 if a wrong block passed or a right one failed, 2 if no block was judged."""
    parser = argparse.ArgumentParser(
        "python -m evidence.independent_blocks", description="judge the independent set of wrong and right blocks"
    )
    parser.add_argument("--framework", action="append", choices=FRAMEWORKS, help="may be repeated (all)")
    parser.add_argument("--block", action="append", default=[], help="name of a block; may be repeated (all)")
    options = parser.parse_args(arguments)
    outcomes = []
    for outcome in judge_in_processes(options.framework or FRAMEWORKS, tuple(options.block)):
        print(outcome, flush=True)
        outcomes.append(outcome)
    for title, unexpected in (
        ("wrong blocks that passed", [o.name for o in outcomes if o.passed and not o.is_right]),
        ("right blocks that failed", [o.name for o in outcomes if o.is_right and not o.passed]),
    ):
        print(f"{title}: {'; '.join(unexpected) or 'none'}")
    print(summarize(outcomes))
    return 2 if not outcomes else int(not all(outcome.as_expected for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
