"""One generator of structurally valid hostile files for each format: ``generate(chance, folder)`` returns the path."""

import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from se_port.formats import mxnet, onnx, orbax, tensorflow, tfjs, tflite
from se_port.formats._graphdef import NUMBERS
from se_port.formats._wire import encode_field, encode_varint
from se_port.formats.npz import CODES as NPY_CODES
from se_port.formats.safetensors import CODES as SAFETENSORS_CODES
from tests.se_port.attacks import builders as b
from tests.se_port.formats import flatbuffers

from .grammar import Chance, Tensor, cut, nest, pack

Generator = Callable[[Chance, Path], Path]
EXPORT_CODES = {
    "uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float16": 6, "float32": 7, "float64": 8, "bool": 12,
}  # fmt: skip
ZARR_CODES = {code: name for name, code in orbax.DTYPES.items()}


def safetensors_file(chance: Chance, folder: Path) -> Path:
    """Write a header of JSON and the bytes of the tensors; sometimes with gaps, overlaps, or a name twice."""
    entries, data = [], b""
    for one in chance.tensors():
        start = max(0, len(data) + (chance.randrange(-4, 5) if chance.is_odd(30) else 0))
        fields = {"dtype": SAFETENSORS_CODES[one.dtype], "shape": list(chance.odd_shape(one.shape))}
        fields |= {"data_offsets": [start, start + len(one.data)]}
        entries.append(f"{json.dumps(one.name)}:{json.dumps(fields)}".encode())
        data += one.data
    if chance.is_odd():
        entries.append(b'"__metadata__":' + json.dumps({"se_suite": chance.pick(("", "{", "[" * 900))}).encode())
    header = b"{" + b",".join(cut(entries, chance)) + b"}"
    if chance.is_odd(40):
        header = b'{"a":' + nest(5000, b"1", lambda inner: b"[" + inner + b"]") + b"}"
    return b.raw_safetensors(folder / "x.safetensors", header, data)


def npz_file(chance: Chance, folder: Path) -> Path:
    """Write a zip of .npy members, stored or deflated, whose arrays may be longer than they announce."""
    with zipfile.ZipFile(folder / "x.npz", "w") as archive:
        for one in chance.tensors():
            name = one.name.replace("\0", "").replace("\\", "") or "x"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of a name twice, which is meant
                archive.writestr(f"{name}.npy", _npy(chance, one), chance.pick((0, 8)))
    return folder / "x.npz"


def _npy(chance: Chance, one: Tensor) -> bytes:
    description = {
        "descr": NPY_CODES[one.dtype],
        "fortran_order": chance.is_odd(),
        "shape": chance.odd_shape(one.shape),
    }
    text = repr(description) if not chance.is_odd(30) else "[" * 500
    header = text.encode() + b"\n"
    data = one.data + (bytes(1 << 22) if chance.is_odd(50) else b"")
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def torch_file(chance: Chance, folder: Path) -> Path:
    """Write a zip of a pickle and storages; tensors may share, expand or overrun them, and dictionaries nest."""
    items, storages = [], {}
    for number, one in enumerate(chance.tensors()):
        elements = len(one.data) // 4
        shape = one.shape if one.dtype in ("float32", "int32") else (elements,)
        strides = tuple(int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape)))
        if chance.is_odd():
            strides = tuple(chance.pick((0, 1, chance.number())) for _ in shape)
        key = "0" if chance.is_odd() else str(number)
        storages[f"_{key}"] = one.data[: 4 * elements]
        call = b.tensor(chance.odd_shape(shape), strides, elements, key, chance.pick(("Float", "Float", "Int")))
        items.append(b.text(one.name) + call)
    value = b"}(" + b"".join(cut(items, chance)) + b"u"
    if chance.is_odd():
        value = nest(chance.pick((1, 2, 70, 2000)), value, lambda inner: b"}(" + b.text("model") + inner + b"u")
    if chance.is_odd(20):
        value = b"}(" + b.text("a") + value + b"q\1" + b"".join(b.text(str(n)) + b"h\1" for n in range(300)) + b"u"
    if chance.is_odd(20):
        keys = (b.integer(n * chance.pick((1, (1 << 61) - 1))) + b"N" for n in range(1, 1000))
        value = b"}(" + b"".join(keys) + b.text("m") + value + b"u"
    return b.torch_file(folder / "x.pth", value, **storages)


