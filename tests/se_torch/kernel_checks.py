"""What the checks of the kernels do, in PyTorch's own process: on a GPU, or on a processor by Triton's interpreter.

They raise AssertionError with what came.
"""

import contextlib
import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import ml_dtypes
import numpy as np
import torch

import se_numpy
import se_torch
from se_conformance import Case, Result, compare, reference
from se_conformance.cases import round_to
from se_parity.implementations import device
from se_parity.implementations import torch as target
from se_spec import SESpec
from se_torch.fast import gpu, when

SPEC = SESpec(12, hidden=5, bias=True)
SMALL_TILES = {
    "LOADS": 128,
    "MIN_TILE_ELEMENTS": 256,
    "ROW_POSITIONS": (32, 16),
    "COLUMN_POSITIONS": 32,
    "WEIGHT_ELEMENTS": 64,
    "SUM_ELEMENTS": 8,
    "SUM_COLUMNS": 4,
    "GRADIENT_TILE": (2, 4, 4),
}
"""Constants with which a map of a few hundred elements is many tiles."""
USUAL_TILES = {name: getattr(gpu, name) for name in SMALL_TILES}
MISTAKES = {
    "a tile that is not written": (
        "result.to(y.dtype.element_ty), mask=is_inside",
        "result.to(y.dtype.element_ty), mask=is_inside & (c >= BC)[:, None]",
    ),
    "a tile that is not summed": (
        "mean = tl.sum(values, 1) / P",
        "mean = tl.where(c >= BC, tl.sum(values, 1) / P, 0.0)",
    ),
    "a gradient tile that is not written": (
        "dx.dtype.element_ty), mask=is_inside",
        "dx.dtype.element_ty), mask=is_inside & (c >= BC)[:, None]",
    ),
    "no wait for the sums": ('scope="gpu") < arrivals:', 'scope="gpu") < 0 * arrivals:'),
    "a part that is left out": ("for start in range(0, count, BT):", "for start in range(0, count - 1, BT):"),
}
"""Mistakes: what stands in the kernels, and what stands there instead."""


def use_kernels(small: bool = True) -> None:
    """Have the kernels used on this process's device, by default with small tiles."""
    when.KERNEL_DEVICES.add(device())
    for name, value in (SMALL_TILES if small else USUAL_TILES).items():
        setattr(gpu, name, value)
    gpu._plans.clear()
    assert gpu.is_usable(torch.device(device(), 0) if device() == "cuda" else torch.device("cpu"))
    if device() == "cpu":
        round_in_the_interpreter()


def round_in_the_interpreter() -> None:
    """Have Triton's interpreter round float32 to bfloat16, as a GPU does; it cuts."""
    interpreter = importlib.import_module("triton.runtime.interpreter")
    convert = interpreter._convert_float

    def rounded(values, source, result, mode):
        if (str(source), str(result)) != ("fp32", "bf16"):
            return convert(values, source, result, mode)
        return values.view(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)

    interpreter._convert_float = rounded


@contextlib.contextmanager
def counted_launches() -> Iterator[list[gpu.Plan]]:
    """Lists the plans that are launched."""
    plans: list[gpu.Plan] = []
    launch = gpu._launch

    def counted(plan: gpu.Plan, *arguments: object) -> bool:
        plans.append(plan)
        return launch(plan, *arguments)

    with mock.patch.object(gpu, "_launch", counted):
        yield plans


