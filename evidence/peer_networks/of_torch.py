"""Networks of PyTorch, built without memory for their weights; a block gets weights when it is evaluated."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from se_spec import HardSigmoid, LeakyReLU

from ..peer_blocks import import_object
from .network import Block, Evaluation, Network, compute_gate, draw_feature_map, draw_weights

NONLINEARITIES: dict[str, Any] = {
    "ReLU": "relu",
    "SiLU": "silu",
    "Swish": "silu",
    "SwishMe": "silu",
    "Hardswish": "hard_swish",
    "HSwish": "hard_swish",
    "HardSwishMe": "hard_swish",
    "GELU": "gelu",
    "Sigmoid": "sigmoid",
    "Hardsigmoid": "hard_sigmoid",
    "HSigmoid": "hard_sigmoid",
    "GhostHSigmoid": HardSigmoid(slope=1.0, offset=0.0),
}


def _apply(module: Any, x: Any) -> tuple[Any, Any]:
    return x, module(x)


class Kind(NamedTuple):
    """Rules for reading the block of a class of modules.

    Args:
        parts: the children that are the block, if it is not the whole module.
        run: ``(module, x) -> (x, y)``: the map that is scaled, and the product.
        nonlinearities: the function that returns activation and gate, where they are no modules.
    """

    parts: tuple[str, ...] = ()
    run: Callable[[Any, Any], tuple[Any, Any]] = _apply
    nonlinearities: Callable[[Any], list[str]] | None = None


Kinds = Mapping[str, Kind]
"""Each kind, by the path of its class."""


def build(make: Callable[[], Any]) -> Any:
    """Build a network, without memory for its weights if the constructor allows that."""
    for context in (lambda: import_object("torch.device")("meta"), use_meta_parameters):
        with suppress(RuntimeError), context():  # fails where the constructor reads numbers, or runs the network
            return make()
    return make()


@contextmanager
def use_meta_parameters() -> Iterator[None]:
    """Make parameters alone without memory; other tensors, such as the widths that a RegNet computes, keep theirs."""
    module = import_object("torch.nn.Module")
    register = module.register_parameter

    def register_on_meta(self: Any, name: str, parameter: Any) -> None:
        if parameter is not None and not parameter.is_meta and type(parameter) is import_object("torch.nn.Parameter"):
            parameter = type(parameter)(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(self, name, parameter)

    module.register_parameter = register_on_meta
    try:
        yield
    finally:
        module.register_parameter = register


def read_network(net: Any, kinds: Kinds) -> Network:
    """Read a network's shapes and its SE modules, by their classes; a shared module counts at each of its paths.

    A module with PReLU, whose weights are outside the spec, is no block.
    """
    by_class = {import_object(path): kind for path, kind in kinds.items()}
    modules = {path: module for path, module in net.named_modules(remove_duplicate=False) if type(module) in by_class}
    blocks = [
        read_block(module, path, by_class[type(module)])
        for path, module in modules.items()
        if not any(type(leaf).__name__ == "PReLU" for leaf in module.modules())
    ]
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    return Network(shapes, blocks)


def read_block(module: Any, path: str, kind: Kind) -> Block:
    """Read a module's widths, biases, activation and gate, whatever its class."""
    parts = [module.get_submodule(part) for part in kind.parts] or [module]
    leaves = [leaf for part in parts for leaf in part.modules()]
    projections = [leaf for leaf in leaves if getattr(leaf, "weight", None) is not None and leaf.weight.ndim > 1]
    functions = kind.nonlinearities(module) if kind.nonlinearities else list(filter(None, map(_nonlinearity, leaves)))
    if len(functions) != len(projections) or len(projections) > 2:
        raise ValueError(
            f"{path}, a {type(module).__name__}, is not understood: {functions} for {len(projections)} layers"
        )
    normed = any(type(leaf).__name__ == "BatchNorm2d" for leaf in leaves)
    prefixes = tuple(f"{part}." for part in kind.parts) or ("",)
    names = [name for name in module.state_dict() if name.startswith(prefixes)]
    if normed:
        names = [name for name in names if "bn." not in name]
    return Block(
        path,
        f"{type(module).__module__}.{type(module).__name__}",
        frozenset(f"{path}.{name}" if path else name for name in names),
        projections[-1].weight.shape[0],
        projections[0].weight.shape[0] if len(projections) == 2 else None,
        projections[0].bias is not None,
        functions[0] if len(functions) == 2 else "identity",
        functions[-1],
        normed,
        partial(_evaluate, module, path, kind, projections[0].weight.shape[1], _rank(leaves), normed),
    )


def _nonlinearity(leaf: Any) -> Any:
    if type(leaf).__name__ == "LeakyReLU":
        return LeakyReLU(slope=leaf.negative_slope)
    return NONLINEARITIES.get(type(leaf).__name__)


def _rank(leaves: list[Any]) -> int:
    """Read the number of spatial axes from the name of a layer's class, such as Conv3d; else 2."""
    found = [int(name[-2]) for name in (type(leaf).__name__ for leaf in leaves) if name.endswith(("1d", "2d", "3d"))]
    return found[0] if found else 2


def _evaluate(module: Any, path: str, kind: Kind, channels: int, rank: int, exact: bool, seed: int) -> Evaluation:
    drawn = draw_parameters(module, seed)
    x, gate = compute_module_gate(drawn, draw_feature_map(channels, seed, (4, 3, 2)[:rank]), kind.run)
    if not exact:  # float32 is exact here and halves the memory; a folded norm needs float64
        drawn = drawn.to(import_object("torch.float32"))
    tensors = {f"{path}.{name}" if path else name: value.numpy() for name, value in drawn.state_dict().items()}
    return Evaluation(tensors, x, gate)


def draw_parameters(module: Any, seed: int) -> Any:
    """Copy a module in float64 and evaluation mode, with float32 numbers drawn for all its tensors."""
    random = np.random.default_rng(seed)
    drawn = copy.deepcopy(module).to_empty(device="cpu").to(import_object("torch.float64")).eval()
    for name, value in drawn.state_dict().items():
        shape = tuple(value.shape)
        values = draw_weights(random, shape, max(shape[1:], default=1))
        if name.endswith("running_var"):
            values = random.uniform(0.5, 2.0, shape)
        value.copy_(import_object("torch.from_numpy")(values.astype(np.float32)))
    return drawn


def compute_module_gate(
    module: Any, x: np.ndarray, run: Callable[[Any, Any], tuple[Any, Any]] = _apply
) -> tuple[np.ndarray, np.ndarray]:
    """Run a module on x, and return the map that it scales, channels last, and its gate."""
    channels_first = import_object("torch.from_numpy")(np.ascontiguousarray(np.moveaxis(x, -1, 1)))
    with import_object("torch.no_grad")():
        scaled, y = (np.moveaxis(map.numpy(), 1, -1) for map in run(module, channels_first))
    return scaled, compute_gate(scaled, y)
