"""What keeps a module from being replaced, and a copy of it on which it can be tried."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from se_spec import live

from .tensors import is_plain

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
"""The dictionaries of a module's hooks that a call uses."""
STATE_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
"""The dictionaries of hooks that are called for names of parameters."""
POOLINGS = ("mean", "amax", "max", "sum", "avg_pool", "max_pool", "logsumexp", "std", "var")

PROJECTIONS = {"convolution": (0, 1), "mm": (0, 1), "addmm": (1, 2), "linear": (0, 1)}
"""Products with a matrix, and the places of the values and the matrix among their arguments."""


class Trace(NamedTuple):
    """Operations of a call: their names, slopes of leaky ReLU, whether x itself is multiplied, and what vectors meet.

    ``projections`` are the shapes of the matrices by which (N, C) or (N, C, 1, 1) was multiplied; ``is_pooled`` says
    whether a map was pooled to one number for each channel.
    """

    names: set[str]
    slopes: list[float]
    is_scaled: bool
    projections: list[tuple[int, ...]]
    is_pooled: bool

    @property
    def pools(self) -> bool:
        """Whether a mean or a maximum is taken."""
        return any(part in name for name in self.names for part in POOLINGS if "softmax" not in name)

    @property
    def has_excitation(self) -> bool:
        """Whether pooled values pass through a bottleneck."""
        return self.is_pooled and live.has_pair(self.projections)

    @property
    def is_random(self) -> bool:
        """Whether numbers are drawn."""
        return any(part in name for name in self.names for part in ("dropout", "bernoulli", "rand", "uniform_"))


def trace_call(call: Callable[[Tensor], Any], x: Tensor) -> tuple[Any, Trace]:
    """Call a function of a tensor without gradients, and record its operations."""
    names: set[str] = set()
    slopes: list[float] = []
    scaled: list[bool] = []
    projections: list[tuple[int, ...]] = []
    pooled: list[bool] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            space, _, name = function._schema.name.partition("::")
            names.add(name if space == "aten" else f"{space}::{name}")
            if name in ("leaky_relu", "leaky_relu_"):
                slopes.append(float(args[1]) if len(args) > 1 else 0.01)
            if name in ("mul", "mul_") and any(argument is x for argument in args):
                scaled.append(True)
            if name in PROJECTIONS:
                vector, matrix = (args[place] for place in PROJECTIONS[name])
                if vector.ndim > 1 and vector.numel() == vector.shape[0] * vector.shape[1]:
                    projections.append(tuple(matrix.shape[:2]))
            result = function(*args, **(kwargs or {}))
            if any(part in name for part in POOLINGS) and args and isinstance(args[0], Tensor):
                pooled.append(_is_global(args[0], result))
            return result

    with torch.no_grad(), Recorder():
        y = call(x)
    return y, Trace(names, slopes, bool(scaled), projections, any(pooled))


def _is_global(x: Tensor, y: Any) -> bool:
    """Return whether a pooling leaves one number for each channel of a map."""
    y = y[0] if isinstance(y, tuple) else y
    is_map = x.ndim > 2 and isinstance(y, Tensor) and y.shape[:2] == x.shape[:2]
    return is_map and y.numel() == y.shape[0] * y.shape[1] < x.numel()