class Subject:
    """A block and its tensors, made from a case."""

    def __init__(
        self, spec: SESpec = SPEC, layout: str = "contiguous", stored: str | None = None, **case: object
    ) -> None:
        self.case = Case(spec, **case)
        self.inputs = self.case.inputs()
        if stored is not None:
            parameters = {name: round_to(value, stored) for name, value in self.inputs.parameters.items()}
            self.inputs = self.inputs._replace(parameters=parameters)
        self.block = target.block_of(spec, self.inputs.parameters, getattr(torch, stored or self.case.dtype))
        self.x, self.dy = (target.to_tensor(value, layout) for value in self.inputs[:2])

    def derive(self, call: Callable | None = None, dy: torch.Tensor | None = None) -> list[torch.Tensor]:
        """y, dx and the parameters' gradients."""
        x = self.x.detach().requires_grad_()
        y = self.block(x) if call is None else call(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *self.block.parameters()], self.dy if dy is None else dy)]

    def judge(self, arrays: list[torch.Tensor], dtype: str | None = None) -> None:
        """Compare with the oracle, to its bounds."""
        y, dx, *others = arrays
        names = self.block.state_dict()
        gradients = {name: _numpy(value) for name, value in zip(names, others, strict=True)}
        against = reference(self.inputs, self.case.spec, dtype or self.case.dtype, gradients=True)
        got = Result(np.moveaxis(_numpy(y), 1, -1), against.want.g, np.moveaxis(_numpy(dx), 1, -1), gradients)
        faults = [str(one) for one in compare(got, against) if not one.passed]
        assert not faults, f"{self.case}: {faults}"

    @property
    def way(self) -> when.Way | None:
        """The way that is chosen for the block."""
        return when.choose_way(self.x, self.case.spec, self.block._collect_weights(self.x))


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()


def assert_same_bits(one: list[torch.Tensor], other: list[torch.Tensor], what: str) -> None:
    """Each tensor equal to the other, NaN to NaN."""
    for index, (a, b) in enumerate(zip(one, other, strict=True)):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)), f"{what}: array {index} differs"


def check_case(spec: SESpec, layout: str = "contiguous", stored: str | None = None, **case: object) -> None:
    """A case is computed by the kernels, in one launch each way, and right."""
    subject = Subject(spec, layout, stored, **case)
    assert subject.way is when.Way.KERNELS, f"{subject.case}: {subject.way}"
    with counted_launches() as plans:
        arrays = subject.derive()
    assert len(plans) == 2 * (len(subject.x) > 0), f"{subject.case}: {len(plans)} launches"
    assert arrays[0].stride() == subject.x.stride() and arrays[1].stride() == subject.x.stride()
    subject.judge(arrays)


def check_parameters_of_another_type(dtype: str, stored: str) -> None:
    """Parameters may have another type than x, and their gradients have it; x, y and dx have x's (N-1)."""
    subject = Subject(dtype=dtype, stored=stored)
    assert subject.way is when.Way.KERNELS
    y, dx, *others = subject.derive()
    assert {y.dtype, dx.dtype} == {subject.x.dtype} and {value.dtype for value in others} == {getattr(torch, stored)}
    subject.judge([y, dx, *others], stored if stored == "bfloat16" else None)


def check_narrow(spec: SESpec, **case: object) -> None:
    """The formula without a float32 copy is right, with gradients and without; float16 has it only without."""
    subject = Subject(spec, **case)
    arrays = subject.derive()
    subject.judge(arrays)
    assert (subject.way is when.Way.NARROW) == (subject.case.dtype == "bfloat16")
    with torch.no_grad():
        assert subject.way is when.Way.NARROW
        subject.judge([subject.block(subject.x), *arrays[1:]])


def check_way(spec: SESpec, expected: str | None, **case: object) -> None:
    """The rule chooses this way."""
    way = Subject(spec, **case).way
    assert (way and way.value) == expected, f"{spec}: {way}"


def check_two_runs(layout: str, dtype: str) -> None:
    """Two runs give the same bits, counters are zero after each, and another map's remains are not used."""
    subject = Subject(layout=layout, dtype=dtype, spatial=(5, 13))
    kept, made = subject.derive(), []
    zeros = gpu._zeros

    def watched(*arguments: object) -> torch.Tensor:
        made.append(zeros(*arguments))
        return made[-1]

    with mock.patch.object(gpu, "_zeros", watched), filled_with_nan():
        for _ in range(20 if device() == "cuda" else 2):
            assert_same_bits(subject.derive(), kept, f"{layout} {dtype}")
    assert made and not any(counters.any() for counters in made), "a counter was not reset"