def torchscript_file(chance: Chance, folder: Path) -> Path:
    """Write an archive of modules within modules, with constants and code."""
    path = torch_file(chance, folder)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    inner = members["x/data.pkl"][2:-1]
    if not chance.is_odd():
        depth = chance.pick((1, 2, 30, 1200))
        inner = nest(depth, inner, _wrap_module)
    with zipfile.ZipFile(folder / "x.pt", "w") as archive:
        members["x/data.pkl"] = b"\x80\2" + inner + b"."
        members["x/constants.pkl"] = b"\x80\2" + chance.pick((b")", b"N", b"]")) + b"."
        hostile = ("(" * 300, "x = " + "-" * 5000 + "1\n", "def forward(self):\n", "x = " + "9" * 5000)
        code = chance.pick(hostile) if chance.is_odd() else "class Net(Module):\n  pass\n"
        members["x/code/__torch__.py"] = code.encode()
        for name, data in members.items():
            archive.writestr(name, data)
    path.unlink()
    return folder / "x.pt"


def _wrap_module(state: bytes) -> bytes:
    """Encode a module whose attributes are a dictionary, or whose only attribute is a module."""
    attributes = state if state[:1] == b"}" else b"}" + b.text("m") + state + b"s"
    return b"c__torch__\nNet\n)\x81" + attributes + b"b"


def torch_export_file(chance: Chance, folder: Path) -> Path:
    """Write an archive of a program as JSON, with weights that a JSON describes."""
    config, members = {}, {}
    for number, one in enumerate(chance.tensors()):
        counts = [{"as_int": length} for length in chance.odd_shape(one.shape)]
        steps = [int(np.prod(one.shape[axis + 1 :], dtype=np.int64)) for axis in range(len(one.shape))]
        strides = [{"as_int": chance.pick((0, 1, chance.number())) if chance.is_odd(20) else step} for step in steps]
        code = EXPORT_CODES[one.dtype] if not chance.is_odd(30) else 99
        meta = {"dtype": code, "sizes": counts, "strides": strides, "storage_offset": {"as_int": 0}}
        place = f"weight_{0 if chance.is_odd(20) else number}"
        config[one.name] = {"path_name": place, "use_pickle": chance.is_odd(20), "tensor_meta": meta}
        members[f"x/data/weights/{place}"] = one.data
    graph: dict[str, object] = {"graph_module": {"graph": {"nodes": chance.pick(([], [{}] * 100, None)), "inputs": []}}}
    program = json.dumps(graph) if not chance.is_odd(20) else "[" * 3000
    with zipfile.ZipFile(folder / "x.pt2", "w") as archive:
        archive.writestr("x/archive_format", "pt2")
        archive.writestr("x/models/model.json", program)
        archive.writestr("x/data/weights/model_weights_config.json", json.dumps({"config": config}))
        archive.writestr("x/data/constants/model_constants_config.json", json.dumps({"config": {}}))
        for name, data in members.items():
            archive.writestr(name, data)
    return folder / "x.pt2"


def hdf5_file(chance: Chance, folder: Path) -> Path:
    """Write groups and datasets by position, which may overlap, repeat a name, be linked twice, or go in circles."""
    file = b.HDF5()
    members, previous = [], 0
    for number, one in enumerate(chance.tensors()):
        place = previous if chance.is_odd() and previous else file.add(one.data)
        previous = place
        count = chance.number() if chance.is_odd(20) else len(one.data) // 4
        stored = chance.number() % (1 << 63) if chance.is_odd(30) else min(4 * count, (1 << 63) - 1)
        dataset = file.dataset(place, min(count, (1 << 64) - 1), stored)
        members.append((str(0 if chance.is_odd(20) else number), dataset))
    group = file.group(members)
    for depth in range(chance.pick((1, 1, 2, 20))):
        name = "vars" if not depth else chance.pick(("layers", "dense", "a" * 900))
        links = [(name, group)] + ([("twin", group)] if chance.is_odd(12) else [])
        ring = b.message(16, struct.pack("<QQ", len(file.data), 24)) if chance.is_odd(20) else b""
        group = file.group(links, *([ring] if ring else []))
    return file.finish(folder / "x.weights.h5", group)


