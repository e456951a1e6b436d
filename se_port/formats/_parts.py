"""Parts of a checkpoint: where a nested mapping keeps its tensors, and what is beside them."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from se_spec.texts import quote, shorten

from ._base import MAX_NAME, MAX_NAMES

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
OPEN = -1
"""Stands for the number of tensors of a mapping that is being counted."""
NESTED = "has one mapping in several places, or mappings nested more than 64 deep"
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
        listed = ", ".join(f"{shorten(key, 40)} ({parts[key]} tensors)" for key in usual)
        raise ValueError(f"holds tensors in {listed}; choose one with part={usual[0]!r} or --part {usual[0]}")
    if usual:
        return flatten(value[usual[0]], is_tensor)
    if top:
        return flatten(value, is_tensor)
    if parts:
        return flatten(value, is_tensor)
    raise ValueError(
        f"has no tensors where they are expected; its keys are {[shorten(key, 40) for key in islice(value, MAX_SHOWN)]}"
    )


def find_parts(value: Mapping[Any, Any], is_tensor: Callable[[Any], bool]) -> dict[str, int]:
    """Count the tensors of each nested mapping that may be a model; a mapping under many keys is counted once."""
    known: dict[int, int] = {}
    counts = {
        key: _count(item, is_tensor, known, 0)
        for key, item in value.items()
        if isinstance(item, Mapping) and isinstance(key, str) and not key.startswith(OPTIMIZERS)
    }
    return {key: count for key, count in counts.items() if count}


def _count(value: Mapping[Any, Any], is_tensor: Callable[[Any], bool], known: dict[int, int], depth: int) -> int:
    """Count the tensors of a nested mapping, as ``_walk`` finds them.

    Args:
        value: the mapping.
        is_tensor: whether an item is a tensor.
        known: counts of mappings by their identity, and of lists, which have none; it is filled.
        depth: number of mappings around it.
    """
    if known.get(id(value), 0) == OPEN or depth > MAX_DEPTH:
        raise ValueError(NESTED)
    if id(value) in known:
        return known[id(value)]
    known[id(value)], count = OPEN, 0
    for key, item in value.items():
        if is_tensor(item):
            count += 1
        elif isinstance(item, list | tuple):
            _check_list(key, item, is_tensor, known)
        elif isinstance(item, Mapping) and not str(key).startswith(OPTIMIZERS):
            count += _count(item, is_tensor, known, depth + 1)
    known[id(value)] = count
    return count


def _check_list(key: Any, item: Any, is_tensor: Callable[[Any], bool], known: dict[int, int]) -> None:
    """Refuse a list with tensors; a list under many keys is searched once."""
    if id(item) not in known:
        known[id(item)] = 0
        if any(map(is_tensor, item)):
            raise ValueError(f"has tensors under {quote(key)} that have no name of their own")


def flatten(value: Mapping[Any, Any], is_tensor: Callable[[Any], bool]) -> dict[str, Any]:
    """Join the names of nested mappings by dots.

    Raises:
        ValueError: two tensors get one name, a mapping is in several places, or names are too many or too long.
    """
    tensors: dict[str, Any] = {}
    characters = 0
    for name, item in _walk(value, is_tensor, {}):
        if name in tensors:
            raise ValueError(f"has two tensors that would be named {quote(name)}")
        tensors[name] = item
        characters += len(name)
        if characters > MAX_NAMES:
            raise ValueError(f"has names of more than {MAX_NAMES:,} characters together")
    return tensors


def _walk(
    value: Mapping[Any, Any], is_tensor: Callable[[Any], bool], known: dict[int, int], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield name and tensor of a nested mapping; each mapping is visited once, whatever its place."""
    if id(value) in known or prefix.count(".") > MAX_DEPTH:
        raise ValueError(NESTED)
    known[id(value)] = 0
    for key, item in value.items():
        if is_tensor(item):
            yield prefix + _name(key), item
        elif isinstance(item, list | tuple):
            _check_list(key, item, is_tensor, known)
        elif isinstance(item, Mapping) and not str(key).startswith(OPTIMIZERS):
            name = prefix + _name(key)
            if len(name) > MAX_NAME:
                raise ValueError(f"has the name {quote(name)} of {len(name):,} characters")
            yield from _walk(item, is_tensor, known, f"{name}.")


def _name(key: Any) -> str:
    """Return a key as a part of a name; a flattened tree has tuples."""
    return ".".join(map(str, key)) if isinstance(key, tuple) else str(key)


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
        parts = islice(find_parts(value, is_tensor).items(), MAX_SHOWN)
        listed = ", ".join(f"{shorten(key, 40)} ({count} tensors)" for key, count in parts)
        raise ValueError(f"has no part {part!r} with tensors; it has {listed or 'no parts'}")
    return tensors