@contextlib.contextmanager
def filled_with_nan() -> Iterator[None]:
    """New arrays are full of NaN, so that a number that nobody has written is seen."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def check_items() -> None:
    """Every tile is reduced once and scaled once, and waits only for items of lower tickets."""
    kernels, kinds = _probe(), {"reduce": 0, "scale": 1, "gradient": 2}
    for samples, tiles, gradients in ((1, 1, 0), (1, 3, 1), (5, 1, 2), (4, 3, 0), (3, 4, 5)):
        for lag in {1, min(2, samples), samples}:
            count = 2 * samples * tiles + gradients
            found = torch.zeros(3, count, dtype=torch.int32, device=device())
            kernels.list_items[(count,)](found, count, samples, tiles, lag)
            items = [tuple(item) for item in found.T.tolist()]
            for kind in ("reduce", "scale"):
                taken = [item[1:] for item in items if item[0] == kinds[kind]]
                assert sorted(taken) == [(n, t) for n in range(samples) for t in range(tiles)], (
                    samples,
                    tiles,
                    lag,
                    kind,
                )
            assert [item[2] for item in items if item[0] == 2] == list(range(gradients))
            for place, (kind, sample, _) in enumerate(items):
                first = [item for item in items[:place] if item[0] == kinds["reduce"]]
                if kind == kinds["scale"]:
                    assert sum(item[1] == sample for item in first) == tiles, "a tile waits for a later ticket"
                if kind == kinds["gradient"]:
                    assert len(first) == samples * tiles


def _probe():
    """The kernels, with one that writes down what ``find_item`` returns."""
    probe = (
        "\n\n@triton.jit\ndef list_items(found, count, samples, tiles, lag):\n"
        "    place = tl.program_id(0)\n    kind, sample, tile = find_item(place, samples, tiles, lag)\n"
        "    tl.store(found + place, kind)\n    tl.store(found + count + place, sample)\n"
        "    tl.store(found + 2 * count + place, tile)\n"
    )
    return import_kernels(_source() + probe)


def _source() -> str:
    return Path(gpu.kernels().__file__).read_text()


def import_kernels(source: str):
    """Import changed kernels; Triton reads their source, so they stand in a file."""
    with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as file:
        file.write(source)
    spec = importlib.util.spec_from_file_location("changed_kernels", file.name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_mistake(name: str, layout: str) -> None:
    """Kernels with a mistake give a wrong answer on the maps of these checks, and right ones do not."""
    before, after = MISTAKES[name]
    source = _source()
    assert before in source, f"{name}: the kernels have changed"
    subject = Subject(layout=layout, spatial=(5, 13))
    if name == "no wait for the sums" and device() == "cpu":  # programs run one after the other there
        source = source.replace("TILES, LAG)\n", "TILES, 0)\n")
    with filled_with_nan():
        subject.judge(subject.derive())
        changed = import_kernels(source.replace(before, after))
        gpu._plans.clear()
        with mock.patch.object(gpu, "kernels", return_value=changed):
            wrong = [subject.derive() for _ in range(20 if device() == "cuda" else 1)]
        gpu._plans.clear()
        gpu._counters.clear()
    for arrays in wrong:
        try:
            subject.judge(arrays)
        except AssertionError:
            return
    raise AssertionError(f"{name} is not found")


def check_offsets_of_64_bits() -> None:
    """The code for samples of 2^31 elements and more gives the same bits on small ones."""
    for layout in ("contiguous", "channels_last"):
        subject = Subject(layout=layout, spatial=(5, 13))
        want = subject.derive()
        gpu._plans.clear()
        with mock.patch.object(gpu, "MAX_ELEMENTS_NARROW", 0):
            assert_same_bits(subject.derive(), want, layout)
        gpu._plans.clear()


def check_storage(dtype: str) -> None:
    """Maps that do not start at a multiple of 16 bytes, and dy in other layouts, change no bit."""
    subject = Subject(dtype=dtype, spatial=(4, 8))
    want = subject.derive()
    moved = torch.empty(subject.x.numel() + 1, dtype=subject.x.dtype, device=device())[1:].view_as(subject.x)
    x, subject.x = subject.x, moved.copy_(subject.x)
    assert subject.x.data_ptr() % 16
    assert_same_bits(subject.derive(), want, "an x that is not aligned")
    subject.x = x
    assert_same_bits(
        subject.derive(dy=subject.dy.contiguous(memory_format=torch.channels_last)), want, "channels-last dy"
    )
    expanded = torch.ones((), dtype=x.dtype, device=device()).expand_as(x)
    assert_same_bits(subject.derive(dy=expanded), subject.derive(dy=expanded.contiguous()), "an expanded dy")


def check_gradients_of_some() -> None:
    """What is frozen has no gradient, and the others' do not change."""
    subject = Subject()
    full = subject.derive()
    for frozen in ((), ("reduce.weight", "expand.bias"), tuple(subject.block.state_dict())):
        for value, name in zip(subject.block.parameters(), subject.block.state_dict(), strict=True):
            value.requires_grad_(name not in frozen)
        x = subject.x.detach().requires_grad_()
        leaves = [x, *(value for value in subject.block.parameters() if value.requires_grad)]
        want = [full[1], *(g for g, v in zip(full[2:], subject.block.parameters(), strict=True) if v.requires_grad)]
        assert_same_bits(torch.autograd.grad(subject.block(x), leaves, subject.dy), want, str(frozen))


