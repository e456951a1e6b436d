"""What a user probably meant: names of other libraries, and misspelled ones."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

FIELDS = {
    "ratio": "reduction",
    "r": "reduction",
    "reduction_ratio": "reduction",
    "squeeze_factor": "reduction",
    "se_ratio": "hidden, a number of channels, or reduction, the inverse of a ratio below 1",
    "rd_ratio": "hidden, a number of channels, or reduction, the inverse of a ratio below 1",
    "rd_channels": "hidden",
    "squeeze_channels": "hidden",
    "hidden_channels": "hidden",
    "bottleneck": "hidden",
    "channel": "channels",
    "in_channels": "channels",
    "input_channels": "channels",
    "features": "channels",
    "filters": "channels",
    "use_bias": "bias",
    "act": "activation",
    "act_layer": "activation",
    "activation_layer": "activation",
    "gate_layer": "gate",
    "gate_activation": "gate",
    "gate_fn": "gate",
    "scale_activation": "gate",
    "pool": "squeeze",
    "pooling": "squeeze",
}
"""Names of arguments elsewhere, and the field of the spec that has their meaning."""
FUNCTIONS = {
    "swish": "silu",
    "hardswish": "hard_swish",
    "hswish": "hard_swish",
    "hardsigmoid": "hard_sigmoid",
    "hsigmoid": "hard_sigmoid",
    "leakyrelu": "LeakyReLU(slope=...), with its slope",
    "linear": "identity",
    "none": "identity",
    "gelunew": "gelu_tanh",
}
"""Functions by their names elsewhere, in lower case and without underscores."""
SQUEEZES = {"mean": "avg", "average": "avg", "maximum": "max", "both": "avg_max", "maxavg": "avg_max"}


def suggest_field(name: str, fields: Iterable[str]) -> str:
    """Return the end of a message about an unknown field: the fields that it may have meant, or nothing.

    >>> suggest_field("reductoin", ["channels", "reduction"]), suggest_field("ratio", ["reduction"])
    ('; did you mean reduction?', '; did you mean reduction?')
    """
    return _ask([FIELDS[name]] if name in FIELDS else get_close_matches(name, list(fields), 2, 0.6))


def suggest_value(value: Any, allowed: Iterable[str]) -> str:
    """Return the end of a message about a value: the allowed names that it may have meant, or nothing.

    Args:
        value: a name, or a function or class of a framework.
        allowed: the names to choose from.

    >>> suggest_value("hardswish", ["relu", "hard_swish"]), suggest_value(max, ["relu"])
    ("; did you mean 'hard_swish'?", '')
    """
    name = value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)
    plain = _simplify(name)
    spelled = {entry.replace("_", ""): entry for entry in allowed}
    known = FUNCTIONS.get(plain) or SQUEEZES.get(plain) or spelled.get(plain)
    if known and (known in spelled.values() or "(" in known):
        return _ask([repr(known) if known in spelled.values() else known])
    near = get_close_matches(plain, list(spelled), 2, 0.7) if isinstance(value, str) else []
    return _ask([repr(spelled[entry]) for entry in near])


def suggest_name(name: str, allowed: Iterable[str]) -> str:
    """Return the end of a message about an unknown name of a list: up to three that are near, or nothing.

    Dots separate the system from its name for the thing; other signs and capitals do not count.

    >>> suggest_name("SEModule", ["timm.SEModule", "torchvision.mobilenet_v3"])
    '; did you mean timm.SEModule?'
    >>> suggest_name("resnext-50", ["resnet50", "se_resnext50_32x4d"])
    '; did you mean se_resnext50_32x4d or resnet50?'
    """
    names = {entry: _simplify(entry) for entry in sorted(allowed, key=len)}
    plain = _simplify(name)
    if exact := [entry for entry, simple in names.items() if simple == plain]:
        return _ask(exact)
    last = plain.rpartition(".")[2]
    same = [entry for entry, simple in names.items() if last and plain == simple.rpartition(".")[2]]
    longer = [entry for entry, simple in names.items() if len(last) > 3 and last in simple.rpartition(".")[2]]
    close = get_close_matches(plain, list(names.values()), 3, 0.6)
    near = [entry for entry, simple in names.items() if simple in close]
    return _ask(list(dict.fromkeys([*same, *longer[:2], *near]))[:3])


def _simplify(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign.isalnum() or sign == ".")


def _ask(candidates: list[str]) -> str:
    return f"; did you mean {' or '.join(candidates)}?" if candidates else ""
