"""TensorFlow's checkpoints: files are exchanged with TensorFlow, and hostile ones are refused."""

import struct
from pathlib import Path

import numpy as np
import pytest

from se_port import formats
from se_port.formats import tensorflow
from se_port.formats._wire import encode_field, encode_varint
from se_port.sources import open_source
from se_spec import FileFormatError

from ...conftest import OnDemand
from . import fuzz
from .tensors import facts, is_mapped, one_of_each

tf2 = OnDemand("tensorflow")


def tensors() -> dict[str, np.ndarray]:
    """Make tensors, two empty ones among them, not in alphabetical order."""
    return {f"z/{name}": array for name, array in one_of_each(tensorflow.NUMBERS.values()).items()} | {
        "a/empty": np.zeros((2, 0), np.int64)
    }


def written(folder: Path, given: formats.Tensors) -> Path:
    formats.write(folder / "net.ckpt.index", given, "tensorflow", force=True)
    return folder / "net.ckpt.index"


def slow_crc32c(data: bytes) -> int:
    """Compute the checksum bit by bit."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def signed(data: bytes) -> bytes:
    """Compute the masked checksum that follows a block and is in an entry."""
    checksum = slow_crc32c(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def packed(number: int) -> bytes:
    """Encode a number below 16,384 with seven bits a byte."""
    return bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])


def block(*pairs: tuple[bytes, bytes]) -> bytes:
    """Encode a block: names that share nothing, one restart, not compressed."""
    data = b"".join(b"\0" + packed(len(key)) + packed(len(value)) + key + value for key, value in pairs)
    data += struct.pack("<2I", 0, 1)
    return data + b"\x00" + signed(data + b"\x00")


HEADER = b"\x08\x01\x1a\x02\x08\x01"
"""One shard; version 1."""
DATA = struct.pack("<2f", 1.5, -0.0)
ENTRY = b"\x08\x01" + b"\x12\x04\x12\x02\x08\x02" + b"\x28\x08" + b"\x35" + signed(DATA)
"""float32; a shape of one axis of 2; 8 bytes at 0; the checksum."""


def index(*pairs: tuple[bytes, bytes], compressed: bool = False) -> bytes:
    data = block(*pairs)
    if compressed:
        data = data[:-5] + b"\x01" + signed(data[:-5] + b"\x01")
    return table(data)


def table(data: bytes) -> bytes:
    """Encode an index around one block of names."""
    top, meta = block((b"~", b"\0" + packed(len(data) - 5))), block()
    places = b"".join(map(packed, (len(data), len(meta) - 5, len(data) + len(meta), len(top) - 5)))
    return data + meta + top + places.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def by_hand(folder: Path, data: bytes, shard: bytes | None = DATA) -> Path:
    (folder / "net.index").write_bytes(data)
    if shard is not None:
        (folder / "net.data-00000-of-00001").write_bytes(shard)
    return folder / "net.index"


def test_checksum_equals_the_published_value():
    assert tensorflow.crc32c(b"123456789") == 0xE3069283  # of RFC 3720's polynomial, as published
    draw = np.random.default_rng(1)
    for size in (*range(20), 100, 4095, 4096, 4097, 50_001):
        data = draw.bytes(size)
        assert tensorflow.crc32c(data) == slow_crc32c(data)


def test_checksum_of_chunks_equals_that_of_the_whole(monkeypatch):
    monkeypatch.setattr(tensorflow, "CHUNK_BYTES", 1000)
    data = np.random.default_rng(1).bytes(5003)
    assert tensorflow.crc32c(data) == slow_crc32c(data)


def test_typed_file_is_read(tmp_path):
    path = by_hand(tmp_path, index((b"", HEADER), (b"conv/W", ENTRY), (b"text", b"\x08\x07")))
    assert tensorflow.matches(path, b"") and tensorflow.matches(tmp_path / "net", b"")
    assert tensorflow.matches(tmp_path, b"") and not tensorflow.matches(tmp_path / "other", b"")
    for given in (path, tmp_path / "net", tmp_path):
        assert facts(formats.read(given, "tensorflow")) == facts({"conv/W": np.array([1.5, -0.0], np.float32)})
    assert is_mapped(formats.read(path, "tensorflow")["conv/W"])


@pytest.mark.framework("keras")
def test_tensorflow_reads_written_files(tmp_path, tf):
    written(tmp_path, tensors())
    reader = tf.train.load_checkpoint(str(tmp_path / "net.ckpt"))
    assert set(reader.get_variable_to_shape_map()) == set(tensors())
    assert facts({name: reader.get_tensor(name) for name in tensors()}) == facts(tensors())


def write_with_tensorflow_2(folder: Path, *, saved_model: bool) -> tuple[Path, formats.Tensors]:
    """Write a module as a checkpoint or as a SavedModel."""
    module = tf2.Module()
    module.kernel = tf2.Variable(np.arange(12, dtype=np.float32).reshape(3, 4))
    module.steps = [tf2.Variable(2), tf2.Variable(tf2.zeros(2, tf2.bfloat16))]
    inner = {
        "kernel/.ATTRIBUTES/VARIABLE_VALUE": module.kernel.numpy(),
        "steps/0/.ATTRIBUTES/VARIABLE_VALUE": np.array(2, np.int32),
        "steps/1/.ATTRIBUTES/VARIABLE_VALUE": np.zeros(2, formats.bfloat16()),
    }
    if saved_model:
        tf2.saved_model.save(module, str(folder / "saved"))
        return folder / "saved", inner
    tf2.train.Checkpoint(net=module).write(str(folder / "two"))
    return folder / "two", {f"net/{name}": array for name, array in inner.items()}


def write_with_tensorflow_1(folder: Path) -> tuple[Path, formats.Tensors]:
    """Write 150 variables in two data files, and in ``sliced.ckpt`` one more in slices; an index has several blocks."""
    v1, drawn = tf2.compat.v1, np.random.default_rng(1)
    expected = {f"group/block{number}/conv/W": drawn.random((2, 3)) for number in range(150)}
    with tf2.Graph().as_default():
        variables = []
        for number, (name, array) in enumerate(expected.items()):
            with tf2.device(f"/job:localhost/replica:0/task:0/device:CPU:{number % 2}"):
                variables.append(v1.get_variable(name, initializer=array))
        v1.get_variable("sliced", shape=(10, 4), partitioner=v1.fixed_size_partitioner(2))
        two_cpus = v1.ConfigProto(device_count={"CPU": 2}, allow_soft_placement=True)
        with v1.Session(config=two_cpus) as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver(variables, sharded=True).save(session, str(folder / "one.ckpt"))
            v1.train.Saver().save(session, str(folder / "sliced.ckpt"))
    assert (folder / "one.ckpt.data-00001-of-00002").exists()
    return folder / "one.ckpt", expected


@pytest.mark.framework("keras")
@pytest.mark.usefixtures("tf")
def test_slices_and_several_checkpoints_are_refused(tmp_path):
    write_with_tensorflow_1(tmp_path)
    with pytest.raises(FileFormatError, match="in slices"):
        formats.read(tmp_path / "sliced.ckpt", "tensorflow")
    with pytest.raises(FileFormatError, match="2 checkpoints"):
        formats.read(tmp_path, "tensorflow")


def entry(dtype: int = 1, shape: bytes = b"\x12\x02\x08\x02", more: bytes = b"\x28\x08") -> bytes:
    return bytes([8, dtype, 0x12]) + packed(len(shape)) + shape + more + b"\x35" + signed(DATA)


HUGE = b"\xff" * 8 + b"\x7f"
HOSTILE = {
    "no header": (index(), "is empty"),
    "a header that has a name": (index((b"a", HEADER)), "the header"),
    "big end first": (index((b"", b"\x08\x01\x10\x01")), "little end first"),
    "no data files": (index((b"", b"\x08\x00")), "has 0 data files"),
    "many data files": (index((b"", b"\x08" + HUGE)), "data files"),
    "a data file beyond": (index((b"", HEADER), (b"a", entry(more=b"\x18\x05\x28\x08"))), "a tensor beyond them"),
    "compressed": (index((b"", HEADER), compressed=True), "compressed by method 1"),
    "names out of order": (index((b"", HEADER), (b"b", ENTRY), (b"a", ENTRY)), "after b'b'"),
    "a name twice": (index((b"", HEADER), (b"a", ENTRY), (b"a", ENTRY)), "each once"),
    "overlapping": (index((b"", HEADER), (b"a", ENTRY), (b"b", ENTRY)), "bytes of its own from 8 on"),
    "no text": (index((b"", HEADER), (b"\xff", ENTRY)), "not UTF-8"),
    "another dtype": (index((b"", HEADER), (b"a", entry(dtype=20))), "dtype 20"),
    "in slices": (index((b"", HEADER), (b"a", entry(more=b"\x28\x08\x3a\x00"))), "in slices"),
    "no shape": (index((b"", HEADER), (b"a", entry(shape=b"\x18\x01"))), "no known shape"),
    "a negative axis": (index((b"", HEADER), (b"a", entry(shape=b"\x12\x0b\x08" + b"\xff" * 9 + b"\x01"))), "negative"),
    "a large axis": (index((b"", HEADER), (b"a", entry(shape=b"\x12\x0a\x08" + HUGE))), "would take"),
    "a large axis and none": (
        index((b"", HEADER), (b"a", entry(shape=b"\x12\x0a\x08" + HUGE + b"\x12\x02\x08\x00", more=b""))), "would take"
    ),
    "many axes": (index((b"", HEADER), (b"a", entry(shape=b"\x12\x02\x08\x01" * 33, more=b""))), "33 axes"),
    "beyond the data": (index((b"", HEADER), (b"a", entry(more=b"\x20\x04\x28\x08"))), "bytes 4 to 12 of 8"),
    "another size": (index((b"", HEADER), (b"a", entry(more=b"\x28\x04"))), "has 4 bytes"),
    "no checksum": (index((b"", HEADER), (b"a", entry()[:-5])), "no checksum"),
    "another checksum": (index((b"", HEADER), (b"a", entry()[:-1] + b"\x00")), "another checksum"),
    "a field that does not end": (index((b"", HEADER), (b"a", b"\x12\x7f")), "announces 127 bytes"),
    "a number that does not end": (index((b"", HEADER), (b"a", b"\x08" + b"\xff" * 11)), "does not end"),
    "a damaged block": (index((b"", HEADER)).replace(HEADER, b"\x08\x02\x1a\x02\x08\x01"), "another checksum"),
    "empty": (b"", "not empty"),
    "short": (index((b"", HEADER))[-20:], "ends with"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path, data, words):
    with pytest.raises(FileFormatError) as error:
        dict(formats.read(by_hand(tmp_path, data), "tensorflow"))
    assert words in str(error.value) and "net.index" in str(error.value)


def of_objects(**keys: str) -> bytes:
    """Encode a TrackableObjectGraph of variables: the name that its layer gave to each, by its key."""
    attributes = [encode_field(2, full.encode()) + encode_field(3, key.encode()) for key, full in keys.items()]
    return b"".join(encode_field(1, encode_field(2, encode_field(1, b"VALUE") + one)) for one in attributes)


def with_objects(folder: Path, text: bytes, length: int | None = None, place: bytes = b"") -> Path:
    """Write a checkpoint of the variable ``a``, and a text behind its length and the checksum of that."""
    stored = encode_varint(len(text) if length is None else length) + bytes(4) + text
    entry = b"\x08\x07\x12\x00" + (place or b"\x20\x08") + b"\x28" + encode_varint(len(stored)) + b"\x35" + bytes(4)
    pairs = (b"", HEADER), (b"_CHECKPOINTABLE_OBJECT_GRAPH", entry), (b"a", ENTRY)
    return by_hand(folder, index(*pairs), DATA + stored)


def test_variables_have_the_names_that_their_layers_gave(tmp_path):
    path = with_objects(tmp_path, of_objects(a="se_reduce/kernel:0", b="no such variable"))
    assert tensorflow.read_full_names(path) == {"a": "se_reduce/kernel", "b": "no such variable"}
    assert list(open_source(path)) == ["se_reduce/kernel"]
    assert list(formats.read(path)) == ["a"]
    assert list(open_source(with_objects(tmp_path, of_objects(a="Variable")))) == ["a"]


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (b"", {"length": 9}, "in 9 of 5 bytes"),
        (b"", {"length": 2**60}, "bytes"),
        (b"", {"place": b"\x20\x7f"}, "one within"),
        (b"", {"place": b"\x20" + b"\xff" * 9 + b"\x01"}, "one within"),
        (b"", {"place": b"\x18\x07"}, "one within 0 bytes"),
        (b"\x0a\x7f", {}, "announces 127 bytes"),
        (encode_field(1, encode_field(2, encode_field(2, b"\xff") + encode_field(3, b"a"))), {}, "not UTF-8"),
    ],
)
def test_broken_text_of_objects_is_refused(tmp_path, text, options, words):
    with pytest.raises(FileFormatError, match=words):
        open_source(with_objects(tmp_path, text, **options))


def test_mutated_texts_of_objects_are_read_or_refused(tmp_path):
    text, found = of_objects(a="se_reduce/kernel", b="se_expand/kernel"), 0
    for number in range(500):
        path = with_objects(tmp_path, fuzz.mutate(text, number))
        try:
            found += "se_reduce/kernel" in open_source(path)
        except FileFormatError:
            continue
    assert 0 < found < 500


def test_missing_data_file_is_an_error(tmp_path):
    path = by_hand(tmp_path, index((b"", HEADER), (b"a", ENTRY)), shard=None)
    with pytest.raises(FileFormatError, match=r"net.data-00000-of-00001: is not there"):
        formats.read(path, "tensorflow")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"": np.zeros(1)}, "is no name"),
        ({"\0a": np.zeros(1)}, "is no name"),
        ({"a" * 2000: np.zeros(1)}, "is no name"),
        ({"a": np.array(["text"])}, "which is <U4"),
    ],
)
def test_unsupported_tensors_are_not_written(tmp_path, given, words):
    with pytest.raises(FileFormatError, match=words):
        written(tmp_path, given)
    assert not list(tmp_path.iterdir())


def test_mutated_blocks_with_right_checksums_are_read_or_refused(tmp_path):
    """Mutations with wrong checksums would never reach the parsing behind them."""
    whole = block((b"", HEADER), (b"conv/W", ENTRY), (b"conv/b", b"\x08\x07"))[:-5]
    refused = 0
    for number in range(1000):
        data = fuzz.mutate(whole, number)
        path = by_hand(tmp_path, table(data + b"\x00" + signed(data + b"\x00")))
        try:
            dict(formats.read(path, "tensorflow"))
        except FileFormatError:
            refused += 1
    assert 500 < refused < 1000
