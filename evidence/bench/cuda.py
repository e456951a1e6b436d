"""Times blocks of PyTorch on a GPU, and writes a section of docs/PERFORMANCE.md: ``DEVICE=cuda make bench``.

It takes less than eight minutes and needs PyTorch with Triton; timm, torchvision and matplotlib are used if they are
installed. Each answer is compared with the oracle's before it is timed.
"""

import argparse
import importlib.metadata
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import se_numpy
import se_torch
from se_conformance.files import write_atomically
from se_spec import SESpec

from . import cuda_report
from .memory import measure_peak_on_gpu
from .torch_blocks import BLOCKS, LAYOUTS

RESULTS = Path(__file__).parent / "results" / "cuda.json"
SHAPES = (
    (32, 2048, 7, 7),
    (32, 1024, 14, 14),
    (32, 512, 28, 28),
    (32, 256, 56, 56),
    (256, 512, 28, 28),
    (256, 256, 56, 56),
)
"""Samples, channels, height and width."""
COMPILED = SHAPES[2], SHAPES[5]
"""Shapes for which blocks are compiled."""
DTYPES = "float32", "bfloat16", "float16"
MAX_ERROR = {"float32": 1e-3, "bfloat16": 4e-2, "float16": 4e-2}
"""The largest error relative to the largest value; no wrong block is timed, but peers may use TF32."""
ROUNDS, CALLS = 15, 50
"""Calls of each block with a cold L2 cache, and calls in a row for the host's time."""
CACHE_BYTES = 1 << 28
"""Bytes that are written between calls, more than a GPU's L2 cache."""
HEAD_START_CYCLES = 2_000_000
"""Clock cycles, about a millisecond, that the device waits before a timed call, so that it never waits for the host."""
COMPILING_SECONDS = 200.0
"""Time after which nothing more is compiled."""
NETWORKS = {"ResNet-50": "seresnet50", "EfficientNet-B0": "efficientnet_b0"}
IMAGES = 64


class Case(NamedTuple):
    """One line of a table."""

    shape: tuple[int, ...]
    dtype: str
    layout: str
    training: bool


class Timing(NamedTuple):
    """Microseconds of a call: on the device with a cold cache (median), and by the clock in a row of calls."""

    device: float
    host: float


def cases(shapes: tuple[tuple[int, ...], ...] = SHAPES, dtypes: tuple[str, ...] = DTYPES) -> list[Case]:
    """List the cases; float16 only forward, as it is trained like bfloat16."""
    return [
        Case(shape, dtype, layout, training)
        for shape in shapes
        for dtype in dtypes
        for layout in LAYOUTS
        for training in (False, True)[: 1 + (dtype != "float16")]
    ]


def measure_blocks(todo: list[Case], device: str, compiled: tuple[tuple[int, ...], ...] = COMPILED) -> Iterator[Any]:
    """Verify and time every block on every case; yield what is measured, and memory of a step."""
    compiling = 0.0
    for case in todo:
        x, dy = _draw(case, device)
        blocks, missing = _make_blocks(case, device)
        for name in list(blocks) if case.shape in compiled and case.dtype != "float16" else ():
            begun = time.perf_counter()
            if compiling < COMPILING_SECONDS:
                torch.compiler.reset()
                blocks[f"{name} compiled"] = torch.compile(blocks[name], fullgraph=True, dynamic=False)
                _step(blocks[f"{name} compiled"], x, dy, case.training)()
                compiling += time.perf_counter() - begun
            else:
                missing.append(f"{name} compiled")
        calls = {name: _step(block, x, dy, case.training) for name, block in blocks.items()}
        _verify(case, x, dy, calls, blocks["ours"])
        calls["copy"] = partial(torch.empty_like(x).copy_, x.detach())
        times = time_calls(calls, device)
        memory = {
            name: measure_peak_on_gpu(call) / x.nbytes
            for name, call in calls.items()
            if case.training and device == "cuda"
        }
        line = {**case._asdict(), "times": times, "memory": memory, "missing": missing}
        print(*case, {name: round(timing.device) for name, timing in times.items()}, file=sys.stderr, flush=True)
        yield line


def time_calls(calls: dict[str, Callable[[], Any]], device: str, rounds: int = ROUNDS) -> dict[str, Timing]:
    """Time calls in turns, in shuffled rounds."""
    on_gpu = device == "cuda"
    cache = torch.empty(CACHE_BYTES if on_gpu else 1, dtype=torch.int8, device=device)
    measured: dict[str, list[float]] = {name: [] for name in calls}
    turns, order = random.Random(0), list(calls)
    for name in order:
        for _ in range(3):
            calls[name]()
    for _ in range(rounds):
        turns.shuffle(order)
        for name in order:
            cache.zero_()
            measured[name].append(_time_on_gpu(calls[name]) if on_gpu else _time_by_clock(calls[name], 1))
    host = {name: _time_by_clock(call, CALLS if on_gpu else 1) for name, call in calls.items()}
    return {name: Timing(statistics.median(each), host[name]) for name, each in measured.items()}


