"""A network as a PyTorch module, channels first: the flat list of layers, each a module at its path.

Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu: Squeeze-and-Excitation Networks, arXiv 1709.01507; docs/SPEC.md
M-1 to M-11. The layers are PyTorch's own classes where PyTorch has them, since many tools look for the exact class.
Layers that PyTorch does not have are written out: padding that depends on the size or differs between the two sides,
batch norm without a scale.
"""

import math
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Proxy, symbolic_trace
from torch.nn import functional as F

import se_spec
from se_spec import NetworkSpec, network
from se_spec.networks import last_uses, output_sizes, same_padding
from se_spec.networks import layers as kinds

from .block import SqueezeExcitation, parse_dtype


class SENet(nn.Module):
    """A network that maps images to logits.

    Args:
        net: which network, or its name.
        device: device of the parameters and running statistics.
        dtype: dtype of the parameters and running statistics, or its name.

    Input shape: (N, ``net.channels``, H, W), of the parameters' dtype; any memory format.
    Output shape: (N, ``net.num_classes``).

    Every layer is a submodule, and the names in the ``state_dict`` are the canonical ones (SPEC M-5), except that a
    batch norm has torch's own. New parameters are those of SPEC M-10.

    Raises:
        InputError: x is not a tensor of floats.
        ShapeError: wrong rank, wrong channel count, or an image that is too small for the strides.

    >>> from se_spec import network
    >>> model = SENet(network("se_resnet20")).eval()
    >>> model(torch.ones(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    >>> model.stage2.block0.shortcut.conv
    Conv2d(16, 32, kernel_size=(1, 1), stride=(2, 2), bias=False)
    >>> list(model.state_dict())[:3]
    ['stem.conv1.weight', 'stem.bn1.weight', 'stem.bn1.bias']
    """

    def __init__(
        self,
        net: NetworkSpec | str,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> None:
        super().__init__()
        self.spec = net = network(net)
        self._fitting: set[tuple[int, int]] = set()
        freed_after = last_uses(net.layers)
        self._steps = [(layer.name, layer.inputs, freed_after.get(layer.name, ())) for layer in net.layers]
        for layer in net.layers:
            _place(self, layer.name, _make_layer(layer, {"device": device, "dtype": parse_dtype(dtype)}))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # the other layers draw their parameters as M-10 has it
                _draw_weight(module)

    def reset_parameters(self) -> None:
        """Draw all parameters and reset all statistics (SPEC M-10), as needed after ``model.to_empty(device=...)``."""
        for module in self.modules():
            _draw(module)

    def __prepare_scriptable__(self) -> GraphModule:
        """Return the network as a flat graph, which ``torch.jit.script`` compiles."""
        return symbolic_trace(self)

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Proxy):
            self._check(x)
        maps = {kinds.INPUT: x}
        for path, inputs, freed_after in self._steps:
            layer = reduce(getattr, path.split("."), self)  # not get_submodule, which takes as long as a small layer
            maps[path] = x = layer(*[maps[name] for name in inputs])
            for name in freed_after:
                del maps[name]
        return x

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise se_spec.inputs.foreign_array_error(x, "torch.Tensor", "convert it with torch.as_tensor")
        if torch.jit.is_tracing():
            return  # sizes are tensors there, and a trace is for any size
        se_spec.inputs.check(x.shape, x.dtype, self.spec, "channels_first")
        if torch.compiler.is_compiling():
            return
        size = (x.shape[2], x.shape[3])
        if size not in self._fitting:
            output_sizes(self.spec.layers, size)  # M-9
            self._fitting.add(size)  # checked once: for 450 layers it takes a millisecond


