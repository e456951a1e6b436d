"""Positions of a network's weights in the ``.weights.h5`` of ``se_keras.senet``; Keras reads it by position.

A position is such as ``layers/batch_norm_3``: a layer's class, and how many layers of that class come before it in the
model. Keras sorts a model's layers by their distance from the logits, the longest first; layers of one distance are in
the order in which a walk from the logits reaches them (``keras/src/ops/function.py``, ``map_graph``).
"""

from collections import Counter

from se_spec import NetworkSpec
from se_spec.networks import layers as kinds

from .keras_names import VARIABLE_NAMES

_CLASSES: dict[type[kinds.Layer], str] = {
    kinds.Convolution: "conv2d",
    kinds.BatchNorm: "batch_norm",
    kinds.SqueezeExcitation: "squeeze_excitation",
    kinds.Dense: "dense",
}
"""Keras's class, in snake case, for each layer that has weights."""


def keras_positions(net: NetworkSpec) -> dict[str, str]:
    """Map a model's names to positions, written as ``formats.keras`` writes them.

    >>> from se_spec import network
    >>> positions = keras_positions(network("se_resnet20"))
    >>> positions["stem_bn1/beta"], positions["stage2_block0_shortcut_conv/kernel"]
    ('layers/batch_norm:stem_bn1/1', 'layers/conv2d_9:stage2_block0_shortcut_conv/0')
    """
    positions: dict[str, str] = {}
    counts: Counter[str] = Counter()
    layers = {layer.name: layer for layer in net.layers}
    for path in _sort_as_keras(net):
        layer = layers.get(path)
        kind = _CLASSES.get(type(layer)) if layer else None
        if layer and kind:
            group = f"{kind}_{counts[kind]}" if counts[kind] else kind
            layer_name = path.replace(".", "_")
            counts[kind] += 1
            sizes = Counter(name.rpartition(".")[0] for name in layer.parameter_shapes())  # by projection, or ""
            for projection, number in sizes.items():
                inner, key = (f"/{projection}:{projection}", f"/{projection}") if projection else ("", "")
                for index, variable in enumerate(VARIABLE_NAMES[kind + key][number]):
                    positions[f"{layer_name}{key}/{variable}"] = f"layers/{group}:{layer_name}{inner}/{index}"
    return positions


def _sort_as_keras(net: NetworkSpec) -> list[str]:
    """Sort the paths of layers, and of the padding before a convolution, as Keras sorts a model's layers."""
    inputs: dict[str, tuple[str, ...]] = {}
    for layer in net.layers:
        if isinstance(layer, kinds.Convolution) and _needs_padding_layer(layer):
            inputs[f"{layer.name} padding"] = layer.inputs
            inputs[layer.name] = (f"{layer.name} padding",)
        else:
            inputs[layer.name] = layer.inputs
    distances: Counter[str] = Counter()
    for path, sources in reversed(inputs.items()):
        for source in sources:
            distances[source] = max(distances[source], distances[path] + 1)
    order: dict[str, int] = {}
    stack = [net.layers[-1].name]
    while stack:
        path = stack.pop()
        if path not in order:
            order[path] = len(order)
            stack += reversed(inputs.get(path, ()))
    return sorted(order, key=lambda path: (-distances[path], order[path]))


def _needs_padding_layer(layer: kinds.Convolution) -> bool:
    """Whether neither of Keras's own paddings, "same" and "valid", is the layer's (M-2)."""
    if layer.padding == "same":
        return False
    return any(layer.padding) and not (layer.stride == 1 and sum(layer.padding) == layer.kernel - 1)