def mat_file(chance: Chance, folder: Path) -> Path:
    """Write parameters, compressed or not, of integers in or out of their class."""
    classes = {
        "float32": (7, 7),
        "float64": (6, 9),
        "int8": (8, 1),
        "uint8": (9, 2),
        "int16": (10, 3),
        "int32": (12, 5),
    }
    values = []
    for one in chance.tensors():
        kind, stored = classes.get(one.dtype, (9, 2))
        kind = chance.pick(list(classes.values()))[0] if chance.is_odd() else kind
        shape = tuple(min(length, (1 << 31) - 1) for length in chance.odd_shape(one.shape or (1, 1)))
        value = b.array_head(kind, shape) + b.element(stored, one.data)
        values.append((one.name.encode()[:4000], b.matrix(value)))
    body = b.parameters(*values)
    elements = []
    for _ in range(2 if chance.is_odd(12) else 1):
        if chance.is_odd(2):
            whole = struct.pack("<II", 14, len(body)) + body
            extra = chance.pick((0, 0, 0, 8, 1 << 20))
            packed = zlib.compress(whole + bytes(extra))
            elements.append(struct.pack("<II", 15, len(packed)) + packed)
        else:
            elements.append(b.matrix(body))
    return b.mat_file(folder / "x.mat", *elements)


def msgpack_file(chance: Chance, folder: Path) -> Path:
    """Write a tree of arrays, some in pieces, some within each other."""
    items = []
    for one in chance.tensors():
        shape = chance.odd_shape(one.shape)
        lengths = b"".join(b"\xcf" + pack("Q", length)[::-1] for length in shape)
        head = b"\x93\xdc" + struct.pack(">H", len(shape)) + lengths + b.packed_text(one.dtype)
        leaf = b.extension(head + b"\xc6" + struct.pack(">I", len(one.data)) + one.data)
        if chance.is_odd(16):
            leaf = nest(chance.pick((1, 3, 400)), leaf, b.extension)
        if chance.is_odd(12):
            pieces = b"\x81" + b.packed_text("0") + leaf
            leaf = (
                b"\x83\xb9__msgpack_chunked_array__\xc3" + b.packed_text("shape") + chance.pick((b"\x80", leaf, pieces))
            )
            leaf += b.packed_text("chunks") + chance.pick((pieces, b"\x90", leaf[:0] + b"\x80"))
        key = one.name.encode()[:60000]
        items.append(b"\xda" + struct.pack(">H", len(key)) + key + leaf)
    items = list(cut(items, chance))
    tree = b"\xdf" + struct.pack(">I", len(items)) + b"".join(items)
    if chance.is_odd():
        tree = nest(chance.pick((1, 60, 70, 1500)), tree, lambda inner: b"\x81" + b.packed_text("a") + inner)
    (folder / "x.msgpack").write_bytes(tree)
    return folder / "x.msgpack"


