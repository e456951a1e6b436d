"""Keras 3 stores variables by position; this module restores the names that they have in the model.

``layers/conv2d_1:stem_conv/0`` (see ``formats.keras``) becomes ``stem_conv/kernel``: the layer's own name, and the name
of the variable that a layer of that class has at that position. Layers of other classes keep their positions.
"""

import re
from collections import Counter
from collections.abc import Iterable

_KERNEL = ("kernel", "bias")
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
VARIABLE_NAMES: dict[str, dict[int, tuple[str, ...]]] = {
    **{kind: {1: _KERNEL[:1], 2: _KERNEL} for kind in ("conv1d", "conv2d", "conv3d", "depthwise_conv2d", "dense")},
    # Three variables: scale or center was turned off; in the known networks it is the scale.
    **{kind: {3: _NORM[1:], 4: _NORM} for kind in ("batch_normalization", "batch_norm")},
    **{f"squeeze_excitation/{name}": {1: _KERNEL[:1], 2: _KERNEL} for name in ("reduce", "expand")},
    # Files from before the projections were layers; there, one projection with a bias looks like two without.
    "squeeze_excitation": {
        2: ("reduce/kernel", "expand/kernel"),
        4: ("reduce/kernel", "reduce/bias", "expand/kernel", "expand/bias"),
    },
}
"""Variables by a layer's class in snake case (or its name within a block of ``se_keras``) and their number."""
_GROUP = re.compile(r"([a-z0-9_]+?)(?:_\d+)?:([^:]+)")


def to_model_names(stored_names: Iterable[str]) -> dict[str, str]:
    """Map each name of the file to the model's.

    If two would become one, the file's names are kept.

    >>> to_model_names(["layers/squeeze_excitation:se/reduce:reduce/0", "layers/squeeze_excitation:se/expand:expand/0"])
    {'layers/squeeze_excitation:se/reduce:reduce/0': 'se/reduce/kernel', \
'layers/squeeze_excitation:se/expand:expand/0': 'se/expand/kernel'}
    >>> list(to_model_names(["layers/squeeze_excitation:se/0", "layers/squeeze_excitation:se/1"]).values())
    ['se/reduce/kernel', 'se/expand/kernel']

    >>> to_model_names(["layers/conv2d_3:block1a_se_reduce/0", "layers/conv2d_3:block1a_se_reduce/1", "fc1/0"])
    {'layers/conv2d_3:block1a_se_reduce/0': 'block1a_se_reduce/kernel', \
'layers/conv2d_3:block1a_se_reduce/1': 'block1a_se_reduce/bias', 'fc1/0': 'fc1/0'}
    """
    stored_names = list(stored_names)
    counts = Counter(name.rpartition("/")[0] for name in stored_names)
    names = {name: _to_model_name(name, counts) for name in stored_names}
    return names if len(set(names.values())) == len(names) else {name: name for name in stored_names}


def _to_model_name(stored: str, counts: Counter[str]) -> str:
    """Restore one name; ``counts`` are the variables of each layer."""
    layer, _, position = stored.rpartition("/")
    groups = [group for group in layer.split("/") if ":" in group]
    if not groups or not layer.endswith(groups[-1]) or not re.fullmatch("[0-9]{1,9}", position):
        return stored
    *outer, last = [_GROUP.fullmatch(group) for group in groups]
    if last is None:
        return stored
    within = f"{outer[-1][1]}/{last[1]}" if outer and outer[-1] else ""
    variables = VARIABLE_NAMES.get(within if within in VARIABLE_NAMES else last[1], {}).get(counts[layer], ())
    if int(position) >= len(variables):
        return stored
    layer_names = "/".join(group.partition(":")[2] for group in groups)
    return f"{layer_names}/{variables[int(position)]}"
