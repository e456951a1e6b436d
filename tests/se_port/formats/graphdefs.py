"""GraphDefs and SavedModels by hand, for tests."""

import struct

import numpy as np

from se_port.formats._graphdef import NUMBERS
from se_port.formats._wire import encode_field as field

TYPES = {name: number for number, name in NUMBERS.items()}


def text(number, value):
    """A field of text."""
    return field(number, value.encode())


def entry(number, key, value):
    """An entry of a map."""
    return field(number, text(1, key) + field(2, value))


def shape(lengths):
    """A TensorShapeProto."""
    return b"".join(field(2, field(1, length % 2**64)) for length in lengths)


def tensor(array, more=None):
    """A TensorProto with its bytes, or with the fields ``more`` in their place."""
    array = np.asarray(array)
    head = field(1, TYPES[array.dtype.name]) + field(2, shape(array.shape))
    return head + (field(4, array.tobytes()) if more is None else more)


def node(name, op, *inputs, **attributes):
    """A NodeDef; attributes are arrays, text, numbers, lists of integers or text, or AttrValues as bytes."""
    message = text(1, name) + text(2, op) + b"".join(text(3, one) for one in inputs)
    return message + b"".join(entry(5, key, attribute(value)) for key, value in attributes.items())


def attribute(value):
    """An AttrValue."""
    match value:
        case bytes():
            return value
        case bool():
            return field(5, int(value))
        case str():
            return text(2, value)
        case int():
            return field(3, value % 2**64)
        case float():
            return b"\x25" + struct.pack("<f", value)
        case list():
            return field(1, b"".join(text(2, one) if isinstance(one, str) else field(3, one) for one in value))
    return field(8, tensor(value))


def called(name):
    """An AttrValue that is a function's name."""
    return field(10, text(1, name))


def function(name, arguments, nodes, results):
    """A FunctionDef; results are tensors by the names of the outputs."""
    signature = text(1, name) + b"".join(field(2, text(1, one)) for one in arguments)
    signature += b"".join(field(3, text(1, one)) for one in results)
    body = b"".join(field(3, one) for one in nodes)
    return field(1, signature) + body + b"".join(field(4, text(1, key) + text(2, one)) for key, one in results.items())


def graph(nodes, functions=()):
    """A GraphDef."""
    library = b"".join(field(1, one) for one in functions)
    return b"".join(field(1, one) for one in nodes) + (field(2, library) if functions else b"")


def saved_model(graph, signatures=None, objects=b""):
    """A SavedModel; signatures are names of tensors, by the signature's name."""
    meta = field(2, graph)
    for name, outputs in (signatures or {}).items():
        meta += entry(5, name, b"".join(entry(2, str(i), text(1, one)) for i, one in enumerate(outputs)))
    return field(1, 1) + field(2, meta + (field(7, objects) if objects else b""))