def onnx_file(chance: Chance, folder: Path) -> Path:
    """Write initializers, raw, typed, as varints or beside the model, and nodes with branches."""
    (folder / "data").write_bytes(bytes(64))
    tensors = []
    for one in chance.tensors():
        kind = next((n for n, name in enumerate(onnx.TYPES) if onnx.DTYPES.get(name) == one.dtype), 16)
        values = [encode_field(9, one.data)]
        if one.dtype in ("int8", "int32", "int64") and chance.is_odd(2):
            numbers = np.frombuffer(one.data, one.dtype).astype(np.int64).view(np.uint64).tolist()
            values = [encode_field(7 if one.dtype == "int64" else 5, b"".join(map(encode_varint, numbers)))]
        if chance.is_odd():
            values.append(b.onnx_external(chance.pick(("data", "../data", "x.onnx", "/etc/passwd", ""))))
        tensors.append(b.onnx_tensor(one.name, chance.odd_shape(one.shape), b"".join(cut(values, chance)), kind))
    graph = b"".join(encode_field(5, one) for one in cut(tensors, chance))
    for _ in range(chance.count(3)):
        operator = chance.pick((b"Conv", b"Gemm", b"Mul", b"GlobalAveragePool", b"Reshape", b"QLinearConv", b"If"))
        inputs = b"".join(encode_field(1, b"%d.w" % chance.randrange(4)) for _ in range(chance.randrange(10)))
        graph += encode_field(1, inputs + encode_field(2, b"y") + encode_field(4, operator))
    if chance.is_odd():
        depth = chance.pick((1, 20, 40, 900))
        graph = nest(depth, graph, lambda inner: encode_field(1, encode_field(5, encode_field(6, inner))))
    (folder / "x.onnx").write_bytes(encode_field(7, graph) * (2 if chance.is_odd(30) else 1))
    return folder / "x.onnx"


def caffe_file(chance: Chance, folder: Path) -> Path:
    """Write layers of both versions."""
    layers = []
    for one in chance.tensors():
        if one.dtype not in ("float32", "float64") and not chance.is_odd(30):
            one = one._replace(dtype="float32", data=bytes(4 * int(np.prod(one.shape, dtype=np.int64))))
        lengths = b"".join(encode_varint(length % (1 << 64)) for length in chance.odd_shape(one.shape))
        fields = [encode_field(7, encode_field(1, lengths)), encode_field(8 if one.dtype == "float64" else 5, one.data)]
        if chance.is_odd(12):
            fields.append(encode_field(chance.pick((1, 2, 3, 4)), chance.number() % (1 << 64)))
        blob = b"".join(cut(fields, chance))
        number, name, blobs = (2, 4, 6) if chance.is_odd(20) else (100, 1, 7)
        layers.append(encode_field(number, encode_field(name, one.name.encode()) + encode_field(blobs, blob)))
    (folder / "x.caffemodel").write_bytes(b"".join(cut(layers, chance)))
    return folder / "x.caffemodel"


def mxnet_file(chance: Chance, folder: Path) -> Path:
    """Write a list of arrays in every version."""
    tensors = [one for one in chance.tensors() if one.dtype in mxnet.CODES]
    data = mxnet.SIGNATURE + struct.pack("<Q", len(tensors))
    for one in tensors:
        version = chance.pick((mxnet.VERSION_1, mxnet.VERSION_2, mxnet.VERSION_3))
        shape = chance.odd_shape(one.shape)
        data += struct.pack("<I", version) + (b"" if version == mxnet.VERSION_1 else pack("I", chance.is_odd(20)))
        data += pack("I" + "Q" * len(shape), len(shape), *shape) + struct.pack("<3i", 1, 0, mxnet.CODES[one.dtype])
        data += one.data
    names = [one.name.encode() for one in tensors]
    data += struct.pack("<Q", len(names)) + b"".join(struct.pack("<Q", len(name)) + name for name in names)
    (folder / "x.params").write_bytes(data)
    return folder / "x.params"


