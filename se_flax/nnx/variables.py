"""Values of NNX variables, and the parts of a module, in the versions of Flax that are supported."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from flax import nnx


class Attribute(NamedTuple):
    """An attribute of a module that is another module, or a list or dict that holds it; key is None without one."""

    holder: Any
    name: str
    key: Any = None


def read_value(variable: Any) -> Any:
    """Return a variable's value; return an array that a user put in its place unchanged."""
    if not isinstance(variable, nnx.Variable):
        return variable
    return variable.get_value() if hasattr(variable, "get_value") else variable.value  # Flax 0.12.0


def write_value(variable: Any, value: jax.Array) -> None:
    """Set a variable's value."""
    if hasattr(variable, "set_value"):
        variable.set_value(value)
    else:
        variable.value = value  # Flax 0.12.0


def list_children(module: Any) -> Iterator[tuple[str, Attribute, Any]]:
    """List the modules that a module has as attributes, or in lists and dicts, with their paths."""
    for name, value in vars(module).items():
        if isinstance(value, nnx.Module):
            yield name, Attribute(module, name), value
            continue
        for key, entry in _list_entries(value):
            if isinstance(entry, nnx.Module):
                yield f"{name}.{key}", Attribute(module, name, key), entry


def _list_entries(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple) or type(value) is getattr(nnx, "List", None):
        return list(enumerate(value))
    if type(value) is getattr(nnx, "Dict", None):
        return [(name, entry) for name, entry in vars(value).items() if not name.startswith("_")]
    return []


def set_attribute(attribute: Attribute, module: Any) -> None:
    """Put a module in the place of another."""
    holder, name, key = attribute
    value = getattr(holder, name)
    if key is None:
        setattr(holder, name, module)
    elif isinstance(value, tuple):
        setattr(holder, name, tuple(module if index == key else entry for index, entry in enumerate(value)))
    elif type(value) is getattr(nnx, "Dict", None):
        setattr(value, key, module)
    else:
        value[key] = module


def list_parts(module: Any) -> dict[str, Any]:
    """List a module and all modules inside it by path, once each."""
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(part: Any, path: str) -> None:
        if id(part) not in seen:
            seen.add(id(part))
            found[path] = part
            for name, _, child in list_children(part):
                visit(child, f"{path}.{name}" if path else name)

    visit(module, "")
    return found


def list_variables(module: Any) -> dict[str, Any]:
    """List the variables of a module by path, once each; not those of random number generators."""
    found: dict[str, Any] = {}
    for path, part in list_parts(module).items():
        for name, value in vars(part).items():
            entries = [(name, value)] if isinstance(value, nnx.Variable) else _name_entries(name, value)
            for inner, variable in entries:
                if isinstance(variable, nnx.Variable) and not any(variable is held for held in found.values()):
                    found[f"{path}.{inner}" if path else inner] = variable
    return found


def _name_entries(name: str, value: Any) -> list[tuple[str, Any]]:
    return [(f"{name}.{key}", entry) for key, entry in _list_entries(value)]
