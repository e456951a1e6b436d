"""Networks of PyTorch, built without memory for their weights; a block gets some when it is asked."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from se_spec import HardSigmoid, LeakyReLU

from ..peer_blocks import import_object
from .network import Answer, Block, Network, feature_map, gate_of, spread

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


def _as_it_is(module: Any, x: Any) -> tuple[Any, Any]:
    return x, module(x)


class Kind(NamedTuple):
    """How a class of modules is read.

    Args:
        parts: the children that are the block, if not all is.
        run: ``(module, x) -> (x, y)``: what is scaled, and the product.
        told: its activation and gate, where they are no modules of its own.
    """

    parts: tuple[str, ...] = ()
    run: Callable[[Any, Any], tuple[Any, Any]] = _as_it_is
    told: Callable[[Any], list[str]] | None = None


Kinds = Mapping[str, Kind]
"""By the path of the class."""


def built(make: Callable[[], Any]) -> Any:
    """A network without memory for its weights, if its constructor lets it be."""
    for way in (lambda: import_object("torch.device")("meta"), weightless):
        with suppress(RuntimeError), way():  # it looks at numbers, or runs itself, while it is built
            return make()
    return make()


@contextmanager
def weightless() -> Iterator[None]:
    """Parameters alone have no numbers; the widths that a RegNet computes have."""
    module = import_object("torch.nn.Module")
    register = module.register_parameter

    def without_numbers(self: Any, name: str, parameter: Any) -> None:
        if parameter is not None and not parameter.is_meta and type(parameter) is import_object("torch.nn.Parameter"):
            parameter = type(parameter)(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(self, name, parameter)

    module.register_parameter = without_numbers
    try:
        yield
    finally:
        module.register_parameter = register


def network(net: Any, kinds: Kinds) -> Network:
    """A network and the SE modules in it, by their classes; one that stands in several places is several.

    One whose functions have weights of their own is outside the spec, and no block.
    """
    by_class = {import_object(path): kind for path, kind in kinds.items()}
    modules = [at for at in net.named_modules(remove_duplicate=False) if type(at[1]) in by_class]
    plain = [at for at in modules if not any(type(leaf).__name__ == "PReLU" for leaf in at[1].modules())]
    blocks = [read(module, path, by_class[type(module)]) for path, module in plain]
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    return Network(shapes, blocks)


def read(module: Any, path: str, kind: Kind) -> Block:
    """A module's widths, biases, activation and gate, whatever its class."""
    parts = [module.get_submodule(part) for part in kind.parts] or [module]
    leaves = [leaf for part in parts for leaf in part.modules()]
    projections = [leaf for leaf in leaves if getattr(leaf, "weight", None) is not None and leaf.weight.ndim > 1]
    told = kind.told(module) if kind.told else [one for one in map(_nonlinearity, leaves) if one is not None]
    if len(told) != len(projections) or len(projections) > 2:
        raise ValueError(f"{path}, a {type(module).__name__}, is not understood: {told} for {len(projections)} layers")
    normed = any(type(leaf).__name__ == "BatchNorm2d" for leaf in leaves)
    before = [f"{part}." for part in kind.parts] or [""]
    names = [name for name in module.state_dict() if name.startswith(tuple(before))]
    if normed:
        names = [name for name in names if "bn." not in name]
    return Block(
        path,
        f"{type(module).__module__}.{type(module).__name__}",
        frozenset(f"{path}.{name}" if path else name for name in names),
        projections[-1].weight.shape[0],
        projections[0].weight.shape[0] if len(projections) == 2 else None,
        projections[0].bias is not None,
        told[0] if len(told) == 2 else "identity",
        told[-1],
        normed,
        partial(_answer, module, path, kind, projections[0].weight.shape[1], _rank(leaves), normed),
    )


def _nonlinearity(leaf: Any) -> Any:
    if type(leaf).__name__ == "LeakyReLU":
        return LeakyReLU(slope=leaf.negative_slope)
    return NONLINEARITIES.get(type(leaf).__name__)


def _rank(leaves: list[Any]) -> int:
    """Number of spatial axes, if a class of PyTorch says it."""
    found = [int(name[-2]) for name in (type(leaf).__name__ for leaf in leaves) if name.endswith(("1d", "2d", "3d"))]
    return found[0] if found else 2


def _answer(module: Any, path: str, kind: Kind, channels: int, rank: int, exact: bool, seed: int) -> Answer:
    own = real(module, seed)
    x, gate = gate_of_module(own, feature_map(channels, seed, (4, 3, 2)[:rank]), kind.run)
    if not exact:  # what is folded is rounded; all else is the same in half the memory
        own = own.to(import_object("torch.float32"))
    tensors = {f"{path}.{name}" if path else name: value.numpy() for name, value in own.state_dict().items()}
    return Answer(tensors, x, gate)


def real(module: Any, seed: int) -> Any:
    """The module in float64, with drawn float32 numbers for all that it has, in evaluation mode."""
    random = np.random.default_rng(seed)
    made = copy.deepcopy(module).to_empty(device="cpu").to(import_object("torch.float64")).eval()
    for name, value in made.state_dict().items():
        shape = tuple(value.shape)
        drawn = spread(random, shape, max(shape[1:], default=1))
        if name.endswith("running_var"):
            drawn = random.uniform(0.5, 2.0, shape)
        value.copy_(import_object("torch.from_numpy")(drawn.astype(np.float32)))
    return made


def gate_of_module(
    module: Any, x: np.ndarray, run: Callable[[Any, Any], tuple[Any, Any]] = _as_it_is
) -> tuple[np.ndarray, np.ndarray]:
    """The map that the module scales when it is given x, both channels last, and its gate."""
    given = import_object("torch.from_numpy")(np.ascontiguousarray(np.moveaxis(x, -1, 1)))
    with import_object("torch.no_grad")():
        scaled, y = (np.moveaxis(map.numpy(), 1, -1) for map in run(module, given))
    return scaled, gate_of(scaled, y)