def tensorflow_file(chance: Chance, folder: Path) -> Path:
    """Write an index of several blocks with right checksums, whose entries may overlap, and a data file."""
    numbers = {name: number for number, name in NUMBERS.items()}
    entries, data = {b"": b.HEADER}, b""
    for one in chance.tensors():
        axes = b"".join(encode_field(2, encode_field(1, length % (1 << 64))) for length in chance.odd_shape(one.shape))
        offset = chance.randrange(len(data) + 1) if chance.is_odd() else len(data)
        fields = [encode_field(1, numbers[one.dtype]), encode_field(2, axes), encode_field(4, offset)]
        fields.append(encode_field(5, chance.number() % (1 << 64) if chance.is_odd(30) else len(one.data)))
        data += one.data
        checksum = struct.pack("<I", tensorflow._mask(tensorflow.crc32c(one.data)))
        entries[one.name.encode()[:1000]] = b"".join(cut(fields, chance)) + b"\x35" + checksum
    pairs = sorted(entries.items())
    middle = chance.randrange(len(pairs)) + 1
    groups = [part for part in (pairs[:middle], pairs[middle:]) if part]
    blocks = [b.block(list(part), [0, chance.randrange(9)] if chance.is_odd(30) else None) for part in groups]
    handles = [(part[-1][0], number) for number, part in enumerate(groups)]
    if chance.is_odd():
        handles += [(b"\xff" * n, chance.randrange(len(blocks))) for n in range(1, chance.pick((2, 300)))]
    (folder / "x.data-00000-of-00001").write_bytes(data)
    return b.index_file(folder / "x.index", blocks, handles)


def graphdef_file(chance: Chance, folder: Path) -> Path:
    """Write nodes and functions that may call themselves; constants may be filled from one number."""
    numbers = {name: number for number, name in NUMBERS.items()}
    nodes = []
    for one in chance.tensors():
        axes = b"".join(encode_field(2, encode_field(1, length % (1 << 64))) for length in chance.odd_shape(one.shape))
        fields = [encode_field(1, numbers[one.dtype]), encode_field(2, axes), encode_field(4, one.data)]
        if chance.is_odd(6):
            fields[2] = chance.pick((b"", encode_field(5, bytes(4)), encode_field(7, b"\1"), encode_field(13, b"\1\2")))
        value = encode_field(1, b"value") + encode_field(2, encode_field(8, b"".join(cut(fields, chance))))
        node = encode_field(1, one.name.encode()) + encode_field(2, b"Const") + encode_field(5, value)
        nodes.append(encode_field(1, node))
    for number in range(chance.count(3)):
        operator = chance.pick((b"Conv2D", b"Mul", b"Mean", b"f", b"PartitionedCall", b"While"))
        inputs = b"".join(encode_field(3, b"n%d" % chance.randrange(4)) for _ in range(chance.randrange(4)))
        called = encode_field(1, b"f") + encode_field(2, encode_field(10, encode_field(1, b"f")))
        name = encode_field(1, b"n%d" % number)
        nodes.append(encode_field(1, name + encode_field(2, operator) + inputs + encode_field(5, called)))
    graph = b"".join(cut(nodes, chance))
    function = encode_field(1, encode_field(1, b"f")) + b"".join(
        encode_field(3, node[2:]) for node in nodes if len(node) < 100
    )
    if chance.is_odd(3):
        graph += encode_field(2, encode_field(1, function) * chance.pick((1, 1, 2)))
    (folder / "x.pb").write_bytes(graph or b"\x0a\0")
    return folder / "x.pb"


def tfjs_file(chance: Chance, folder: Path) -> Path:
    """Write a manifest and its files."""
    weights, data = [], b""
    for one in chance.tensors():
        if one.dtype not in tfjs.DTYPES and not chance.is_odd(20):
            one = one._replace(dtype="float32", data=bytes(4 * int(np.prod(one.shape, dtype=np.int64))))
        entry: dict[str, object] = {"name": one.name, "shape": list(chance.odd_shape(one.shape)), "dtype": one.dtype}
        if one.dtype in ("uint8", "float16"):
            scale = chance.pick((0.5, 1e300, "NaN", None))
            entry |= {"dtype": "float32", "quantization": {"dtype": one.dtype, "scale": scale, "min": 0}}
        weights.append(entry)
        data += one.data
    middle = chance.randrange(len(data) + 1)
    (folder / "1.bin").write_bytes(data[:middle])
    (folder / "2.bin").write_bytes(data[middle:])
    paths = ["1.bin", "2.bin"]
    if chance.is_odd():
        paths = chance.pick((["1.bin", "1.bin"], ["../1.bin"], ["1.bin"], [""], ["a" * 300]))
    nodes = [
        {
            "name": f"n{n}",
            "op": "Mul",
            "input": ["n0", "n1"],
            "attr": {"f": {"i": "9" * (30 if chance.is_odd(20) else 3)}},
        }
        for n in range(3)
    ]
    model = {"weightsManifest": [{"paths": paths, "weights": list(weights)}], "modelTopology": {"node": nodes}}
    text = json.dumps(model)
    if chance.is_odd(20):
        text = text[:-1] + ',"weightsManifest":' + chance.pick(("[]", "[" * 3000)) + "}"
    (folder / "model.json").write_text(text)
    return folder / "model.json"


