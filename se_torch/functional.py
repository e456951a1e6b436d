"""The block and networks as functions of a map and canonical parameters, and ``senet``.

The modules compute them; a function has no state, so that ``torch.func`` can differentiate it in the parameters.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import se_spec
from se_spec import NetworkSpec, SESpec, SpecError, network

from .block import SqueezeExcitation
from .networks import SENet
from .parameters import to_tensor, to_torch_path


def squeeze_excitation(
    x: Tensor, spec: SESpec, parameters: Mapping[str, Any], *, data_format: str = "channels_first"
) -> Tensor:
    """Compute the block's output y from canonical parameters.

    Args:
        x: feature map of 1, 2 or 3 spatial axes; (N, C, *spatial) or (N, *spatial, C).
        spec: which block.
        parameters: the canonical dict, of tensors or NumPy arrays of any float type.
        data_format: ``"channels_first"`` or ``"channels_last"``.

    Returns:
        Tensor of the shape and dtype of x, differentiable in x and in the parameters that are tensors.

    Raises:
        SpecError: a data format that is not one of the two.
        InputError, ShapeError, ParameterError: x or the parameters do not fit the spec.

    >>> weights = {"reduce.weight": torch.ones(2, 8), "expand.weight": torch.zeros(8, 2)}
    >>> squeeze_excitation(torch.ones(1, 8, 5), SESpec(8, hidden=2), weights)[0, 0]  # gates of 1/2
    tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.5000])
    """
    first = _move_channels(x, data_format, 1)
    return _move_channels(_call(_Block(spec), spec, parameters, first), data_format, -1)


def excitation(
    x: Tensor, spec: SESpec, parameters: Mapping[str, Any], *, data_format: str = "channels_first"
) -> Tensor:
    """Compute the gate g from canonical parameters, without the gain.

    Args:
        x: feature map as for ``squeeze_excitation``.
        spec: which block.
        parameters: the canonical dict, of tensors or NumPy arrays of any float type.
        data_format: ``"channels_first"`` or ``"channels_last"``.

    Returns:
        Tensor (N, C); float32, or float64 if x is float64.

    Raises:
        SpecError, InputError, ShapeError, ParameterError: as ``squeeze_excitation``.

    >>> weights = {"expand.weight": torch.zeros(8, 8)}
    >>> excitation(torch.ones(1, 8, 5), SESpec(8, single_projection=True), weights)[0, :2]
    tensor([0.5000, 0.5000])
    """
    return _call(_Block(spec, gate_only=True), spec, parameters, _move_channels(x, data_format, 1))


def senet(
    x: Tensor | NetworkSpec | str,
    net: NetworkSpec | str | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    data_format: str = "channels_first",
) -> Any:
    """Compute a network's logits from canonical parameters, or build a network: ``senet("se_resnet50")``.

    Args:
        x: images (N, C, H, W) or (N, H, W, C); or the network to build, and no other argument.
        net: which network, or its name.
        parameters: the canonical dict, of tensors or NumPy arrays of any float type; running statistics included.
        data_format: ``"channels_first"`` or ``"channels_last"``.

    Returns:
        Logits (N, ``net.num_classes``), computed with the running statistics and without dropout; or a ``SENet``.

    Raises:
        SpecError: no such network, or a data format that is not one of the two.
        InputError, ShapeError, ParameterError: x or the parameters do not fit the network.

    >>> model = senet("se_resnet20")
    >>> from se_torch import get_parameters
    >>> senet(torch.ones(2, 3, 32, 32), "se_resnet20", get_parameters(model)).shape
    torch.Size([2, 10])
    """
    if isinstance(x, NetworkSpec | str):
        return SENet(x)
    if net is None or parameters is None:
        raise SpecError("senet(x) needs the network and its parameters: senet(x, net, parameters)")
    net = network(net)
    return _call(SENet(net, device="meta").eval(), net, parameters, _move_channels(x, data_format, 1))


class _Block(nn.Module):
    """A block without storage whose call may be that of ``excitation``; ``functional_call`` calls ``forward`` alone."""

    def __init__(self, spec: SESpec, gate_only: bool = False) -> None:
        super().__init__()
        self.block = SqueezeExcitation(spec, device="meta")
        self.gate_only = gate_only

    def forward(self, x: Tensor) -> Tensor:
        return self.block.excitation(x) if self.gate_only else self.block(x)


def _call(module: nn.Module, spec: SESpec | NetworkSpec, parameters: Mapping[str, Any], x: Any) -> Tensor:
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(spec), ("torch", "numpy"))
    prefix = "block." if isinstance(module, _Block) else ""
    values = {}
    for name, array in parameters.items():
        value = array if isinstance(array, Tensor) else to_tensor(array)
        if isinstance(x, Tensor):
            wide = torch.float64 if x.dtype == torch.float64 else torch.float32
            value = value.to(x.device, wide if prefix else x.dtype)  # a block's products are never in half precision
        values[prefix + to_torch_path(name)] = value
    result: Tensor = torch.func.functional_call(module, values, (x,))
    return result


def _move_channels(x: Any, data_format: str, place: int) -> Any:
    """Move the channels to axis 1 or back to the end, where the data format has them last."""
    se_spec.inputs.check_data_format(data_format)
    if data_format == "channels_first" or not isinstance(x, Tensor) or x.dim() < 3:
        return x
    return x.movedim(-1, 1) if place == 1 else x.movedim(1, -1)
