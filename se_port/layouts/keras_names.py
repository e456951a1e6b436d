"""Keras 3 keeps variables by place; here the places get the names that the variables have in the model.

``layers/conv2d_1:stem_conv/0`` (see ``files.keras``) becomes ``stem_conv/kernel``: the layer's own name, and the name
of what a layer of that class keeps in that place. Layers of other classes stay as they are.
"""

import re
from collections import Counter
from collections.abc import Iterable

_KERNEL = ("kernel", "bias")
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
PLACES: dict[str, dict[int, tuple[str, ...]]] = {
    **{kind: {1: _KERNEL[:1], 2: _KERNEL} for kind in ("conv1d", "conv2d", "conv3d", "depthwise_conv2d", "dense")},
    # With three, Keras' scale or its center was turned off; the networks that are known have no scale.
    **{kind: {3: _NORM[1:], 4: _NORM} for kind in ("batch_normalization", "batch_norm")},
    **{f"squeeze_excitation/{name}": {1: _KERNEL[:1], 2: _KERNEL} for name in ("reduce", "expand")},
    # Files made before the projections were layers; a single projection is not told from two without biases.
    "squeeze_excitation": {
        2: ("reduce/kernel", "expand/kernel"),
        4: ("reduce/kernel", "reduce/bias", "expand/kernel", "expand/bias"),
    },
}
"""By a layer's class in snake case, or its name within a block of ``se_keras``, and how many variables it has."""
_PART = re.compile(r"([a-z0-9_]+?)(?:_\d+)?:([^:]+)")


def named(names: Iterable[str]) -> dict[str, str]:
    """The file's names, each with the model's.

    >>> named(["layers/squeeze_excitation:se/reduce:reduce/0", "layers/squeeze_excitation:se/expand:expand/0"])
    {'layers/squeeze_excitation:se/reduce:reduce/0': 'se/reduce/kernel', \
'layers/squeeze_excitation:se/expand:expand/0': 'se/expand/kernel'}
    >>> list(named(["layers/squeeze_excitation:se/0", "layers/squeeze_excitation:se/1"]).values())
    ['se/reduce/kernel', 'se/expand/kernel']

    >>> named(["layers/conv2d_3:block1a_se_reduce/0", "layers/conv2d_3:block1a_se_reduce/1", "fc1/0"])
    {'layers/conv2d_3:block1a_se_reduce/0': 'block1a_se_reduce/kernel', \
'layers/conv2d_3:block1a_se_reduce/1': 'block1a_se_reduce/bias', 'fc1/0': 'fc1/0'}
    """
    names = list(names)
    counts = Counter(name.rpartition("/")[0] for name in names)
    found = {}
    for name in names:
        layer, _, place = name.rpartition("/")
        parts = [part for part in layer.split("/") if ":" in part]
        *outer, last = [_PART.fullmatch(part) for part in parts] if parts and layer.endswith(parts[-1]) else [None]
        within = f"{outer[-1][1]}/{last[1]}" if last and outer and outer[-1] else ""
        kind = within if within in PLACES else last[1] if last else ""
        known = PLACES.get(kind, {}).get(counts[layer]) if place.isdecimal() else None
        own = "/".join(part.partition(":")[2] for part in parts)
        found[name] = f"{own}/{known[int(place)]}" if known and int(place) < len(known) else name
    return found if len(set(found.values())) == len(found) else dict(zip(names, names, strict=True))
