"""SE blocks on two processes: DDP, FSDP2, and tensor parallelism over reduce and expand, each equal to one process.

Run it as ``python examples/distributed_torch.py``; it starts its two processes itself, on the CPU. Each way trains the
same small model in float64 for ten steps, and outputs, gradients and parameters are compared with one process's.
"""

import os
import sys
import tempfile
import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import se_torch

PROCESSES = 2
STEPS = 10


def new_model() -> nn.Module:
    """Make a convolution, an SE block and a classifier, with the same weights on every process."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        se_torch.SqueezeExcitation(16, reduction=4, bias=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).double()


def replicate(model: nn.Module) -> nn.Module:
    """Apply DDP: every process has the whole model and a part of the batch."""
    return DistributedDataParallel(model)


def shard_per_block(model: nn.Module) -> nn.Module:
    """Apply FSDP2 per block: all parameters of the block are gathered for each call."""
    mesh = init_device_mesh("cpu", (PROCESSES,))
    fully_shard(model[1], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def shard_per_layer(model: nn.Module) -> nn.Module:
    """Apply FSDP2 per layer: each of the block's two linear layers is gathered when it is called."""
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for layer in (model[1].reduce, model[1].expand, model):
        fully_shard(layer, mesh=mesh)
    return model


def split_projections(model: nn.Module) -> nn.Module:
    """Apply tensor parallelism: every process has a part of the hidden values, and the whole batch."""
    plan = {"reduce": ColwiseParallel(), "expand": RowwiseParallel()}
    parallelize_module(model[1], init_device_mesh("cpu", (PROCESSES,)), plan)
    return model


WAYS = {replicate: True, shard_per_block: True, shard_per_layer: True, split_projections: False}
"""Maps each function to whether it splits the batch."""


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Draw images (8, 3, 9, 7) and classes (8,), the same on every process."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(8, 3, 9, 7, dtype=torch.float64, generator=generator)
    return images, torch.randint(5, (8,), generator=generator)


def train(model: nn.Module, part: slice) -> dict[str, Tensor]:
    """Train for ten steps; return the last logits, the first gradients and the final parameters, gathered."""
    optimizer, found = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), {}
    for step in range(STEPS):
        images, classes = batch(step)
        logits = model(images[part])
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, classes[part]).backward()
        if step == 0:
            found = {f"d {name}": gather(value.grad) for name, value in model.named_parameters()}
        optimizer.step()
    found |= {name: gather(value) for name, value in model.named_parameters()}
    return {"logits": logits.detach(), **{name.replace("module.", ""): value for name, value in found.items()}}


def gather(value: Tensor) -> Tensor:
    """Gather a sharded tensor."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def run(rank: int, rendezvous: str) -> None:
    """Compare every way with one process; process 0 prints the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=PROCESSES)
    want = train(new_model(), slice(None))
    for way, splits_batch in WAYS.items():
        part = slice(4 * rank, 4 * rank + 4) if splits_batch else slice(None)
        model = way(new_model())
        block = (model.module if way is replicate else model)[1]
        got = train(model, part)
        errors = {"logits": largest_error(got["logits"], want["logits"][part])}
        for kind in ("gradients", "parameters"):
            names = [name for name in want if name != "logits" and name.startswith("d ") == (kind == "gradients")]
            errors[kind] = max(largest_error(got[name], want[name]) for name in names)
        assert max(errors.values()) < 1e-12, (way.__name__, errors)

        # Canonical parameters are set and read; sharded parameters stay sharded.
        values = se_torch.get_parameters(block)
        se_torch.set_parameters(block, {name: value + 1 for name, value in values.items()})
        kinds = [type(value) for value in block.parameters()]
        assert all((kind is not nn.Parameter) == (way is not replicate) for kind in kinds), kinds[0]
        for name, value in se_torch.get_parameters(block).items():
            assert (value == values[name] + 1).all(), name
        if rank == 0:
            print(f"{way.__name__:18}", *(f"{kind} {error:.0e}" for kind, error in errors.items()), sep="  ")
    dist.destroy_process_group()


def largest_error(got: Tensor, want: Tensor) -> float:
    """Compute the largest difference, relative to the largest value."""
    return float((got - want).abs().max() / want.abs().max())


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run(int(sys.argv[1]), sys.argv[2])
    else:
        with tempfile.TemporaryDirectory() as folder:
            meeting_point = os.path.join(folder, "rendezvous")
            torch.multiprocessing.spawn(run, (meeting_point,), PROCESSES)