def tflite_file(chance: Chance, folder: Path) -> Path:
    """Write tables that may be shared: tensors, buffers, operators."""
    buffers: list[dict[int, object]] = [{}]
    tensors: list[dict[int, object]] = []
    for one in chance.tensors():
        lengths = [min(length, (1 << 31) - 1) for length in chance.odd_shape(one.shape)]
        if not chance.is_odd(20):
            buffers.append({0: np.frombuffer(one.data, np.uint8)})
        if chance.is_odd(40):
            buffers[-1] |= {1: ("Q", chance.number() % (1 << 63)), 2: ("Q", chance.number() % (1 << 63))}
        kind = tflite.TYPES.index(one.dtype) if one.dtype in tflite.TYPES else 0
        table = {
            0: np.array(lengths, "<i4"),
            1: ("b", kind),
            2: ("I", len(buffers) - 1),
            3: np.frombuffer(one.name.encode(), np.uint8),
        }
        tensors += [table] * (chance.pick((2, 500)) if chance.is_odd(20) else 1)
    operators = [
        {0: ("I", chance.is_odd(20)), 1: np.arange(chance.randrange(2), dtype="<i4"), 2: np.zeros(1, "<i4")}
        for _ in range(chance.count(3))
    ]
    root = {0: ("I", 3), 1: [{0: ("b", chance.randrange(100))}], 2: [{0: tensors, 3: operators}], 4: buffers}
    (folder / "x.tflite").write_bytes(flatbuffers.encode(root))
    return folder / "x.tflite"


def paddle_file(chance: Chance, folder: Path) -> Path:
    """Write a program and its parameters in the order of their names."""
    codes = {
        "bool": 0,
        "int16": 1,
        "int32": 2,
        "int64": 3,
        "float16": 4,
        "float32": 5,
        "float64": 6,
        "uint8": 20,
        "int8": 21,
    }
    tensors = sorted(chance.tensors())
    variables, data = [], b""
    for one in tensors:
        kind = encode_field(2, encode_field(1, 7))
        variables.append(encode_field(3, encode_field(1, one.name.encode()) + kind + encode_field(3, 1)))
        axes = b"".join(encode_field(2, length % (1 << 64)) for length in chance.odd_shape(one.shape))
        description = encode_field(1, codes[one.dtype]) + axes
        data += struct.pack("<IQIi", 0, 0, 0, len(description)) + description + one.data
    operators = b"".join(encode_field(4, encode_field(3, b"elementwise_mul")) for _ in range(chance.count(3)))
    (folder / "x.pdmodel").write_bytes(encode_field(1, b"".join(cut(variables, chance)) + operators))
    (folder / "x.pdiparams").write_bytes(data or b"\0")
    return folder / "x.pdmodel"


def paddle_state_file(chance: Chance, folder: Path) -> Path:
    """Write a pickle of arrays, which may share bytes, or be encoded many times."""
    codes = {"float32": "f4", "float64": "f8", "int8": "i1", "int64": "i8", "uint8": "u1"}
    items = []
    for one in chance.tensors():
        shape = b"(" + b"".join(map(b.integer, chance.odd_shape(one.shape))) + b"t"
        new = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\1btR"
        kind = b"cnumpy\ndtype\n(" + b.text(codes.get(one.dtype, "f4")) + b"K\0K\1tR"
        data = b"B" + struct.pack("<I", len(one.data)) + one.data
        if chance.is_odd():
            data = b"c_codecs\nencode\n(" + b.text(one.data.decode("latin-1")) + b.text("latin1") + b"tR"
        call = new + b"(K\1" + shape + kind + b"\x89" + data + b"tb"
        items.append(b.text(one.name) + call)
    value = b"}(" + b"".join(cut(items, chance)) + b"u"
    if chance.is_odd():
        value = nest(chance.pick((1, 50, 1500)), value, lambda inner: b"}(" + b.text("a") + inner + b"u")
    (folder / "x.pdparams").write_bytes(b"\x80\3" + value + b".")
    return folder / "x.pdparams"