def copy_with(module: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """Copy a module with other parameters, in evaluation mode and without its hooks; its own are not copied."""
    memo: dict[int, Any] = {id(value): nn.Parameter(values[name], False) for name, value in module.named_parameters()}
    for part in module.modules():
        memo |= {id(getattr(part, name)): OrderedDict() for name in (*HOOKS, *STATE_HOOKS) if hasattr(part, name)}
    try:
        return copy.deepcopy(module, dict(memo)).eval()
    except Exception:  # an attribute that cannot be copied, such as a lock or a random generator
        return _copy_shallow(module, memo).eval()


def _copy_shallow(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy the modules alone, with the parameters of ``memo`` and without hooks; other attributes are shared."""
    if id(module) in memo:
        found: nn.Module = memo[id(module)]
        return found
    memo[id(module)] = twin = module.__new__(type(module))
    vars(twin).update(vars(module))
    for name in (*HOOKS, *STATE_HOOKS):
        if name in vars(twin):
            vars(twin)[name] = OrderedDict()
    children = module._modules.items()
    vars(twin)["_modules"] = {name: child and _copy_shallow(child, memo) for name, child in children}
    vars(twin)["_parameters"] = {name: memo.get(id(value), value) for name, value in module._parameters.items()}
    return twin


def list_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """List the shapes of a module's parameters; those of 1x1 kernels are (O, I)."""
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
    return {name: shape[:2] if set(shape[2:]) == {1} else shape for name, shape in shapes.items()}


def list_layer_shapes(module: nn.Module) -> list[tuple[int, int]]:
    """List (outputs, inputs) of the layers inside, whatever their weights are."""
    found = []
    for part in module.modules():
        for ends in (("out_features", "in_features"), ("out_channels", "in_channels")):
            widths = tuple(getattr(part, end, None) for end in ends)
            kernel = getattr(part, "kernel_size", 1)
            is_pointwise = all(length == 1 for length in (kernel if isinstance(kernel, tuple) else (kernel,)))
            if all(type(width) is int for width in widths) and is_pointwise:
                found.append(widths)
    return found  # type: ignore[return-value]


def list_obstacles(module: nn.Module) -> list[str]:
    """List the reasons, as clauses, for which no block of ours can stand in the module's place."""
    found = []
    if isinstance(module, torch.jit.ScriptModule):
        found.append("it is compiled by TorchScript; replace before torch.jit.script")
    for path, part in module.named_modules():
        name = f"its layer {path!r}" if path else "it"
        kind = type(part)
        is_quantized = ".quantized" in kind.__module__ or ".qat" in kind.__module__
        if is_quantized and "PackedParams" not in kind.__name__:
            found.append(f"{name} is quantized ({kind.__name__}); replace before quantization")
        if parametrize.is_parametrized(part):
            found.append(
                f"{name} is parametrized ({', '.join(part.parametrizations)}); remove the parametrization first"
            )
        if path and (hooks := [hook for kind in HOOKS for hook in getattr(part, kind, {}).values()]):
            kinds = ", ".join(dict.fromkeys(getattr(hook, "__name__", type(hook).__name__) for hook in hooks))
            found.append(f"{name} has hooks ({kinds}), which no layer of ours would call; remove them first")
        if any(getattr(part, kind, None) for kind in STATE_HOOKS):
            found.append(f"{name} has hooks of its state_dict, whose names are others in ours")
        if getattr(part, "_compiled_call_impl", None) is not None:
            found.append(f"{name} is compiled by itself; replace before its compile()")
        if "forward" in vars(part) and not isinstance(part, torch.jit.ScriptModule):
            found.append(f"the forward of {name} was replaced on the instance")
    for path, value in module.named_parameters():
        if not is_plain(value):
            found.append(f"its parameter {path!r} is a {type(value).__name__}, no plain tensor")
        elif not value.is_floating_point():
            found.append(f"its parameter {path!r} has no floats ({value.dtype})")
    return found + describe_norms(module) + _describe_buffers(module)


def describe_norms(module: nn.Module) -> list[str]:
    """Describe the normalizations inside, as clauses."""
    norms = {path: type(part).__name__ for path, part in module.named_modules() if "Norm" in type(part).__name__}
    return [f"it has {kind} ({path!r}) beside its projections" for path, kind in norms.items()]


def _describe_buffers(module: nn.Module) -> list[str]:
    norms = tuple(f"{path}." for path, part in module.named_modules() if "Norm" in type(part).__name__)
    names = [name for name, _ in module.named_buffers() if not name.startswith(norms or ("\0",))]
    return [f"it has buffers, which ours would not have: {', '.join(names)}"] if names else []
