"""Names in TensorFlow 2's checkpoints: the layers' instead of the objects'."""

from collections.abc import Iterable, Mapping

from ..graphs.paths import make_distinct


def to_layer_names(keys: Iterable[str], full_names: Mapping[str, str]) -> dict[str, str]:
    """Rename variables as their layers do, where such a name has a layer in it.

    Keras saves some variables twice under two keys: the shorter one gets the name, the other is its ``#2``.

    Args:
        keys: of a checkpoint, in its order.
        full_names: what ``formats.tensorflow.read_full_names`` found.

    Returns:
        Each key with its name, in the order of the keys.

    >>> to_layer_names(["m/1/k", "n"], {"m/1/k": "block1a_se_reduce/kernel", "n": "Variable"})
    {'m/1/k': 'block1a_se_reduce/kernel', 'n': 'n'}
    """
    keys = list(keys)
    named = [key for key in sorted(keys, key=len) if "/" in full_names.get(key, "")]
    names = dict(zip(named, make_distinct([full_names[key] for key in named]), strict=True))
    used = set(names.values()) | (set(keys) - set(names))
    return {key: names.get(key, key) for key in keys} if len(used) == len(keys) else {key: key for key in keys}