def check_transformations() -> None:
    """Double backward, forward mode, vmap, ``torch.func`` and export use the formula; autocast changes nothing."""
    subject = Subject(SPEC.replace(activation="silu"))
    block, x, dy = subject.block, subject.x, subject.dy
    y, dx, *_ = want = subject.derive()
    close = {"rtol": 1e-5, "atol": 1e-5}
    with torch.autocast(device(), torch.bfloat16):
        assert_same_bits(subject.derive(), want, "autocast")
    torch.testing.assert_close(torch.func.vmap(block)(x[None])[0], y, **close)
    torch.testing.assert_close(torch.func.grad(lambda x: (block(x) * dy).sum())(x), dx, **close)
    _, tangent = torch.func.jvp(block, (x,), (dy,))
    with torch.autograd.forward_ad.dual_level():
        dual = block(torch.autograd.forward_ad.make_dual(x, dy))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, tangent, **close)
    given = x.detach().requires_grad_()
    (first,) = torch.autograd.grad(block(given), given, dy, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), given)
    when.KERNEL_DEVICES.clear()
    try:
        (first,) = torch.autograd.grad(block(given), given, dy, create_graph=True)
        torch.testing.assert_close(torch.autograd.grad(first.square().sum(), given)[0], second, **close)
    finally:
        when.KERNEL_DEVICES.update(("cuda", device()))
    for strict in (False, True):
        exported = torch.export.export(block, (x,), strict=strict)
        assert "se_torch" not in str(exported.graph), f"strict={strict}"
        torch.testing.assert_close(exported.module()(x), y, **close)


def check_compiled(dtype: str, layout: str, dynamic: bool) -> None:
    """``torch.compile`` calls the operators, without a graph break; results are the eager ones, to the bit."""
    subject = Subject(layout=layout, dtype=dtype)
    torch.compiler.reset()
    backend = "inductor" if device() == "cuda" else "aot_eager"
    compiled = torch.compile(subject.block, fullgraph=True, backend=backend, dynamic=dynamic)
    with counted_launches() as plans:
        got = subject.derive(compiled)
    assert len(plans) == 2
    assert_same_bits(got, subject.derive(), "compiled")
    other = Subject(layout=layout, dtype=dtype, samples=2, spatial=(9, 4))
    other.block.load_state_dict(subject.block.state_dict())
    with torch.no_grad():
        assert_same_bits([compiled(other.x)], [other.block(other.x)], "compiled, another size")