def _place(module: nn.Module, path: str, layer: nn.Module) -> None:
    """Make ``layer`` the submodule at a path, and create its parents."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in module._modules:
            module.add_module(parent, nn.ModuleDict())
        module = module.get_submodule(parent)
    module.add_module(name, layer)


def _make_layer(layer: kinds.Layer, options: dict[str, Any]) -> nn.Module:
    match layer:
        case kinds.Convolution():
            return _make_convolution(layer, options)
        case kinds.BatchNorm():
            return _make_batch_norm(layer, options)
        case kinds.ReLU():
            return nn.ReLU()
        case kinds.Pooling():
            return Pooling(layer)
        case kinds.SqueezeExcitation():
            return SqueezeExcitation(layer.spec, **options)
        case kinds.Addition():
            return Addition()
        case kinds.Concatenation():
            return Concatenation()
        case kinds.ZeroChannels():
            return ZeroChannels(layer)
        case kinds.GlobalPooling():
            return GlobalPooling()
        case kinds.Dropout():
            return nn.Dropout(layer.rate)
        case kinds.Dense():
            return nn.Linear(layer.in_channels, layer.out_channels, bias=layer.bias, **options)  # draws as K-4 has it
    raise AssertionError(layer)


def _make_convolution(layer: kinds.Convolution, options: dict[str, Any]) -> nn.Conv2d:
    kind = SameConvolution if layer.padding == "same" else nn.Conv2d
    padding = 0 if layer.padding == "same" else layer.padding[0]  # a convolution's other paddings are symmetric
    channels, window = (layer.in_channels, layer.out_channels), (layer.kernel, layer.stride, padding)
    return kind(*channels, *window, groups=layer.groups, bias=layer.bias, **options)


def _make_batch_norm(layer: kinds.BatchNorm, options: dict[str, Any]) -> nn.BatchNorm2d:
    """Build a batch norm. Torch's running variance divides by n - 1, not n; its momentum is the share of the new."""
    module = nn.BatchNorm2d(layer.in_channels, layer.epsilon, 1.0 - layer.momentum, **options)
    if not layer.scale:
        module.register_parameter("weight", None)
    return module


def _draw(module: nn.Module) -> None:
    """Draw new parameters and reset the statistics (M-10)."""
    if isinstance(module, nn.BatchNorm2d):
        module.reset_running_stats()
        if module.weight is not None:
            nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        module.reset_parameters()  # the bias: K-4
        _draw_weight(module)
    elif isinstance(module, nn.Linear):
        module.reset_parameters()  # K-4


def _draw_weight(module: nn.Conv2d) -> None:
    fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
    nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))


class SameConvolution(nn.Conv2d):
    """``nn.Conv2d`` with TensorFlow's SAME padding, which depends on the size (M-2)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_pad(x, self.kernel_size[0], self.stride[0], "same", "constant"))


class Pooling(nn.Module):
    """Maxima of windows, which ignore padding, or averages, which count it or not (M-2)."""

    def __init__(self, layer: kinds.Pooling) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        window = (layer.kernel, layer.stride)
        if layer.pool == "max" and layer.padding != "same" and layer.padding[0] == layer.padding[1]:
            return F.max_pool2d(x, *window, layer.padding[0])
        if layer.pool == "max":
            # A repeated border changes no maximum; a constant of minus infinity would ruin the ranges of int8.
            return F.max_pool2d(_pad(x, *window, layer.padding, "replicate"), *window)
        y = F.avg_pool2d(_pad(x, *window, layer.padding, "constant"), *window)
        if layer.count_padding:
            return y
        return y / F.avg_pool2d(_pad(torch.ones_like(x[:1, :1]), *window, layer.padding, "constant"), *window)

    def extra_repr(self) -> str:
        names = ("pool", "kernel", "stride", "padding", "count_padding")
        return ", ".join(f"{name}={getattr(self.layer, name)!r}" for name in names)


class Addition(nn.Module):
    """The sum of two maps."""

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        return branch + shortcut


class Concatenation(nn.Module):
    """Concatenation of maps along the channels."""

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat(maps, 1)


class ZeroChannels(nn.Module):
    """Zero channels added before and after."""

    def __init__(self, layer: kinds.ZeroChannels) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, self.layer.before, self.layer.after))

    def extra_repr(self) -> str:
        return f"before={self.layer.before}, after={self.layer.after}"


class GlobalPooling(nn.Module):
    """The mean over all positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _pad(x: Tensor, kernel: int, stride: int, padding: kinds.Padding, mode: str) -> Tensor:
    """Pad x with zeros (``constant``), or by repeating its border (``replicate``)."""
    if padding == "same":
        if torch.jit.is_tracing():
            return _scripted_pad_same()(x, kernel, stride, mode)
        return pad_same(x, kernel, stride, mode)
    return F.pad(x, padding + padding, mode) if any(padding) else x


@torch.fx.wrap
def pad_same(x: Tensor, kernel: int, stride: int, mode: str) -> Tensor:
    """Pad x by TensorFlow's SAME, also in graphs for any size (SPEC M-2)."""
    top, bottom = same_padding(x.shape[2], kernel, stride)
    left, right = same_padding(x.shape[3], kernel, stride)
    return F.pad(x, [left, right, top, bottom], mode)


@cache
def _scripted_pad_same() -> Any:
    """Script ``pad_same`` for ``torch.jit.trace``, which would record the padding as constants."""
    return torch.jit.script(pad_same)
