"""What the checks of PyTorch do, each in PyTorch's own process; they raise AssertionError with what came."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

import se_torch
from evidence.bench.memory import measure_peak_on_gpu
from se_parity.implementations import device
from se_spec import InputError, SESpec

SPEC = SESpec(16, reduction=4, bias=True)
SHAPES = {"small": (3, 16, 5, 7), "large": (4, 16, 96, 97), "volume": (2, 16, 3, 5, 4)}
"""The large one has its gradients made by hand where that is faster."""
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


class PlainBlock(nn.Module):
    """The paper's block of two layers, as anybody writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Linear(16, 4), nn.Linear(4, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        g = self.expand(self.reduce(x.mean((2, 3))).relu()).sigmoid()
        return x * g[:, :, None, None]


def make_block(dtype: torch.dtype = torch.float32, **fields: object) -> se_torch.SqueezeExcitation:
    """The same parameters at each call."""
    torch.manual_seed(0)
    return se_torch.SqueezeExcitation(SPEC.replace(**fields)).to(device(), dtype)


def make_map(shape: str, dtype: torch.dtype = torch.float32, layout: str = "contiguous", seed: int = 1) -> torch.Tensor:
    """A standard normal map."""
    x = torch.randn(SHAPES[shape], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    memory_format = LAYOUTS[x.ndim] if layout == "channels_last" else torch.contiguous_format
    return x.to(device(), dtype).contiguous(memory_format=memory_format)


def derive(block: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> list[torch.Tensor]:
    """y, dx and the parameters' gradients."""
    x = x.detach().requires_grad_()
    y = block(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *block.parameters()], dy)]


def assert_same(got: list[torch.Tensor], want: list[torch.Tensor], tolerance: float, what: str) -> None:
    """Each within a share of its largest value; no tolerance asks for the same bits."""
    for index, (a, b) in enumerate(zip(got, want, strict=True)):
        off = (a.double() - b.double()).abs().max() / b.double().abs().max()
        assert a.dtype == b.dtype and off <= tolerance, f"{what}: array {index} is off by {off:.1e} in {a.dtype}"


def check_channels_last(shape: str, dtype: str, squeeze: str) -> None:
    """y and dx lie in memory as x does, and are those of a contiguous x."""
    kind = getattr(torch, dtype)
    block = make_block(kind, squeeze=squeeze)
    dy = make_map(shape, kind, seed=2)
    want = derive(block, make_map(shape, kind), dy)
    x = make_map(shape, kind, "channels_last")
    got = derive(block, x, dy.contiguous(memory_format=LAYOUTS[x.ndim]))
    for name, array in zip(("y", "dx"), got, strict=False):
        assert array.is_contiguous(memory_format=LAYOUTS[x.ndim]), f"{name} has strides {array.stride()}"
    assert_same(
        got, want, {"float64": 1e-13, "float32": 2e-6, "float16": 4e-3, "bfloat16": 3e-2}[dtype], "channels_last"
    )


def check_autocast(dtype: str, stored: str) -> None:
    """Autocast changes no bit of the block, forward or backward (N-4)."""
    block, x = make_block(getattr(torch, stored)), make_map("small", getattr(torch, stored))
    dy = make_map("small", x.dtype, seed=2)
    want = derive(block, x, dy)
    x = x.detach().requires_grad_()
    with torch.autocast(device(), getattr(torch, dtype)):
        y = block(x)
        gate = block.excitation(x)
    assert gate.dtype == torch.float32, f"the gate is {gate.dtype}"
    got = [y.detach(), *torch.autograd.grad(y, [x, *block.parameters()], dy)]
    assert_same(got, want, 0.0, f"under autocast to {dtype}")


def check_training_with_scaler(dtype: str) -> None:
    """A small network under autocast with a GradScaler leaves out no step, and learns as it does in float32."""
    with_autocast, without = (_train(amp) for amp in (getattr(torch, dtype), None))
    assert with_autocast[-1] < 0.5 * with_autocast[0], f"losses {with_autocast}"
    off = abs(with_autocast[-1] - without[-1])
    assert off < 0.05 * without[0], f"the last loss is {with_autocast[-1]}, in float32 {without[-1]}"


