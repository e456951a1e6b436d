"""Other people's networks, for the tests of what is found in a file: names and shapes, and the blocks they really have.

Networks of PyTorch are built without memory for their weights; a block of one is made real when it has to answer.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from se_conformance import peers

ACTIVATIONS = {"ReLU": "relu", "SiLU": "silu", "Hardswish": "hard_swish", "GELU": "gelu"}
GATES = {"Sigmoid": "sigmoid", "Hardsigmoid": "hard_sigmoid"}

CLASSES = {
    "timm": (
        "timm.layers.squeeze_excite.SEModule",
        "timm.layers.squeeze_excite.EffectiveSEModule",
        "timm.layers.squeeze_excite.SqueezeExciteCl",
        "timm.models._efficientnet_blocks.SqueezeExcite",
        "timm.models.senet.SEModule",
        "timm.models.hgnet.EseModule",
    ),
    "torchvision": ("torchvision.ops.SqueezeExcitation",),
}


class Block(NamedTuple):
    """What a module of PyTorch is, read off itself."""

    channels: int
    hidden: int | None
    bias: bool
    activation: str
    gate: str
    norm: bool


class Net(NamedTuple):
    """A network's names and shapes, and its SE modules by their path."""

    shapes: dict[str, tuple[int, ...]]
    modules: dict[str, Any]


def of_package(package: str, path: str) -> Any:
    """An object of a package that may need its operators declared before it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what their imports warn of is theirs
        return peers._get(path)


@cache
def network(package: str, name: str, device: str = "meta") -> Net:
    """A network of timm or torchvision, by its name there."""
    import torch

    builder = {"timm": "timm.create_model", "torchvision": "torchvision.models.get_model"}[package]
    make = of_package(package, builder)
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")
        net = make(name)
    classes = tuple(of_package(package, path) for path in CLASSES[package])
    modules = {path: module for path, module in net.named_modules() if isinstance(module, classes)}
    return Net({at: tuple(value.shape) for at, value in net.state_dict().items()}, modules)


def described(module: Any) -> Block:
    """A module's widths, biases, activation and gate, whatever its class."""
    projections = [child for child in module.children() if type(child).__name__ in ("Conv2d", "Linear")]
    kinds = [type(child).__name__ for child in module.children()]
    gates = [GATES[kind] for kind in kinds if kind in GATES]
    activations = [ACTIVATIONS[kind] for kind in kinds if kind in ACTIVATIONS]
    assert len(gates) == 1 and len(activations) == len(projections) - 1
    return Block(
        projections[-1].weight.shape[0],
        projections[0].weight.shape[0] if len(projections) == 2 else None,
        projections[0].bias is not None,
        activations[0] if activations else "identity",
        gates[0],
        "BatchNorm2d" in kinds,
    )


def real(module: Any, seed: int) -> Any:
    """The module in float64, with random numbers for all that it has, in evaluation mode."""
    import torch

    random = np.random.default_rng(seed)
    made = copy.deepcopy(module).to_empty(device="cpu").to(torch.float64).eval()
    for name, value in made.state_dict().items():
        if value.is_floating_point():
            drawn = (
                random.uniform(0.5, 2.0, value.shape) if name.endswith("running_var") else spread(random, value.shape)
            )
            value.copy_(torch.from_numpy(drawn))
    return made


def spread(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers whose sums over an axis are of size 2, so that gates close and open."""
    return np.asarray(random.normal(0.0, 2.0 / np.sqrt(max(shape[1:], default=1)), shape))


def state(module: Any, path: str) -> dict[str, np.ndarray]:
    """The module's parameters, named as in a network where it stands at the path."""
    return {f"{path}.{name}": value.numpy() for name, value in module.state_dict().items()}


def feature_map(channels: int, seed: int) -> np.ndarray:
    """Three samples of their own means, channels last; nowhere near 0, for a gate is read off by division."""
    random = np.random.default_rng(seed)
    x = random.choice([-1.0, 1.0], (3, 1, 1, channels)) * random.uniform(0.5, 2.0, (3, 4, 3, channels))
    return np.asarray(x)


def gate_of(run: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """The gate (N, C) of a block that scales a map, both channels last; the same everywhere in space."""
    ratio = run(x) / x
    assert np.allclose(ratio, ratio[:, :1, :1], rtol=1e-14, atol=0.0)
    return np.asarray(ratio[:, 0, 0])


def gate_of_torch(module: Any, x: np.ndarray, channels_last: bool = False) -> np.ndarray:
    """The gate of a module of PyTorch."""
    import torch

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            if channels_last:
                return np.asarray(module(torch.from_numpy(x)).numpy())
            y = module(torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1))))
        return np.moveaxis(y.numpy(), 1, -1)

    return gate_of(run, x)


def kinds(net: Net) -> Iterator[tuple[str, Any, Block]]:
    """One module of each kind: its class, activation, gate, norm and biases."""
    seen = set()
    for path, module in net.modules.items():
        block = described(module)
        kind = (type(module), *block[2:])
        if kind not in seen:
            seen.add(kind)
            yield path, module, block


def names_of_keras(model: Any) -> dict[str, np.ndarray]:
    """``layer/kernel`` and the like, without memory for the values."""
    return {weight.path: np.broadcast_to(np.float32(0), tuple(weight.shape)) for weight in model.weights}
