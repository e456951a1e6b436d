"""SE blocks of a live model, found by what its layers and the operations of its graph compute."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np

from se_spec import SESpec, live
from se_spec.live import LiveBlock, Reading

from .block import SqueezeExcitation
from .examination import Layout, Recognized, examine_layer, to_arrays
from .graphs import Product, find_products, is_functional, list_nodes
from .obstacles import name_variables


class Attribute(NamedTuple):
    """An attribute of a layer that is another layer, or a list or dict that holds it; key is None without one."""

    holder: Any
    name: str
    key: Any = None


def find_blocks(model: keras.Layer) -> dict[str, LiveBlock]:
    """Find every SE block of a live model, by what its layers and the operations of its graph compute.

    Args:
        model: a functional, sequential or subclassed model, or a layer; built, and not changed.

    Returns:
        Each block by its path: names of layers and attributes, joined by ``/``; a block of a graph has the name of the
        product.

    Raises:
        No error of its own: a layer that cannot be examined is no block.

    >>> x = keras.Input((None, None, 8))
    >>> z = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    >>> h = keras.layers.Conv2D(2, 1, activation="silu")(z)
    >>> g = keras.layers.Conv2D(8, 1, activation="sigmoid")(h)
    >>> model = keras.Model(x, keras.layers.Multiply(name="scale")([x, g]))
    >>> print(find_blocks(model)["scale"])
    scale: operations of a graph, SESpec(8, hidden=2, bias=True, activation='silu')
    """
    return {path: found.block for path, found in examine_model(model)[0].items()}


def from_module(module: keras.Layer) -> tuple[SESpec, dict[str, np.ndarray]]:
    """Read the spec and the canonical parameters of one block of any library.

    Args:
        module: the block: a layer, or a model that holds one block.

    Returns:
        The spec that it computes, and its parameters in their dtype.

    Raises:
        SpecError: the layer computes no SE block; the message has the reason.

    >>> x = keras.Input((None, None, 8))
    >>> z = keras.layers.GlobalAveragePooling2D()(x)
    >>> h = keras.layers.Dense(2, activation="relu", use_bias=False)(z)
    >>> g = keras.layers.Dense(8, activation="hard_sigmoid", use_bias=False)(h)
    >>> spec, parameters = from_module(keras.Model(x, x * keras.layers.Reshape((1, 1, 8))(g)))
    >>> spec, list(parameters)
    (SESpec(8, hidden=2, gate='hard_sigmoid'), ['reduce.weight', 'expand.weight'])
    """
    found, left = examine_model(module, is_named=True)
    if len(found) == 1:
        [recognized] = found.values()
        return recognized.block.spec, recognized.block.parameters
    raise live.no_block_error(module, found, left)


def examine_model(model: Any, *, is_named: bool = False) -> tuple[dict[str, Recognized], dict[str, str]]:
    """Examine every layer of a model, and the graphs in it.

    Returns:
        The blocks by path; the reason, by path, for each part that resembles a block and is none.
    """
    examination = _Examination()
    examination.visit(model, "", None, is_named or None)
    return examination.found, examination.left


def list_children(layer: Any) -> Iterator[tuple[str, Attribute, Any]]:
    """List the layers that a layer has as attributes, or in lists and dicts, with their paths."""
    for name, value in list(vars(layer).items()):
        if name.startswith("_") and name not in ("_functional",) and not isinstance(value, keras.Layer):
            continue
        if isinstance(value, keras.Layer):
            yield name, Attribute(layer, name), value
        elif isinstance(value, list | tuple | dict):
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            for key, entry in entries:
                if isinstance(entry, keras.Layer):
                    yield f"{name}/{key}", Attribute(layer, name, key), entry


class _Examination:
    """Walks through a model from the inside: the innermost block counts."""

    def __init__(self) -> None:
        self.found: dict[str, Recognized] = {}
        self.left: dict[str, str] = {}
        self._results: dict[int, Recognized | str | None] = {}
        self._hint: SESpec | None = None

    def visit(self, layer: Any, path: str, place: Any, is_named: bool | None = None) -> bool:
        """Return whether anything is inside."""
        if isinstance(layer, SqueezeExcitation):
            self.found[path] = _recognize_own(layer, path)
            return True
        if isinstance(layer, keras.Sequential):
            inside = [self.visit(part, _join(path, part.name), layer) for part in layer.layers]
        elif is_functional(layer):
            operations = {id(node.operation): node.operation for node in list_nodes(layer)}.values()
            parts = [part for part in operations if isinstance(part, keras.Layer)]
            inside = [self.visit(part, _join(path, part.name), layer) for part in parts]
            return self._visit_graph(layer, path) or any(inside)
        else:
            inside = [self.visit(part, _join(path, name), attribute) for name, attribute, part in list_children(layer)]
            if not inside and type(layer).__module__.startswith("keras."):
                return False
        return any(inside) or self._judge(layer, path, place, is_named)

    def _judge(self, layer: Any, path: str, place: Any, is_named: bool | None) -> bool:
        if id(layer) not in self._results:
            self._results[id(layer)] = examine_layer(layer, self._hint, is_named=is_named)
        return self._note(self._results[id(layer)], path, place)

    def _note(self, result: Recognized | str | None, path: str, place: Any) -> bool:
        if isinstance(result, Recognized):
            self._hint = result.block.spec
            self.found[path] = replace(result, block=replace(result.block, path=path), place=place)
        elif isinstance(result, str):
            self.left[path] = result
        return result is not None

    def _visit_graph(self, model: Any, path: str) -> bool:
        products = list(find_products(model))
        inside = {id(node) for product in products for node in product.between}
        uses = [node.operation for node in list_nodes(model) if id(node) not in inside]
        seen = []
        for product in products:
            result = self._examine_product(product)
            elsewhere = [layer.name for layer in product.layers if any(layer is operation for operation in uses)]
            if isinstance(result, Recognized) and elsewhere:
                result = f"its layer {elsewhere[0]!r} is used elsewhere too"
            seen.append(self._note(result, _join(path, product.node.operation.name), (model, product)))
            if isinstance(result, Recognized):  # a gate that is a layer is part of the block
                for node in product.between:
                    inner = _join(path, node.operation.name)
                    self.left = {
                        name: reason
                        for name, reason in self.left.items()
                        if name != inner and not name.startswith(f"{inner}/")
                    }
        return any(seen)

    def _examine_product(self, product: Product) -> Recognized | str | None:
        part = product.make_model() if not product.problem else None
        result: Recognized | str | None = product.problem
        if part is not None:
            result = examine_layer(part, self._hint, size=tuple(product.feature_map.shape[1:-1]), is_named=False)
        elif not live.has_pair([tuple(layer.weights[0].shape[-2:]) for layer in product.layers]):
            return None
        if isinstance(result, Recognized):
            return replace(result, block=replace(result.block, kind="operations of a graph"))
        return result


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _recognize_own(block: SqueezeExcitation, path: str) -> Recognized:
    weights = name_variables(block) if block.built else {}
    tensors: dict[str, live.Tensor] = {}
    for name in block.spec.parameter_shapes():
        layer, _, kind = name.partition(".")
        ending = f"{layer}/{kind.replace('weight', 'kernel')}"
        own = next((path for path in weights if path.endswith(ending)), None)
        if own is not None:
            tensors[name] = live.Tensor(own, kind == "weight")
    reading = Reading(block.spec.channels, block.spec.hidden, block.spec.single_projection, tensors)
    arrays = to_arrays(block, tensors)
    names = {name: own.name for name, own in tensors.items()}
    found = LiveBlock(path, live.name_class(block), block.spec, arrays, names, data_format="channels_last")
    return Recognized(found, block, reading, Layout((3, 5)))
