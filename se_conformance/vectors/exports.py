"""The frozen vectors as one JSON file, or as a header for C, for those who have no reader of safetensors."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from se_spec import HardSigmoid, LeakyReLU
from se_spec.nonlinearities import hard_sigmoid_numbers

from .frozen import FORMAT, Vector

JSON, HEADER = "vectors.json", "vectors.h"
PARAMETERS = ("reduce.weight", "reduce.bias", "expand.weight", "expand.bias")
_STRUCT = """\
#ifndef SE_VECTORS_H
#define SE_VECTORS_H
#include <stddef.h>

/* One block, one input and the right answer, all float32. Maps are (samples, positions, channels), weights are
   (outputs, inputs); a pointer is NULL where the block has no such parameter. */
typedef struct {
    const char *name, *squeeze, *activation, *gate; /* the last three as docs/SPEC.md names them */
    float slope;                                    /* of leaky_relu */
    float line[4];                                  /* of hard_sigmoid: slope, offset, low, high */
    float gain;
    int residual, samples, positions, channels, hidden; /* hidden is 0 with a single projection */
    const float *x, *reduce_weight, *reduce_bias, *expand_weight, *expand_bias, *y, *g;
} se_vector;
"""


def format_json(vectors: Iterable[Vector]) -> str:
    """Format vectors as JSON, a line for each; arrays are nested lists whose numbers round to the dtype exactly.

    Args:
        vectors: of any dtype.

    Returns:
        The text of ``vectors.json``.

    Example:
        >>> from se_conformance import vectors
        >>> first = json.loads(format_json(vectors.load()))["vectors"][0]
        >>> first["name"], first["shape"], sorted(first["parameters"])[:2]
        ('activation relu float32', [2, 2, 4, 6], ['expand.bias', 'expand.weight'])
    """
    lines = []
    for vector in vectors:
        entry: dict[str, Any] = {
            "name": vector.name,
            "dtype": vector.dtype,
            "shape": list(vector.x.shape),
            "spec": vector.spec.to_dict(),
            "parameters": {name: _to_lists(array) for name, array in vector.parameters.items()},
            **{name: _to_lists(getattr(vector, name)) for name in ("x", "y", "g")},
        }
        lines.append(json.dumps(entry, separators=(",", ":")))
    head = json.dumps({"format": FORMAT, "data_format": "channels_last", "count": len(lines)})
    return f'{head[:-1]}, "vectors": [\n' + ",\n".join(lines) + "\n]}\n"


def format_header(vectors: Iterable[Vector]) -> str:
    """Format the vectors in float32 as a header for C: an array of structures, ``SE_VECTORS``.

    Args:
        vectors: those of other dtypes, which C has not or few blocks in C accept, are left out.

    Returns:
        The text of ``vectors.h``.

    Example:
        >>> from se_conformance import vectors
        >>> "static const se_vector SE_VECTORS[] = {" in format_header(vectors.load())
        True
    """
    names: dict[bytes, str] = {}
    arrays, rows = [], []

    def name_array(array: np.ndarray | None) -> str:
        if array is None:
            return "NULL"
        data = array.tobytes()
        if data not in names:
            names[data] = f"se_array_{len(names)}"
            numbers = ", ".join(map(_to_literal, array.ravel()))
            arrays.append(f"static const float {names[data]}[] = {{{numbers}}};")
        return names[data]

    for vector in vectors:
        if vector.dtype == "float32":
            held = (vector.x, *(vector.parameters.get(name) for name in PARAMETERS), vector.y, vector.g)
            rows.append(f"    {{{', '.join((*_describe(vector), *map(name_array, held)))}}},")
    table = "\n".join(["static const se_vector SE_VECTORS[] = {", *rows, "};"])
    return "\n".join([_STRUCT, *arrays, "", table, f"enum {{ SE_VECTOR_COUNT = {len(rows)} }};", "#endif", ""])


def _describe(vector: Vector) -> list[str]:
    """Describe the spec and the sizes in the order of the structure."""
    spec, line = vector.spec, (0.0, 0.0, 0.0, 0.0)
    if spec.gate == "hard_sigmoid" or isinstance(spec.gate, HardSigmoid):
        numbers = hard_sigmoid_numbers(spec.gate)
        line = (numbers.slope, numbers.offset, numbers.low, numbers.high)
    activation = "leaky_relu" if isinstance(spec.activation, LeakyReLU) else str(spec.activation)
    gate = "hard_sigmoid" if isinstance(spec.gate, HardSigmoid) else str(spec.gate)
    samples, *space, channels = vector.x.shape
    sizes = (int(spec.residual), samples, int(np.prod(space)), channels, 0 if spec.single_projection else spec.hidden)
    return [
        *map(json.dumps, (vector.name, spec.squeeze, activation, gate)),
        _to_literal(spec.activation.slope if isinstance(spec.activation, LeakyReLU) else 0.0),
        f"{{{', '.join(map(_to_literal, line))}}}",
        _to_literal(spec.gain),
        *map(str, sizes),
    ]


def _to_literal(number: Any) -> str:
    """Write a finite float32 as C reads it: the shortest decimal that rounds to it."""
    text = str(np.float32(number))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _to_lists(array: np.ndarray) -> Any:
    """Convert an array to nested lists of the shortest decimals that round to its numbers."""
    if array.ndim > 1:
        return [_to_lists(row) for row in array]
    return [float(value) if array.dtype == np.float64 else float(str(np.float32(value))) for value in array]
