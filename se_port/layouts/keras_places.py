"""Where ``se_keras.senet`` has a network's weights in a ``.weights.h5``, which Keras writes and reads by place.

A place is ``layers/batch_norm_3``: a layer's class, and how many of that class come before it in the model. A model's
layers are in the order of their distance from the logits, the longest first, and where that is the same as they are
come upon from the logits (``keras/src/ops/function.py``, ``map_graph``).
"""

from collections import Counter

from se_spec import NetworkSpec
from se_spec.networks import layers as kinds

from .keras_names import PLACES

_CLASSES: dict[type[kinds.Layer], str] = {
    kinds.Convolution: "conv2d",
    kinds.BatchNorm: "batch_norm",
    kinds.SqueezeExcitation: "squeeze_excitation",
    kinds.Dense: "dense",
}
"""Of layers that have weights, in snake case."""


def places(net: NetworkSpec) -> dict[str, str]:
    """A model's names, each with its place as ``files.keras`` writes it.

    >>> from se_spec import network
    >>> found = places(network("se_resnet20"))
    >>> found["stem_bn1/beta"], found["stage2_block0_conv1/kernel"], found["stage2_block0_shortcut_conv/kernel"]
    ('layers/batch_norm:stem_bn1/1', 'layers/conv2d_7:stage2_block0_conv1/0', \
'layers/conv2d_9:stage2_block0_shortcut_conv/0')
    """
    found: dict[str, str] = {}
    counts: Counter[str] = Counter()
    layers = {layer.name: layer for layer in net.layers}
    for path in _order(net):
        layer = layers.get(path)
        kind = _CLASSES.get(type(layer)) if layer else None
        if layer and kind:
            part, own = f"{kind}_{counts[kind]}" if counts[kind] else kind, path.replace(".", "_")
            counts[kind] += 1
            within = Counter(name.rpartition(".")[0] for name in layer.parameter_shapes())  # parts of a block, or ""
            for inner, number in within.items():
                at, key = (f"/{inner}:{inner}", f"/{inner}") if inner else ("", "")
                for place, name in enumerate(PLACES[kind + key][number]):
                    found[f"{own}{key}/{name}"] = f"layers/{part}:{own}{at}/{place}"
    return found


def _order(net: NetworkSpec) -> list[str]:
    """Paths of layers, and of the padding that stands before a convolution, as the model has them."""
    inputs: dict[str, tuple[str, ...]] = {}
    for layer in net.layers:
        if isinstance(layer, kinds.Convolution) and _is_padded_before(layer):
            inputs[f"{layer.name} padding"] = layer.inputs
            inputs[layer.name] = (f"{layer.name} padding",)
        else:
            inputs[layer.name] = layer.inputs
    distances: Counter[str] = Counter()
    for path, taken in reversed(inputs.items()):
        for source in taken:
            distances[source] = max(distances[source], distances[path] + 1)
    turns: dict[str, int] = {}
    coming = [net.layers[-1].name]
    while coming:
        path = coming.pop()
        if path not in turns:
            turns[path] = len(turns)
            coming += reversed(inputs.get(path, ()))
    return sorted(turns, key=lambda path: (-distances[path], turns[path]))


def _is_padded_before(layer: kinds.Convolution) -> bool:
    """Whether Keras' own padding, SAME or none, does not do (M-2)."""
    if layer.padding == "same":
        return False
    return any(layer.padding) and not (layer.stride == 1 and sum(layer.padding) == layer.kernel - 1)
