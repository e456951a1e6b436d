"""Products of a map with a vector that is computed from it, in the graph of a functional model."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

MOST_OPERATIONS = 40
"""Operations between the map and the product, above which they are no block."""


class Product(NamedTuple):
    """A product: its node, the map, the nodes between them, and why it is no block if they show that."""

    node: Any
    feature_map: Any
    between: list[Any]
    problem: str = ""

    @property
    def layers(self) -> list[Any]:
        """The layers between the map and the product that have variables."""
        return [node.operation for node in self.between if getattr(node.operation, "weights", [])]

    def make_model(self) -> Any:
        """Make a model of the operations from the map to the product."""
        return keras.Model(self.feature_map, self.node.outputs[0])


def is_functional(layer: Any) -> bool:
    """Return whether a layer is a model with a graph."""
    return isinstance(layer, keras.Model) and hasattr(layer, "_nodes_by_depth")


def list_nodes(model: Any) -> list[Any]:
    """List the nodes of a functional model, from its inputs to its outputs."""
    return [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]


def find_products(model: Any) -> Iterator[Product]:
    """Find the products of a map with a vector in a functional model."""
    nodes = list_nodes(model)
    makers = {id(tensor): node for node in nodes for tensor in node.outputs}
    outputs = {id(tensor) for tensor in model.outputs}
    for node in nodes:
        if type(node.operation).__name__ != "Multiply" or len(node.input_tensors) != 2:
            continue
        for feature_map, vector in (node.input_tensors, node.input_tensors[::-1]):
            if _is_map(feature_map) and _is_vector_for(vector, feature_map):
                product = _trace_back(node, feature_map, vector, makers)
                if product is not None:
                    if not _is_vector_last(vector):
                        product = product._replace(problem="its channels are first, ours are last")
                    yield product._replace(problem=product.problem or _find_other_use(product, nodes, outputs))
                    break


def _is_map(tensor: Any) -> bool:
    return len(tensor.shape) in (3, 4, 5)


def _is_vector_for(vector: Any, feature_map: Any) -> bool:
    is_first = all(length == 1 for length in vector.shape[2:])
    return len(vector.shape) == len(feature_map.shape) and (is_first or _is_vector_last(vector))


def _is_vector_last(vector: Any) -> bool:
    return all(length == 1 for length in vector.shape[1:-1])


def _trace_back(node: Any, feature_map: Any, vector: Any, makers: dict[int, Any]) -> Product | None:
    """Collect the operations from the map to the vector; None if the vector is computed without projections."""
    between: dict[int, Any] = {}
    sources: dict[int, Any] = {}
    pending = [vector]
    while pending and len(between) <= MOST_OPERATIONS:
        tensor = pending.pop()
        maker = makers.get(id(tensor))
        if tensor is feature_map or maker is None or maker.is_input or _is_spatial(tensor, maker):
            sources[id(tensor)] = tensor
            continue
        if id(maker) not in between:
            between[id(maker)] = maker
            pending += maker.input_tensors
    product = Product(node, feature_map, list(between.values()))
    if pending or not product.layers:
        return None
    if list(sources) != [id(feature_map)]:
        return product._replace(problem="the map that is scaled is not the one that is pooled")
    return product


def _is_spatial(tensor: Any, maker: Any) -> bool:
    """Return whether a tensor is a map, which no vector is computed from but by a pooling."""
    is_vector = _is_vector_last(tensor) or all(length == 1 for length in tensor.shape[2:])
    return _is_map(tensor) and not is_vector and bool(maker.operation)


def _find_other_use(product: Product, nodes: list[Any], outputs: set[int]) -> str:
    """Return what else uses a vector or layer of the product; empty if nothing does."""
    inside = {id(node) for node in (*product.between, product.node)}
    tensors = {id(tensor) for node in product.between for tensor in node.outputs}
    if tensors & outputs:
        return "its gates are outputs of the model too"
    for node in nodes:
        if id(node) not in inside and any(id(tensor) in tensors for tensor in node.input_tensors):
            return f"its gates are used by {node.operation.name!r} too"
    return ""
