"""Files with which a loop would be quadratic: four times the file takes less than ten times as long."""

import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from se_port import find_blocks, formats
from se_port.formats import tensorflow
from se_port.formats._parts import select_part
from se_spec import SEError
from tests.se_port.attacks import builders as b

MAX_FACTOR = 10
"""Of time, where a file is four times as large; a quadratic loop has 16."""
MIN_SECONDS = 0.02
"""What is faster is not compared, since the noise is as large."""
MERSENNE = (1 << 61) - 1
"""Python's hash of a multiple of it is 0."""


def equal_hashes(path: Path, count: int) -> Path:
    keys = [(b.integer(number * MERSENNE), b"N") for number in range(1, count)]
    return b.torch_file(path / f"{count}.pth", b.dictionary(keys))


def one_list(path: Path, count: int) -> Path:
    shared = b"](" + b"N" * count + b"eq\0"
    keys = [(b.text("0"), shared), *((b.text(str(number)), b"h\0") for number in range(1, count))]
    return b.torch_file(path / f"{count}.pth", b.dictionary(keys))


def one_dictionary(path: Path, count: int) -> Path:
    shared = b.dictionary({str(number): b"N" for number in range(count)}) + b"q\0"
    keys = [(b.text("0"), shared), *((b.text(str(number)), b"h\0") for number in range(1, count))]
    return b.torch_file(path / f"{count}.pth", b.dictionary(keys))


def continuations(path: Path, count: int) -> Path:
    file = b.HDF5()
    messages = (b.message(16, struct.pack("<QQ", 8 + number, 0)) for number in range(count))
    root = file.add(b.header(*messages))
    return file.finish(path / f"{count}.h5", root)


def same_index_block(path: Path, count: int) -> Path:
    blocks = [b.block([(b"", b.HEADER)]), b.block([], [0] * 500)]
    handles = [(b"", 0), *((b"k%08d" % number, 1) for number in range(count))]
    return b.index_file(path / f"{count}.index", blocks, handles)


def same_constants(path: Path, count: int) -> Path:
    """Constants of one name in an ONNX graph: a long one, and many short ones."""
    from se_port.formats._wire import encode_field

    def node(size: int) -> bytes:
        value = b.onnx_tensor("", (size,), encode_field(9, bytes(4 * size)))
        attribute = encode_field(1, b"value") + encode_field(5, value)
        return encode_field(1, encode_field(2, b"a") + encode_field(4, b"Constant") + encode_field(5, attribute))

    graph = node(100 * count) + node(100 * count) + node(2) * count
    (path / f"{count}.onnx").write_bytes(encode_field(7, graph))
    return path / f"{count}.onnx"


def nested_paths(path: Path, count: int) -> Path:
    shapes = {}
    for number in range(count):
        prefix = "a." * (number % 200)
        shapes |= {f"{prefix}b{number}.fc1.weight": (1, 4), f"{prefix}b{number}.fc2.weight": (4, 1)}
    return b.safetensors_file(path / f"{count}.safetensors", shapes)


def blocks(path: Path, count: int) -> Path:
    shapes = {f"b{number}.{name}.weight": (1, 1) for number in range(count) for name in ("fc1", "fc2")}
    return b.safetensors_file(path / f"{count}.safetensors", shapes)


def one_place(path: Path, count: int) -> Path:
    shapes = {f"se/dense_{number}/kernel": (1, 1) for number in range(1, count)}
    return b.safetensors_file(path / f"{count}.safetensors", shapes)


READ: dict[str, tuple[Callable[[Path, int], Path], int]] = {
    "keys of one hash": (equal_hashes, 1500),
    "one list under many keys": (one_list, 2000),
    "one dictionary under many keys": (one_dictionary, 2000),
    "header continuations": (continuations, 4000),
    "one block of an index": (same_index_block, 1000),
    "constants of one name": (same_constants, 200),
}
SEARCHED = {
    "blocks": (blocks, 500),
    "blocks below each other": (nested_paths, 500),
    "blocks in one place": (one_place, 500),
}


def seconds(call: Callable[[Path], object], path: Path) -> float:
    """Measure the CPU's time, the shortest of three calls."""
    times = []
    for _ in range(3):
        begun = time.process_time()
        with suppress(SEError):
            call(path)
        times.append(time.process_time() - begun)
    return min(times)


@pytest.mark.parametrize("name", READ)
def test_reading_is_linear(tmp_path: Path, name: str) -> None:
    build, count = READ[name]
    first, second = (seconds(lambda path: dict(formats.read(path)), build(tmp_path, n)) for n in (count, 4 * count))
    assert second < max(MAX_FACTOR * first, MIN_SECONDS)


@pytest.mark.parametrize("name", SEARCHED)
def test_search_of_blocks_is_linear(tmp_path: Path, name: str) -> None:
    build, count = SEARCHED[name]
    first, second = (seconds(find_blocks, build(tmp_path, n)) for n in (count, 4 * count))
    assert second < max(MAX_FACTOR * first, MIN_SECONDS)


def test_one_mapping_under_many_keys_is_counted_once() -> None:
    calls = 0

    def is_tensor(item: object) -> bool:
        nonlocal calls
        calls += 1
        return item == "tensor"

    shared = dict.fromkeys(map(str, range(1000)), 1)
    value = {"model": {"w": "tensor"}} | {f"part{number}": shared for number in range(1000)}
    assert select_part(value, is_tensor, None) == {"w": "tensor"}
    assert calls < 10_000


def test_checksum_is_computed_once_per_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    formats.write(tmp_path / "x.index", {"a": np.ones(1000, np.float32), "b": np.ones(1000, np.float32)})
    sizes = []
    crc32c = tensorflow.crc32c
    monkeypatch.setattr(tensorflow, "crc32c", lambda data: sizes.append(len(data)) or crc32c(data))
    tensors = formats.read(tmp_path / "x.index")
    for _ in range(3):
        assert all(array.sum() == 1000 for array in tensors.values())
    assert sum(sizes) <= sum(file.stat().st_size for file in tmp_path.iterdir())


def test_checksum_of_a_zip_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from se_port.formats import _zips

    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(1000))
    count = 0
    crc32 = _zips.zlib.crc32

    def counted(data: bytes, start: int = 0) -> int:
        nonlocal count
        count += 1
        return crc32(data, start)

    monkeypatch.setattr(_zips.zlib, "crc32", counted)
    tensors = formats.read(tmp_path / "x.npz")
    assert [tensors["a"].size for _ in range(3)] == [1000] * 3 and count == 1
