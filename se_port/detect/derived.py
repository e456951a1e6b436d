"""Weights that a file holds in parts: pruned, weight-normalized, spectrally normalized.

PyTorch stores such a weight under other names, and computes it at each call: ``torch.nn.utils.prune``, ``weight_norm``
and ``spectral_norm``, as hooks and as parametrizations (torch 2.13). Here it is computed once, in float64.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from se_spec import LayoutError
from se_spec.texts import shorten

from ..sources import Source

Arrays = list[np.ndarray]


class Form(NamedTuple):
    """One way to store a weight in parts.

    Args:
        parts: names of the parts; ``{}`` is ``weight`` or ``bias``.
        change: what is done.
        compute: the weight from its parts, in float64.
    """

    parts: tuple[str, ...]
    change: str
    compute: Callable[[Arrays], np.ndarray]


def _normalize_rows(parts: Arrays) -> np.ndarray:
    magnitude, direction = parts
    return magnitude * direction / np.sqrt((direction**2).sum(tuple(range(1, direction.ndim)), keepdims=True))


def _normalize_spectrum(parts: Arrays) -> np.ndarray:
    weight, u, *rest = parts
    matrix = weight.reshape(len(weight), -1)
    v = rest[0] if rest else matrix.T @ u / np.linalg.norm(matrix.T @ u)
    return weight / (u @ matrix @ v)


FORMS = (
    Form(("{}_orig", "{}_mask"), "the pruning mask is applied", lambda parts: parts[0] * parts[1]),
    Form(("{}_g", "{}_v"), "the weight norm is applied", _normalize_rows),
    Form(
        ("parametrizations.{}.original0", "parametrizations.{}.original1"),
        "the weight norm is applied",
        _normalize_rows,
    ),
    Form(("{}_orig", "{}_u", "{}_v"), "the spectral norm is applied", _normalize_spectrum),
    Form(("{}_orig", "{}_u"), "the spectral norm is applied", _normalize_spectrum),
    Form(
        ("parametrizations.{}.original", "parametrizations.{}.0._u", "parametrizations.{}.0._v"),
        "the spectral norm is applied",
        _normalize_spectrum,
    ),
)
_ADAPTED = re.compile(r"(?P<module>.*)\.base_layer\.(?P<leaf>weight|bias)")
"""A weight that peft has put behind an adapter."""
_PARTS = (
    re.compile(r"(?P<module>.*\.|)parametrizations\.(?P<leaf>weight|bias)\.original0?"),
    re.compile(r"(?P<module>.*\.|)(?P<leaf>weight|bias)(?:_orig|_g)"),
)


class Derived(NamedTuple):
    """A source whose weights are whole, and how each that was not became so."""

    source: Source
    changes: Mapping[str, str]


def derive_weights(source: Source) -> Derived:
    """Compute weights that are stored in parts; their parts are no tensors of the result.

    Raises:
        LayoutError: a parametrization is of another kind.

    >>> parts = {"fc.weight_orig": np.array([[1.0, 2.0]]), "fc.weight_mask": np.array([[0.0, 1.0]])}
    >>> from se_port.sources import open_source
    >>> derived = derive_weights(open_source(parts))
    >>> dict(derived.source), derived.changes
    ({'fc.weight': array([[0., 2.]])}, {'fc.weight': 'the pruning mask is applied'})
    """
    makers: dict[str, Callable[[], np.ndarray]] = {}
    used: set[str] = set()
    changes = {}
    for name in source:
        if adapted := _ADAPTED.fullmatch(name):
            makers[f"{adapted['module']}.{adapted['leaf']}"] = partial(source.__getitem__, name)
            used.add(name)
            continue
        found = next(filter(None, (pattern.fullmatch(name) for pattern in _PARTS)), None)
        whole = found["module"] + found["leaf"] if found else ""
        if not found or whole in source:
            continue
        forms = ((form, [found["module"] + part.format(found["leaf"]) for part in form.parts]) for form in FORMS)
        form, parts = next(
            ((form, parts) for form, parts in forms if all(part in source for part in parts)), (None, [])
        )
        if form is None:
            if "parametrizations." in name:
                raise LayoutError(
                    f"{shorten(name)} is of a parametrization that is not known; expected weight or spectral norm; "
                    "remove the parametrization before the model is saved"
                )
            continue
        makers[whole] = partial(_compute, source, form, parts)
        changes[whole] = form.change
        used.update(parts)
    if not makers:
        return Derived(source, {})
    kept = {name: partial(source.__getitem__, name) for name in source if name not in used}
    return Derived(Source(kept | makers, source.format, source.path), changes)


def _compute(source: Source, form: Form, parts: list[str]) -> np.ndarray:
    arrays = [source[name] for name in parts]
    with np.errstate(all="ignore"):
        value = form.compute([np.asarray(array, np.float64) for array in arrays])
    return value.astype(arrays[-1].dtype if form.compute is _normalize_rows else arrays[0].dtype)