def orbax_folder(chance: Chance, folder: Path) -> Path:
    """Write a checkpoint of files, whose chunks may be missing, compressed, or of another size."""
    leaves: dict[str, dict[str, object]] = {}
    chunks: dict[str, bytes] = {}
    for number, one in enumerate(chance.tensors()[:20]):
        shape = list(chance.odd_shape(one.shape))
        leaves[f"leaf{number}"] = {"shape": shape, "chunks": [max(1, length) for length in shape]}
        leaves[f"leaf{number}"] |= {"dtype": ZARR_CODES[one.dtype]}
        is_compressed = chance.is_odd(4)
        if is_compressed:
            leaves[f"leaf{number}"] |= {"compressor": {"id": "zstd", "level": 1}}
        place = ".".join("0" for _ in shape) or "0"
        frame = b"\x28\xb5\x2f\xfd\xa0" + pack("I", len(one.data)) + pack("I", len(one.data) << 3 | 1)[:3] + one.data
        if not chance.is_odd(30) and len(shape) < 50 and 0 not in shape:
            chunks[f"leaf{number}/{place}"] = frame if is_compressed != chance.is_odd(30) else one.data
    return b.orbax_folder(folder / "x", leaves, chunks)


def hub_folder(chance: Chance, folder: Path) -> Path:
    """Write shards and their index, which may name files twice, elsewhere, or not at all."""
    names: dict[str, str] = {}
    for number in range(1, chance.pick((2, 3))):
        file = f"model-{number:05d}-of-00002.safetensors"
        path = safetensors_file(chance, folder)
        path.rename(folder / file)
        header = (folder / file).read_bytes()
        try:
            read = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
            names |= dict.fromkeys(read, file)
        except (ValueError, RecursionError):
            pass
    if chance.is_odd(6):
        names["other"] = chance.pick(("../x", "model-00001-of-00002.safetensors", "", "a" * 300, "."))
    names.pop("__metadata__", None)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder / "model.safetensors.index.json"


def keras_file(chance: Chance, folder: Path) -> Path:
    """Write HDF5, sometimes in an archive with a configuration."""
    path = hdf5_file(chance, folder)
    if chance.is_odd(2):
        return path
    layer: dict[str, object] = {"class_name": chance.pick(("Dense", "A" * 2000)), "config": {"name": chance.name(0)}}
    for _ in range(chance.pick((1, 2, 10, 300))):
        layer = {"class_name": "Functional", "config": {"layers": [layer] * chance.pick((1, 1, 2)), "name": "net"}}
        if len(json.dumps(layer)) > 100_000:
            break
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", chance.pick((0, 8))) as archive:
        archive.writestr("config.json", json.dumps(layer))
        archive.writestr("model.weights.h5", path.read_bytes())
    (folder / "x.keras").write_bytes(out.getvalue())
    return folder / "x.keras"


GENERATORS: dict[str, Generator] = {
    "hub": hub_folder,
    "safetensors": safetensors_file,
    "npz": npz_file,
    "torchscript": torchscript_file,
    "torch_export": torch_export_file,
    "paddle": paddle_file,
    "paddle_state": paddle_state_file,
    "torch": torch_file,
    "keras": keras_file,
    "msgpack": msgpack_file,
    "orbax": orbax_folder,
    "tensorflow": tensorflow_file,
    "caffe": caffe_file,
    "mxnet": mxnet_file,
    "matconvnet": mat_file,
    "onnx": onnx_file,
    "tflite": tflite_file,
    "graphdef": graphdef_file,
    "tfjs": tfjs_file,
}
"""By the format's name."""