def check_operators() -> None:
    """The operators pass PyTorch's own checks of schema, fake tensors, autograd and dynamic shapes, and need Triton."""
    subject = Subject()
    x, weights = (
        subject.x.requires_grad_(),
        [value.detach().requires_grad_() for value in subject.block._collect_weights(subject.x)],
    )
    arguments = (x, *weights, "relu", 0.0, "sigmoid", [0.0] * 4, 1.0, False)
    results = torch.library.opcheck(torch.ops.se_torch.forward.default, arguments)
    assert set(results.values()) == {"SUCCESS"}, results
    with mock.patch.object(gpu, "_is_usable", return_value=False):
        torch.compiler.reset()
        with counted_launches() as plans:
            subject.judge(subject.derive(torch.compile(subject.block, fullgraph=True, backend="aot_eager")))
        assert not plans
    torch.compiler.reset()


def check_in_place() -> None:
    """y stands where x was, and autograd is told."""
    subject = Subject()
    with torch.no_grad():
        y = subject.block(subject.x)
        subject.block.inplace = True
        x = subject.x.clone()
        version = x._version
        assert subject.block(x).data_ptr() == x.data_ptr()
        assert x._version == version + 1
        assert_same_bits([x], [y], "in place")
    with torch.inference_mode():
        assert_same_bits([subject.block(subject.x.clone())], [y], "in place, inference mode")


def check_fallback() -> None:
    """The formula answers where a kernel cannot be built, forward and backward, and one warning says why."""
    import warnings

    subject = Subject()
    broken = mock.Mock(side_effect=RuntimeError("no compiler"), is_built=False)
    for direction in ("forward", "backward"):
        with warnings.catch_warnings(record=True) as caught, mock.patch.object(gpu, "_failed", False):
            warnings.simplefilter("always")
            with mock.patch.object(gpu, f"_plan_{direction}", return_value=gpu.Plan(broken, 8, 8, 8)):
                gpu._plans.clear()
                with (
                    mock.patch("torch.Tensor.is_cuda", True),
                    mock.patch.object(
                        gpu, "_zeros", lambda count, *_: torch.zeros(count, dtype=torch.int32, device=device())
                    ),
                ):
                    arrays = subject.derive() if device() == "cuda" else _on_pretended_gpu(subject)
        gpu._plans.clear()
        subject.judge(arrays)
        assert sum("no compiler" in str(one.message) for one in caught) == 1, direction


def _on_pretended_gpu(subject: Subject) -> list[torch.Tensor]:
    with mock.patch("torch.cuda.current_device", return_value=None):
        return subject.derive()


def check_nan_and_inf(specs: list[SESpec]) -> None:
    """NaN and inf stand where the oracle has them, and touch no other sample (N-3)."""
    for spec in specs:
        subject = Subject(spec)
        with torch.no_grad():
            clean = subject.block(subject.x)
            for value in (np.nan, np.inf, -np.inf):
                subject.x[1, 4, 2, 3] = subject.inputs.x[1, 2, 3, 4] = value
                y = subject.block(subject.x)
                against = reference(subject.inputs, spec, "float32")
                want = se_numpy.excitation(
                    subject.inputs.x, spec, subject.inputs.parameters, data_format="channels_last"
                )
                got = Result(np.moveaxis(_numpy(y), 1, -1), want)
                faults = [str(one) for one in compare(got, against) if not one.passed]
                assert not faults, f"{spec}, {value}: {faults}"
                assert torch.equal(y[[0, 2]], clean[[0, 2]]), f"{spec}, {value}: another sample changed"


