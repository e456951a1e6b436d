"""Paddle's inference models: a program, ``.pdmodel`` or PIR's ``.json``, and its parameters, ``.pdiparams``.

Source: ``paddle/fluid/framework/framework.proto``, ``lod_tensor.cc`` and ``paddle/fluid/pir/serialize_deserialize`` of
https://github.com/PaddlePaddle/Paddle. The program names its persistent variables; their tensors follow each other in
the other file in the order of the sorted names, each with its type and shape. ``read`` may be given any of the files.
Nothing is written: the file is a program, and weights are none. ``graphs.paddle`` reads the operators.

Not read: models with a file for each parameter, and programs of which the parameters are encrypted.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from se_spec.texts import quote

from . import _base
from ._base import Tensors, check_names, count_bytes, refuse, refuse_to_write
from ._buffers import array_from_buffer, decode_name, encode_name, little_endian_dtype, map_file
from ._json import decode_json
from ._wire import Cursor, decode_axes, iterate_fields, to_int64

NEEDS = ()

PROGRAM, JSON, PARAMETERS = ".pdmodel", ".json", ".pdiparams"
OLD_PROGRAM, OLD_PARAMETERS = "__model__", "__params__"
PIR_HEAD = b'{"base_code":'
PIR_MAGIC = b'"pir"'
BLOCKS, VARIABLES = 1, 3
"""Fields of a program: its blocks; and of a block: its variables."""
DENSE = 7
"""A variable's kind: a tensor."""
DTYPES = {
    0: "bool", 1: "int16", 2: "int32", 3: "int64", 4: "float16", 5: "float32", 6: "float64", 20: "uint8", 21: "int8",
    22: "bfloat16",
}  # fmt: skip
"""Names of dtypes by their numbers in ``VarType``."""
MAX_DESCRIPTION_BYTES = 1 << 12
MAX_LEVELS = 16
"""Levels of offsets (LoD) of a tensor; those of parameters have none."""


class Files(NamedTuple):
    """The two files of a model; ``is_pir`` if the program is PIR's JSON."""

    program: Path
    parameters: Path
    is_pir: bool


def find_files(path: Path) -> Files:
    """Find both files of a model, of which ``path`` is one.

    Raises:
        FileFormatError: the other is not there.
    """
    if path.name in (OLD_PROGRAM, OLD_PARAMETERS):
        programs, parameters = [path.with_name(OLD_PROGRAM)], path.with_name(OLD_PARAMETERS)
    else:
        stem = path.name.removesuffix(PROGRAM).removesuffix(JSON).removesuffix(PARAMETERS)
        programs = [path.with_name(stem + end) for end in (PROGRAM, JSON)]
        programs = [path] if path in programs else programs
        parameters = path.with_name(stem + PARAMETERS)
    program = next((one for one in programs if one.is_file()), None)
    if program is None:
        refuse(path, "has the parameters of a Paddle model, whose program is not there", f"{programs[0].name} with it")
    if not parameters.is_file():
        refuse(path, "is the program of a Paddle model, whose parameters are not there", f"{parameters.name} with it")
    return Files(program, parameters, program.name.endswith(JSON))


def read_pir(path: Path) -> list[dict[str, Any]]:
    """Read the operators of a PIR program's first block.

    Raises:
        FileFormatError: it is no such program.
    """
    value = decode_json(path, "the program", memoryview(map_file(path)))
    match value:
        case {"base_code": {"magic": "pir"}, "program": {"regions": [{"blocks": [{"ops": list(operators)}, *_]}, *_]}}:
            return [one for one in operators if type(one) is dict]
    refuse(path, "is no PIR program of Paddle", "one region with a block of operators")


def matches(path: Path, head: bytes) -> bool:
    """Whether the ending is Paddle's, or a JSON begins as a PIR program."""
    if not path.is_file():
        return False
    is_pir = head.startswith(PIR_HEAD) and PIR_MAGIC in head
    return is_pir or path.name.endswith((PROGRAM, PARAMETERS)) or path.name in (OLD_PROGRAM, OLD_PARAMETERS)


