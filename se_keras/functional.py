"""The block and networks as functions: of a tensor alone, with new parameters, or of a tensor and canonical parameters.

With parameters, a function of tensors has no state, so that the backend can differentiate it in the parameters.
"""

from collections.abc import Mapping
from typing import Any, Unpack

import keras
from keras import ops

import se_spec
from se_spec import NetworkSpec, SESpec, ShapeError, SpecError, SpecFields

from .block import SqueezeExcitation
from .networks import SENet
from .ops import refuse_foreign
from .parameters import collect_variables, set_parameters, transpose

ARRAYS = ("numpy", "tensorflow", "torch", "jax", "jaxlib", "keras")


def squeeze_excitation(
    x: Any,
    spec: SESpec | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    data_format: str = "channels_last",
    name: str | None = None,
    dtype: Any = None,
    **fields: Unpack[SpecFields],
) -> Any:
    """Compute the block's output y: of a new block, or with canonical parameters.

    Args:
        x: symbolic or eager feature map, (N, *spatial, C) or (N, C, *spatial); all but C may be unknown.
        spec: which block; None if ``fields`` give it.
        parameters: the canonical dict, of tensors or NumPy arrays of any float type; None draws new parameters.
        data_format: ``"channels_last"`` or ``"channels_first"``.
        name: name of the layer, for ``set_parameters`` and ``model.get_layer``.
        dtype: dtype of the layer; None is the tensor's if that is float64 or half precision, else Keras' policy.
        **fields: the spec's fields beyond the channels, which x gives, instead of ``spec``.

    Returns:
        Tensor of the shape of x. With parameters and an eager x it is differentiable in both.

    Raises:
        SpecError: a field or the data format is not allowed.
        InputError, ShapeError, ParameterError: x or the parameters do not fit the spec.

    >>> x = keras.Input((None, None, 64))
    >>> squeeze_excitation(x, reduction=16).shape
    (None, None, None, 64)
    """
    first = _move_channels(x, data_format, -1)
    return _move_channels(_call(_make_layer(first, spec, name, dtype, fields), parameters, first), data_format, 1)


def excitation(
    x: Any,
    spec: SESpec | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    data_format: str = "channels_last",
    name: str | None = None,
    dtype: Any = None,
    **fields: Unpack[SpecFields],
) -> Any:
    """Compute the gate g, without the gain: of a new block, or with canonical parameters.

    Args:
        x: feature map as for ``squeeze_excitation``.
        spec: which block; None if ``fields`` give it.
        parameters: the canonical dict; None draws new parameters.
        data_format: ``"channels_last"`` or ``"channels_first"``.
        name: name of the layer.
        dtype: dtype of the layer, as for ``squeeze_excitation``.
        **fields: the spec's fields beyond the channels, which x gives, instead of ``spec``.

    Returns:
        Tensor (N, C) of float32, or float64 if the layer computes in it.

    Raises:
        SpecError, InputError, ShapeError, ParameterError: as ``squeeze_excitation``.

    >>> excitation(keras.Input((None, None, 64)), reduction=16).shape
    (None, 64)
    """
    x = _move_channels(x, data_format, -1)
    return _call(_make_layer(x, spec, name, dtype, fields), parameters, x, gate_only=True)


def senet(
    x: Any,
    net: NetworkSpec | str | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    data_format: str = "channels_last",
    **options: Any,
) -> Any:
    """Compute a network's logits from canonical parameters, or build a network: ``senet("se_resnet50")``.

    Args:
        x: images (N, H, W, C) or (N, C, H, W); or the network to build.
        net: which network, or its name.
        parameters: the canonical dict, of tensors or NumPy arrays of any float type; running statistics included.
        data_format: ``"channels_last"`` or ``"channels_first"``.
        **options: ``input_shape``, ``name`` and ``dtype`` of the network to build, as for ``SENet``.

    Returns:
        Logits (N, ``net.num_classes``), computed with the running statistics and without dropout; or a ``SENet``.

    Raises:
        SpecError: no such network, or a data format that is not one of the two.
        InputError, ShapeError, ParameterError: x or the parameters do not fit the network.

    >>> model = senet("se_resnet20")
    >>> from se_keras import get_parameters
    >>> tuple(senet(ops.ones((2, 32, 32, 3)), "se_resnet20", get_parameters(model)).shape)
    (2, 10)
    """
    if isinstance(x, NetworkSpec | str):
        return SENet(x, **options)
    if net is None or parameters is None:
        raise SpecError("senet(x) needs the network and its parameters: senet(x, net, parameters)")
    return _call(SENet(net, **options), parameters, _move_channels(x, data_format, -1), training=False)


def _make_layer(x: Any, spec: SESpec | None, name: str | None, dtype: Any, fields: SpecFields) -> SqueezeExcitation:
    if spec is None:
        refuse_foreign(x)
        if len(x.shape) == 0 or x.shape[-1] is None:
            raise ShapeError(f"x has shape {tuple(x.shape)}, expected a known number of channels on its last axis")
        return SqueezeExcitation(x.shape[-1], name=name, dtype=dtype, **fields)
    return SqueezeExcitation(spec, name=name, dtype=dtype, **fields)


def _call(layer: Any, parameters: Mapping[str, Any] | None, x: Any, **options: Any) -> Any:
    if parameters is None:
        return layer(x, **options)
    layer(keras.KerasTensor(x.shape, keras.backend.standardize_dtype(x.dtype)), **options)  # builds it, and checks x
    if isinstance(x, keras.KerasTensor):
        set_parameters(layer, parameters)
        return layer(x, **options)
    shapes = se_spec.parameters.shapes(layer.spec)
    se_spec.parameters.check(parameters, shapes, ARRAYS)
    values = {
        id(variable): ops.cast(transpose(ops.convert_to_tensor(parameters[key]), len(shapes[key])), variable.dtype)
        for key, variable in collect_variables(layer).items()
    }
    kinds = (layer.trainable_variables, layer.non_trainable_variables)
    given = [[values.get(id(variable), variable.value) for variable in variables] for variables in kinds]
    return layer.stateless_call(*given, x, **options)[0]


def _move_channels(x: Any, data_format: str, place: int) -> Any:
    """Move the channels to the end or back to axis 1, where the data format has them first."""
    se_spec.inputs.check_data_format(data_format)
    if data_format == "channels_last" or len(getattr(x, "shape", ())) < 3:
        return x
    return ops.moveaxis(x, 1, -1) if place == -1 else ops.moveaxis(x, -1, 1)
