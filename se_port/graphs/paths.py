"""Paths of blocks in a graph."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence


def common_path(weights: list[str], node: str) -> str:
    """Return the module that has all these weights, or else the scope of a node.

    Args:
        weights: names of constants in the file; ``""`` is left out.
        node: the name of the block's last node.

    >>> common_path(["net.se.fc1.weight", "net.se.fc2.weight"], "/net/se/Mul")
    'net.se'
    >>> common_path(["block1a_se_reduce/kernel", "block1a_se_expand/kernel"], "multiply")
    'block1a_se'
    >>> common_path(["conv2d_96.w_0", "conv2d_97.w_0"], "Mul.7"), common_path(["onnx::Conv_9"], "/net/se/Mul")
    ('Mul.7', 'net.se')
    >>> common_path(["net/block1a_se_reduce/convolution;net/relu", "net/block1a_se_expand/convolution"], "Mul")
    'net/block1a_se'
    >>> common_path(["net/se_conv_1/convolution", "net/se_conv_1_2/convolution"], "Mul")
    'net/se'
    >>> common_path([], "/features/features.3/se/Mul")
    'features.3.se'
    """
    names = [name.partition(";")[0] for name in weights if name]  # TensorFlow Lite joins the names of fused operators
    elements = [re.split(r"([./])", name) for name in names]
    # The last two elements are a parameter and its layer.
    shared = _common_start([parts[:-4] if len(names) == 1 else parts[:-1] for parts in elements])
    path = "".join(shared).strip("./")
    if len(names) > 1 and (not path or "/" in names[0]):
        prefix = "".join(_common_start(names))
        if any(name[len(prefix) :].startswith(("/", ".")) for name in names):  # se_conv and se_conv_1
            prefix = re.sub(r"(_\d+)+$", "", prefix)
        start = prefix[: prefix.rfind("_") + 1]
        if len(start) > len(path) + 1 and all(re.match(r"[A-Za-z]", name[len(start) :]) for name in names):
            return start.rstrip("_")
    if path:
        return path
    if node.startswith("/"):  # PyTorch: each module with the names of those around it that are containers
        scopes = node.strip("/").split("/")[:-1]
        kept = [s for s, after in zip(scopes, [*scopes[1:], ""], strict=True) if not after.startswith(f"{s}.")]
        return ".".join(kept) or node
    return node.rpartition("/")[0] or node


def _common_start(sequences: Sequence[Sequence[str]]) -> list[str]:
    columns = zip(*sequences, strict=False)
    return [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]


def make_distinct(paths: list[str]) -> list[str]:
    """Append numbers to paths that occur more than once.

    >>> make_distinct(["se", "net", "se"])
    ['se', 'net', 'se#2']
    """
    seen: Counter[str] = Counter()
    distinct = []
    for path in paths:
        seen[path] += 1
        distinct.append(path if seen[path] == 1 else f"{path}#{seen[path]}")
    return distinct