def check_streams() -> None:
    """Launches on many streams at once, more than the GPU holds, end, and each has its own result."""
    subjects = [Subject(layout=layout, seed=seed, spatial=(40, 41)) for seed in range(8) for layout in ("contiguous",)]
    wanted = [subject.derive() for subject in subjects]
    streams = [torch.cuda.Stream() for _ in subjects]
    found: list[list[torch.Tensor]] = [[] for _ in subjects]
    torch.cuda.synchronize()
    for _ in range(20):
        for place, (subject, stream) in enumerate(zip(subjects, streams, strict=True)):
            with torch.cuda.stream(stream):
                found[place] = subject.derive()
    torch.cuda.synchronize()
    for got, want in zip(found, wanted, strict=True):
        assert_same_bits(got, want, "beside other streams")


def check_memory_of_a_step(dtype: str, layout: str) -> None:
    """A step adds y and dx, and little else."""
    kind = getattr(torch, dtype)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x, dy = (torch.randn(8, 256, 56, 56, device="cuda", dtype=kind).to(memory_format=memory_format) for _ in range(2))
    block = se_torch.SqueezeExcitation(256, device="cuda", dtype=kind)
    for _ in range(2):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        y = block(x.detach().requires_grad_())
        y.backward(dy)
        most = (torch.cuda.max_memory_allocated() - before) / x.nbytes
        del y
        block.zero_grad()
    assert most <= 2.05, f"{most:.2f} arrays of x's size"


def check_no_synchronization() -> None:
    """A call without gradients launches one kernel, and the processor waits for nothing."""
    subject = Subject()
    with torch.no_grad(), counted_launches() as plans:
        subject.block(subject.x)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            subject.block(subject.x)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(plans) == 2


CONSTANTS = {
    "BC": 16,
    "BP": 256,
    "BR": 16,
    "VECTOR": 16,
    "BT": 128,
    "BI": 16,
    "BTC": 16,
    "BIC": 128,
    "CHANNELS_LAST": False,
    "WIDE": False,
    "SPLIT": True,
    "SINGLE": False,
    "BIAS": True,
    "ACTIVATION": "silu",
    "SLOPE": 0.0,
    "GAIN": 1.0,
    "RESIDUAL": False,
    "GATE": "sigmoid",
    "G0": 0.0,
    "G1": 0.0,
    "G2": 0.0,
    "G3": 0.0,
}


def check_compiled_for_gpus() -> None:
    """Triton compiles the kernels for GPUs that are not here, without TF32, and with barriers before each arrival."""
    kernels = gpu.kernels()
    for kernel, more in ((kernels.forward, {}), (kernels.backward, {"GN": 16, "GC": 32, "GR": 16})):
        for capability, map_type in ((80, "*bf16"), (90, "*fp32"), (90, "*fp16"), (100, "*bf16")):
            lines = _compile(kernel, CONSTANTS | more, capability, map_type).splitlines()
            assert not any("tf32" in line or "mma" in line for line in lines)
            arrivals = [place for place, line in enumerate(lines) if "acq_rel.add" in line]
            assert len(arrivals) >= 2
            for place in arrivals:
                before = [line for line in lines[:place] if "bar.sync" in line or "st.global" in line]
                assert "bar.sync" in before[-1], f"no barrier between {before[-1]} and {lines[place]}"


def _compile(kernel, constants: dict, capability: int, map_type: str) -> str:
    """Return the kernel's PTX code."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    integers = ("programs", "N", "C", "R", "P", "TILES", "TP", "PT", "LAG")
    types = {"counters": "*i32", **dict.fromkeys(integers, "i32"), **dict.fromkeys(("x", "y", "dx", "dy"), map_type)}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in names}
    source = ASTSource(kernel, signature, constexprs={(names.index(name),): value for name, value in constants.items()})
    options = {"num_warps": gpu.WARPS, "maxnreg": gpu.MAX_REGISTERS, "enable_fp_fusion": True}
    return compile(source, GPUTarget("cuda", capability, 32), options).asm["ptx"]
