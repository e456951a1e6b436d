"""Blocks and networks of every framework on the device, against the oracle: float32 is float32 (SPEC N-4), not TF32."""

from concurrent.futures import Future

import numpy as np
import pytest

import se_numpy
from se_conformance import Case, Result
from se_conformance.cases import covering_array
from se_parity.implementations import IMPLEMENTATIONS, Worker, device, dtype_of

from ..conftest import COMPILED_FULLY, Cells, requested_targets
from ..se_parity.test_match import JITTED, compiled_cases, judged, report
from ..small_networks import SMALL, difference, images, weights_of

pytestmark = pytest.mark.xdist_group("answers")
TOLERANCES = {"float64": 1e-12, "float32": 2e-5}
"""Of networks; TF32 has 10 bits, and would be off by 1e-4 or more."""
NETWORK_TARGETS = [target for target in requested_targets() if target.name not in ("torch compiled", "onnxruntime")]


def framework(targets: list) -> pytest.MarkDecorator:
    marked = [pytest.param(target.name, marks=pytest.mark.framework(target.family)) for target in targets]
    return pytest.mark.parametrize("name", marked)


def worker_of(workers, name: str) -> Worker:
    return workers(name, **COMPILED_FULLY)


Plan = dict[str, list[tuple[Case, "Future[Result]"]]]


@pytest.fixture(scope="module")
def answers(workers) -> Plan:
    """All answers, computed in every framework's process at once.

    What usually runs under ``jax.jit`` is asked op by op for most cases: it compiles each operation once. What PyTorch
    computes on a GPU by kernels, which Triton compiles for each case, is asked by ``test_kernels``.
    """
    plan: Plan = {}
    for target in requested_targets():
        name, op_by_op = target.name, {"mode": "eager"} if target.name in JITTED else {}
        asked = [(case, {}) for case in compiled_cases(name, few=False)] if target.costly or op_by_op else []
        if not target.costly:
            asked += [(case, op_by_op) for case in covering_array() if not _has_kernel(target.family, case)]
        plan[name] = [
            (
                case,
                worker_of(workers, name).submit(case.spec, case.inputs(), gradients=target.gradients, **options),
            )
            for case, options in asked
        ]
    return plan


def _has_kernel(family: str, case: Case) -> bool:
    return (family, device(), case.spec.squeeze) == ("torch", "cuda", "avg") and case.dtype != "float64"


@pytest.mark.slow
@framework(requested_targets())
def test_block_matches_the_oracle_on_the_device(name: str, answers: Plan, cells: Cells) -> None:
    faults = [fault for case, future in answers[name] for fault in judged(name, case, future, cells)]
    assert not faults, report(faults)


@framework(requested_targets())
def test_block_ran_on_the_device(name: str, workers) -> None:
    said = worker_of(workers, name).versions()
    asked = device() if device() in IMPLEMENTATIONS[name].devices else "cpu"
    assert said.endswith(("(cuda)", "(gpu)") if asked == "cuda" else "(cpu)"), said


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCES)
@framework(NETWORK_TARGETS)
def test_network_matches_the_oracle_on_the_device(name: str, dtype: str, workers) -> None:
    nets = list(SMALL.values())[:3]
    worker = worker_of(workers, name)
    asked = []
    for net in nets:
        parameters = {key: value.astype(dtype) for key, value in weights_of(net).items()}
        x = np.moveaxis(images(net, 33, 41), 1, -1).astype(dtype)
        asked.append((net, parameters, x, worker.logits(net, parameters, x)))
    for net, parameters, x, future in asked:
        exact = {key: value.astype("float64") for key, value in parameters.items()}
        assert dtype_of(exact) == "float64"
        want = se_numpy.senet(x.astype("float64"), net, exact, data_format="channels_last")
        assert difference(future.result().values, want) < TOLERANCES[dtype]


@pytest.mark.gpu
@framework([target for target in requested_targets() if target.module in ("flax", "keras")])
def test_process_takes_no_more_of_the_gpu_than_it_needs(name: str, workers) -> None:
    worker = worker_of(workers, name)
    case = Case(covering_array()[0].spec)
    worker.submit(case.spec, case.inputs()).result()
    free, total = workers("torch", **COMPILED_FULLY).call(free_and_total)
    assert free > 0.5 * total, f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB are free beside {name}"


def free_and_total() -> tuple[int, int]:
    """Bytes of the GPU, asked in PyTorch's process."""
    import torch

    return torch.cuda.mem_get_info()