def _train(amp: torch.dtype | None) -> list[float]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), make_block(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)
    ).to(device())
    x = torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(3)).to(device())
    target = (x.mean((1, 2, 3)) > 0).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    scaler = torch.amp.GradScaler(device(), init_scale=2.0**12, enabled=amp is not None)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        with torch.autocast(device(), amp or torch.float16, enabled=amp is not None):
            loss = nn.functional.cross_entropy(model(x).float(), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert amp is None or scaler.get_scale() >= 2.0**12, (
        f"the scale fell to {scaler.get_scale()}: a gradient overflowed"
    )
    return losses


def check_mixed_devices() -> None:
    """A map on one device and parameters on another is one error that names both."""
    other = "cpu" if device() == "cuda" else "meta"
    for block_on, x_on in ((device(), other), (other, device())):
        block, x = make_block().to(block_on), make_map("small").to(x_on)
        for call in (block, block.excitation):
            try:
                with torch.no_grad():
                    result = call(x)
            except InputError as error:
                text = str(error)
            else:
                raise AssertionError(f"block on {block_on}, x on {x_on}: no error, and an answer on {result.device}")
            assert block_on in text and x_on in text, f"the error names not both: {text}"


def check_memory(dtype: str, shape: str = "large") -> None:
    """A step of training, and a call without gradients, need no more of the GPU than a plain block's."""
    kind = getattr(torch, dtype)
    x, dy = make_map(shape, kind), make_map(shape, kind, seed=2)
    ours, plain = make_block(kind), PlainBlock().to(device(), kind)
    small = 2**16  # of everything but maps
    for step in (derive, _infer):
        for block in (ours, plain):
            step(block, x, dy)  # what is made once is not counted
        most = {
            block: measure_peak_on_gpu(lambda block=block, step=step: step(block, x, dy)) for block in (ours, plain)
        }
        assert most[ours] <= most[plain] + small, f"{step.__name__}: {most[ours]} bytes, a plain block {most[plain]}"
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        derive(ours, x, dy)
    assert torch.cuda.memory_allocated() == before, "20 steps leave memory behind"


def _infer(block: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> None:
    with torch.no_grad():
        block(x)


def check_inference_graph(shape: str, dtype: str, layout: str) -> None:
    """A captured call answers new maps as an eager one does."""
    kind = getattr(torch, dtype)
    block, x = make_block(kind), make_map(shape, kind, layout)
    with torch.no_grad(), _captured() as graph:
        for _ in graph.warm_up():
            block(x)
        with graph.capture():
            y = block(x)
        for seed in (5, 6):
            x.copy_(make_map(shape, kind, layout, seed))
            graph.replay()
            assert_same([y], [block(x)], 0.0 if kind.itemsize < 4 else 1e-6, "a replayed call")


def check_training_graph(shape: str, dtype: str) -> None:
    """A captured step of training gives the gradients of an eager one, for new maps."""
    kind = getattr(torch, dtype)
    block, x, dy = make_block(kind), make_map(shape, kind), make_map(shape, kind, seed=2)
    with _captured() as graph:
        for _ in graph.warm_up():
            derive(block, x, dy)
        with graph.capture():
            got = derive(block, x, dy)
        for seed in (5, 6):
            x.copy_(make_map(shape, kind, seed=seed))
            graph.replay()
            assert_same(got, derive(block, x, dy), 1e-2 if kind.itemsize < 4 else 1e-5, "a replayed step")


class _Graph:
    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()

    def warm_up(self) -> Iterator[int]:
        """Three calls on a stream of their own, as capturing needs."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            yield from range(3)
        torch.cuda.current_stream().wait_stream(side)

    def capture(self) -> torch.cuda.graph:
        return torch.cuda.graph(self.graph)

    def replay(self) -> None:
        self.graph.replay()
        torch.cuda.synchronize()


@contextmanager
def _captured() -> Iterator[_Graph]:
    torch.cuda.synchronize()
    yield _Graph()
    torch.cuda.synchronize()


def check_streams(dtype: str) -> None:
    """The block, on a stream of its own, waits for what that stream still writes to x, backward too."""
    kind = getattr(torch, dtype)
    block, x, dy = make_block(kind), make_map("large", kind), make_map("large", kind, seed=2)
    later = make_map("large", kind, seed=7)
    want = derive(block, later, dy)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        x.copy_(later)
        got = derive(block, x, dy)
    torch.cuda.current_stream().wait_stream(side)
    assert_same(got, want, 1e-2 if kind.itemsize < 4 else 1e-6, "on a second stream")


def check_compiled_with_graphs() -> None:
    """``torch.compile(mode="reduce-overhead")``, which captures CUDA graphs itself."""
    block = make_block()
    compiled = torch.compile(block, mode="reduce-overhead", fullgraph=True)
    with torch.no_grad():
        for seed in range(4):
            x = make_map("small", seed=seed)
            assert_same([compiled(x)], [block(x)], 1e-6, "compiled with graphs")


def check_pinned_and_moved() -> None:
    """A block is carried to the device and back bit for bit; x may come from pinned memory without waiting."""
    there, here = make_block(), make_block().cpu()
    x = make_map("small").cpu().pin_memory()
    y = there(x.to(device(), non_blocking=True)).cpu()
    assert_same([y.detach()], [here(x).detach()], 1e-6, "moved")
    for a, b in zip(there.cpu().parameters(), here.parameters(), strict=True):
        assert torch.equal(a, b), "a parameter changed on its way"
