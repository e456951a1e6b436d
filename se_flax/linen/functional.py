"""The block and networks as functions of a map and canonical parameters, and ``senet``.

The modules compute them; a function has no state, so that JAX can differentiate it in the parameters.
"""

from collections.abc import Mapping
from typing import Any

import jax
from flax.traverse_util import unflatten_dict

from se_spec import NetworkSpec, SESpec, SpecError, network

from ..parameters import move_channels, to_jax_tree
from .block import SqueezeExcitation
from .networks import SENet
from .parameters import add_collection


def squeeze_excitation(
    x: jax.Array, spec: SESpec, parameters: Mapping[str, Any], *, data_format: str = "channels_last"
) -> jax.Array:
    """Compute the block's output y from canonical parameters.

    Args:
        x: feature map of 1, 2 or 3 spatial axes; (N, *spatial, C) or (N, C, *spatial).
        spec: which block.
        parameters: the canonical dict, of JAX or NumPy arrays of any float type.
        data_format: ``"channels_last"`` or ``"channels_first"``.

    Returns:
        Array of the shape and dtype of x, differentiable in x and in the parameters.

    Raises:
        SpecError: a data format that is not one of the two.
        InputError, ShapeError, ParameterError: x or the parameters do not fit the spec.

    >>> import jax.numpy as jnp
    >>> weights = {"reduce.weight": jnp.ones((2, 8)), "expand.weight": jnp.zeros((8, 2))}
    >>> squeeze_excitation(jnp.ones((1, 5, 8)), SESpec(8, hidden=2), weights)[0, :, 0]  # gates of 1/2
    Array([0.5, 0.5, 0.5, 0.5, 0.5], dtype=float32)
    """
    y = _call(SqueezeExcitation(spec), spec, parameters, move_channels(x, data_format, -1))
    return move_channels(y, data_format, 1)


def excitation(
    x: jax.Array, spec: SESpec, parameters: Mapping[str, Any], *, data_format: str = "channels_last"
) -> jax.Array:
    """Compute the gate g from canonical parameters, without the gain.

    Args:
        x: feature map as for ``squeeze_excitation``.
        spec: which block.
        parameters: the canonical dict, of JAX or NumPy arrays of any float type.
        data_format: ``"channels_last"`` or ``"channels_first"``.

    Returns:
        Array (N, C); float32, or float64 if x is float64.

    Raises:
        SpecError, InputError, ShapeError, ParameterError: as ``squeeze_excitation``.

    >>> import jax.numpy as jnp
    >>> weights = {"expand.weight": jnp.zeros((8, 8))}
    >>> excitation(jnp.ones((1, 5, 8)), SESpec(8, single_projection=True), weights)[0, :2]
    Array([0.5, 0.5], dtype=float32)
    """
    x = move_channels(x, data_format, -1)
    return _call(SqueezeExcitation(spec), spec, parameters, x, "excitation")


def senet(
    x: jax.Array | NetworkSpec | str,
    net: NetworkSpec | str | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    data_format: str = "channels_last",
) -> Any:
    """Compute a network's logits from canonical parameters, or build a network: ``senet("se_resnet50")``.

    Args:
        x: images (N, H, W, C) or (N, C, H, W); or the network to build, and no other argument.
        net: which network, or its name.
        parameters: the canonical dict, of JAX or NumPy arrays of any float type; running statistics included.
        data_format: ``"channels_last"`` or ``"channels_first"``.

    Returns:
        Logits (N, ``net.num_classes``), computed with the running statistics and without dropout; or a ``SENet``.

    Raises:
        SpecError: no such network, or a data format that is not one of the two.
        InputError, ShapeError, ParameterError: x or the parameters do not fit the network.

    >>> import numpy as np
    >>> from se_spec import network
    >>> ones = {name: np.ones(shape) for name, shape in network("se_resnet20").parameter_shapes().items()}
    >>> images = jax.ShapeDtypeStruct((2, 32, 32, 3), "float32")
    >>> jax.eval_shape(lambda x: senet(x, "se_resnet20", ones), images).shape
    (2, 10)
    """
    if isinstance(x, NetworkSpec | str):
        return SENet(x)
    if net is None or parameters is None:
        raise SpecError("senet(x) needs the network and its parameters: senet(x, net, parameters)")
    net = network(net)
    return _call(SENet(net), net, parameters, move_channels(x, data_format, -1))


def _call(
    module: SqueezeExcitation | SENet,
    spec: SESpec | NetworkSpec,
    parameters: Mapping[str, Any],
    x: jax.Array,
    method: str = "__call__",
) -> jax.Array:
    variables = unflatten_dict({add_collection(path): value for path, value in to_jax_tree(parameters, spec).items()})
    result: jax.Array = module.apply(variables, x, method=method)
    return result