def _time_on_gpu(call: Callable[[], Any]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(HEAD_START_CYCLES)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return 1000.0 * begin.elapsed_time(end)


def _time_by_clock(call: Callable[[], Any], count: int) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(count):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e6 * (time.perf_counter() - begun) / count


def _draw(case: Case, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    options = {"generator": generator, "device": device, "dtype": getattr(torch, case.dtype)}
    x, dy = (torch.randn(case.shape, **options).to(memory_format=LAYOUTS[case.layout]) for _ in range(2))
    return x.requires_grad_(case.training), dy


def _make_blocks(case: Case, device: str) -> tuple[dict[str, Any], list[str]]:
    """Make the blocks that are installed, with equal weights; name those that are not."""
    blocks: dict[str, Any] = {}
    missing = []
    values = se_numpy.initialize(SESpec(case.shape[1]), seed=0)
    for name, make in BLOCKS.items():
        try:
            block = make(case.shape[1])
        except ImportError:
            missing.append(name)
            continue
        weights = [value for value in block.parameters() if value.ndim > 1]
        with torch.no_grad():
            for weight, value in zip(weights, values.values(), strict=True):
                weight.copy_(torch.from_numpy(value).reshape(weight.shape))
        block = block.to(device, getattr(torch, case.dtype))
        blocks[name] = block.to(memory_format=LAYOUTS[case.layout])
    return blocks, missing


def _step(block: Any, x: Tensor, dy: Tensor, training: bool) -> Callable[[], tuple[Tensor, ...]]:
    leaves = [x, *block.parameters()]

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (block(x),)

    def step() -> tuple[Tensor, ...]:
        y = block(x)
        return y, *torch.autograd.grad(y, leaves, dy)

    return step if training else forward


def _verify(case: Case, x: Tensor, dy: Tensor, calls: dict[str, Any], block: se_torch.SqueezeExcitation) -> None:
    """Compare y and dx of two samples with the oracle's.

    Raises:
        AssertionError: an answer is wrong; the message holds its error.
    """
    some_x, some_dy = (value[:2].detach().double().cpu().numpy() for value in (x, dy))
    parameters = {name: value.detach().double().cpu().numpy() for name, value in block.state_dict().items()}
    options: dict[str, Any] = {"data_format": "channels_first"}
    want = [se_numpy.squeeze_excitation(some_x, block.spec, parameters, **options)]
    if case.training:
        want.append(se_numpy.vjp(some_x, some_dy, block.spec, parameters, **options)[0])
    for name, call in calls.items():
        for what, right, got in zip(("y", "dx"), want, call(), strict=False):
            off = np.abs(got[:2].detach().double().cpu().numpy() - right).max() / np.abs(right).max()
            if not off < MAX_ERROR[case.dtype]:
                raise AssertionError(f"{name}, {case}: {what} is {off:.1e} off")


def measure_networks(device: str, images: int = IMAGES, size: int = 224) -> dict[str, Any]:
    """Time timm's networks with its SE blocks, with ours in their place, and with none; empty if timm is missing."""
    try:
        import timm
    except ImportError:
        return {}
    found: dict[str, Any] = {}
    for title, name in NETWORKS.items():
        for training in (False, True):
            options = {"memory_format": torch.channels_last}
            models = {
                way: _replace_blocks(timm.create_model(name), way).to(device, torch.bfloat16, **options).train(training)
                for way in ("none", "timm", "ours")
            }
            x = torch.randn(images, 3, size, size, device=device, dtype=torch.bfloat16).to(**options)
            calls = {way: _run_network(model, x, training) for way, model in models.items()}
            times = time_calls(calls, device, rounds=7)
            found[f"{title}, {'training' if training else 'inference'}"] = times
            print(title, training, {way: round(timing.device) for way, timing in times.items()}, file=sys.stderr)
    return found


def _replace_blocks(model: nn.Module, way: str) -> nn.Module:
    """Put identities or our blocks, which have the same weights, in the place of timm's SE blocks.

    Raises:
        AssertionError: a module that resembles a block is left.
    """
    if way == "ours":
        left = se_torch.replace(model).left
        assert not left, f"left: {left}"
    elif way == "none":
        for path in se_torch.find_blocks(model):
            model.set_submodule(path, nn.Identity())
    return model


def _run_network(model: nn.Module, x: Tensor, training: bool) -> Callable[[], Any]:
    def call() -> None:
        with nullcontext() if training else torch.no_grad():
            logits = model(x)
        if training:
            logits.float().square().mean().backward()
            model.zero_grad(set_to_none=True)

    return call


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="DEVICE=cuda python -m evidence.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--report", action="store_true", help="write the section from the existing numbers")
    if not parser.parse_args().report:
        properties = torch.cuda.get_device_properties(0)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        results = {
            "device": f"{properties.name}, {memory}; {_versions()}; {time.strftime('%Y-%m-%d')}",
            "lines": list(measure_blocks(cases(), "cuda")),
            "networks": measure_networks("cuda"),
        }
        with write_atomically(RESULTS) as temporary:
            temporary.write_text(json.dumps(results).replace('{"shape"', '\n{"shape"') + "\n")
    cuda_report.write_section(json.loads(RESULTS.read_text()))


def _versions() -> str:
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "not installed"
    return f"PyTorch {torch.__version__}, Triton {triton}"
