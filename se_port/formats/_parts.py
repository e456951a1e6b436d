"""Parts of a checkpoint: where a nested mapping keeps its tensors, and what is beside them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

USUAL = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "network",
    "net",
    "weights",
    "params",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "params_ema",
    "ema",
)
"""Keys under which a checkpoint may keep its tensors."""
OPTIMIZERS = ("optimizer", "optim", "scheduler", "scaler", "rng", "amp", "lr_")
"""Beginnings of keys whose tensors are those of a training, not of a model."""
MAX_SHOWN = 20
MAX_DEPTH = 64
"""Of mappings in mappings, and of dots in a name before one."""


def select_part(value: Mapping[Any, Any], is_tensor: Callable[[Any], bool], part: str | None) -> dict[str, Any]:
    """Select the tensors of a model, by their names, from a checkpoint.

    Args:
        value: the checkpoint; mappings within it are nested.
        is_tensor: whether an item is a tensor.
        part: the key of the mapping to take, with dots where it is nested; None takes the only one, or the top.

    Returns:
        Names to tensors; names of nested mappings are joined by dots.

    Raises:
        ValueError: there is no such part, or there are several; the message lists them.

    >>> checkpoint = {"epoch": 3, "model": {"a": 1.5}, "model_ema": {"a": 2.5}}
    >>> select_part(checkpoint, lambda item: type(item) is float, "model_ema")
    {'a': 2.5}
    """
    if part is not None:
        return _select_named(value, is_tensor, part)
    parts = find_parts(value, is_tensor)
    top = {key: item for key, item in value.items() if is_tensor(item)}
    usual = [key for key in parts if key in USUAL]
    if len(usual) > 1:
        listed = ", ".join(f"{key} ({parts[key]} tensors)" for key in usual)
        raise ValueError(f"holds tensors in {listed}; choose one with part={usual[0]!r} or --part {usual[0]}")
    if usual:
        return flatten(value[usual[0]], is_tensor)
    if top:
        return flatten(value, is_tensor)
    if parts:
        return flatten(value, is_tensor)
    raise ValueError(f"has no tensors where they are expected; its keys are {[str(key) for key in value][:MAX_SHOWN]}")


def find_parts(value: Mapping[Any, Any], is_tensor: Callable[[Any], bool]) -> dict[str, int]:
    """Count the tensors of each nested mapping that may be a model."""
    counts = {
        key: _count(item, is_tensor)
        for key, item in value.items()
        if isinstance(item, Mapping) and isinstance(key, str) and not key.startswith(OPTIMIZERS)
    }
    return {key: count for key, count in counts.items() if count}


def _count(value: Mapping[Any, Any], is_tensor: Callable[[Any], bool]) -> int:
    return sum(1 for _ in _walk(value, is_tensor, set()))


def flatten(value: Mapping[Any, Any], is_tensor: Callable[[Any], bool]) -> dict[str, Any]:
    """Join the names of nested mappings by dots.

    Raises:
        ValueError: two tensors get one name, or a mapping is in several places.
    """
    tensors: dict[str, Any] = {}
    for name, item in _walk(value, is_tensor, set()):
        if name in tensors:
            raise ValueError(f"has two tensors that would be named {name!r}")
        tensors[name] = item
    return tensors


def _walk(
    value: Mapping[Any, Any], is_tensor: Callable[[Any], bool], visited: set[int], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield name and tensor of a nested mapping; each mapping is visited once, whatever its place."""
    if id(value) in visited or prefix.count(".") > MAX_DEPTH:
        raise ValueError(f"has one mapping in several places, or mappings nested more than {MAX_DEPTH} deep")
    visited.add(id(value))
    for key, item in value.items():
        name = prefix + (".".join(map(str, key)) if isinstance(key, tuple) else str(key))
        if is_tensor(item):
            yield name, item
        elif isinstance(item, list | tuple) and any(map(is_tensor, item)):
            raise ValueError(f"has tensors under {key!r} that have no name of their own")
        elif isinstance(item, Mapping) and not str(key).startswith(OPTIMIZERS):
            yield from _walk(item, is_tensor, visited, f"{name}.")


def _select_named(value: Mapping[Any, Any], is_tensor: Callable[[Any], bool], part: str) -> dict[str, Any]:
    chosen: Any = value
    rest = part
    while rest:
        if not isinstance(chosen, Mapping):
            break
        if rest in chosen:
            chosen, rest = chosen[rest], ""
            continue
        key, dot, after = rest.partition(".")
        if key not in chosen or not dot:
            break
        chosen, rest = chosen[key], after
    if rest or not isinstance(chosen, Mapping) or not (tensors := flatten(chosen, is_tensor)):
        listed = ", ".join(f"{key} ({count} tensors)" for key, count in find_parts(value, is_tensor).items())
        raise ValueError(f"has no part {part!r} with tensors; it has {listed or 'no parts'}")
    return tensors