def read(path: Path) -> Tensors:
    """Read views of the mapped parameters, by their names in the program.

    Raises:
        FileFormatError: a file is missing or broken, or the parameters are not those of the program.
    """
    files = find_files(path)
    try:
        found = _iterate_pir_names(files.program) if files.is_pir else _iterate_names(files.program)
        names = sorted(islice(found, _base.MAX_TENSORS + 1))
        check_names(path, names)
    except RecursionError:
        refuse(path, "has a program that is nested too deep", "an undamaged copy")
    if not names:
        refuse(path, "is a Paddle model without parameters", "a program with weights")
    if len(set(names)) != len(names):
        refuse(path, "has two parameters of one name", "each name once")
    cursor = Cursor(path, memoryview(map_file(files.parameters)))
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        encode_name(path, name)
        tensors[name] = _read_tensor(cursor, name)
    if cursor.left:
        refuse(path, f"has {cursor.left:,} bytes that are no parameters of its program", "the parameters and no more")
    return tensors


def write(path: Path, tensors: Tensors) -> NoReturn:
    """Refuse to write.

    Raises:
        FileFormatError: always, since weights are no program.
    """
    refuse_to_write(path, "a Paddle model", tensors)


def _iterate_names(path: Path) -> Iterator[str]:
    """Yield the names of a program's persistent tensors."""
    for number, block in iterate_fields(path, memoryview(map_file(path))):
        if number != BLOCKS or not isinstance(block, memoryview):
            continue
        for field, variable in iterate_fields(path, block):
            if field != VARIABLES or not isinstance(variable, memoryview):
                continue
            name, kind, persistent = "", 0, 0
            for part, value in iterate_fields(path, variable):
                match part, value:
                    case 1, memoryview():
                        if name:
                            refuse(path, f"has the variable {quote(name)} with a second name", "a name per variable")
                        name = decode_name(path, value)
                    case 2, memoryview():
                        kind = next((v for n, v in iterate_fields(path, value) if n == 1 and isinstance(v, int)), 0)
                    case 3, int():
                        persistent = value
            if persistent and kind == DENSE:
                yield name


def _iterate_pir_names(path: Path) -> Iterator[str]:
    for operator in read_pir(path):
        name = pir_parameter_name(operator)
        if name:
            yield name


def pir_parameter_name(operator: dict[str, Any]) -> str:
    """Return the name of the parameter that an operator of PIR makes; nothing if it makes none."""
    match operator:
        case {"#": "p", "A": [_, _, _, str(name), *_]}:
            return name
    return ""


def _read_tensor(cursor: Cursor, name: str) -> np.ndarray:
    """Read the next tensor: versions, levels, description, values."""
    path = cursor.path
    version, levels = cursor.numbers("IQ")
    if version or levels > MAX_LEVELS:
        refuse(path, f"{quote(name)} is of version {version} with {levels} levels of offsets", "version 0")
    for _ in range(levels):
        cursor.read(cursor.number("Q"))
    version, size = cursor.numbers("Ii")
    if version or not 0 <= size <= MAX_DESCRIPTION_BYTES:
        refuse(path, f"{quote(name)} is of version {version}, described in {size:,} bytes", "version 0")
    code, shape = -1, []
    for number, value in iterate_fields(path, cursor.read(size)):
        match number, value:
            case 1, int():
                code = value
            case 2, (int() | memoryview()):
                shape += decode_axes(path, value)
            case (1, memoryview() | bytes()) | (2, bytes()):
                refuse(path, f"{quote(name)} is described by other numbers than Paddle writes", "a type and a shape")
    if to_int64(code) not in DTYPES:
        refuse(path, f"{quote(name)} is of the type {code}", f"one of {', '.join(DTYPES.values())}")
    dtype = little_endian_dtype(DTYPES[code])
    length = count_bytes(path, name, tuple(shape), dtype.itemsize, min(cursor.left, _base.MAX_BYTES))
    return array_from_buffer(path, name, cursor.read(length), dtype, tuple(shape))
