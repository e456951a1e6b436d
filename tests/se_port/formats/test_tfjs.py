"""TensorFlow.js's models: weights across shards, quantized ones, and hostile manifests."""

import json
import struct

import numpy as np
import pytest

from se_port import formats
from se_port.formats import tfjs
from se_spec import FileFormatError

from . import fuzz
from .tensors import is_mapped, peak_memory

R = np.random.default_rng(0)
WEIGHTS = {
    "block1a_se_reduce/kernel": R.normal(size=(1, 1, 8, 2)).astype("f4"),
    "block1a_se_reduce/bias": R.normal(size=2).astype("f4"),
    "block1a_se_expand/kernel": R.normal(size=(1, 1, 2, 8)).astype("f4"),
    "block1a_se_expand/bias": R.normal(size=8).astype("f4"),
}


def entry(name, array, **more):
    dtype = {"i": "int32", "b": "bool", "c": "complex64"}.get(array.dtype.kind, "float32")
    return {"name": name, "shape": list(array.shape), "dtype": dtype, **more}


def save(folder, arrays=WEIGHTS, entries=None, topology=None, shard_bytes=1 << 22, form="layers-model", data=None):
    """Write a model of one group; its data in shards of a size."""
    folder.mkdir(exist_ok=True)
    data = b"".join(array.tobytes() for array in arrays.values()) if data is None else data
    shards = [data[start : start + shard_bytes] for start in range(0, len(data), shard_bytes)]
    for number, shard in enumerate(shards):
        (folder / f"group1-shard{number + 1}.bin").write_bytes(shard)
    entries = [entry(name, array) for name, array in arrays.items()] if entries is None else entries
    group = {"paths": [f"group1-shard{number + 1}.bin" for number in range(len(shards))], "weights": entries}
    model = {"format": form, "modelTopology": topology, "weightsManifest": [group]}
    (folder / "model.json").write_text(json.dumps(model))
    return folder / "model.json"


def test_weights_are_views_of_the_mapped_files(tmp_path):
    path = save(tmp_path)
    for given in (path, tmp_path):
        assert formats.format_of(given) == "tfjs"
        tensors = formats.read(given)
        assert list(tensors) == list(WEIGHTS)
        for name, array in WEIGHTS.items():
            np.testing.assert_array_equal(tensors[name], array)
            assert is_mapped(tensors[name])


def test_weights_may_lie_across_files(tmp_path):
    tensors = formats.read(save(tmp_path, shard_bytes=7))
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(tensors[name], array)


def test_quantized_weights_are_dequantized(tmp_path):
    half, small = R.normal(size=(2, 3)).astype("f2"), np.arange(6, dtype="u1").reshape(2, 3)
    wide, count = np.uint16([0, 65535]), np.uint8([0, 200])
    numbers = {"half": half, "small": small, "wide": wide, "count": count}
    ways = [
        {"dtype": "float16", "original_dtype": "float32"},
        {"dtype": "uint8", "scale": 0.5, "min": -1.0},
        {"dtype": "uint16", "scale": 1e-4, "min": 0},
        {"dtype": "uint8", "scale": 2, "min": -3},
    ]
    entries = [entry(name, array, quantization=way) for (name, array), way in zip(numbers.items(), ways, strict=True)]
    entries[1]["dtype"] = entries[2]["dtype"] = "float32"
    entries[3]["dtype"] = "int32"
    tensors = formats.read(save(tmp_path, numbers, entries))
    np.testing.assert_array_equal(tensors["half"], half)
    np.testing.assert_array_equal(tensors["small"], small * np.float32(0.5) - 1)
    np.testing.assert_array_equal(tensors["wide"], np.float32([0, 6.5535]))
    np.testing.assert_array_equal(tensors["count"], np.int32([-3, 397]))
    assert [array.dtype.name for array in tensors.values()] == ["float16", "float32", "float32", "int32"]


def test_texts_are_left_out(tmp_path):
    data = struct.pack("<I", 3) + b"abc" + struct.pack("<I", 0) + np.ones(2, "f4").tobytes()
    entries = [{"name": "text", "shape": [2], "dtype": "string"}, entry("w", np.ones(2, "f4"))]
    tensors = formats.read(save(tmp_path, entries=entries, data=data))
    np.testing.assert_array_equal(tensors["w"], np.ones(2))
    assert list(tensors) == ["w"]


def test_weights_are_read_when_they_are_asked_for(tmp_path):
    large = {f"w{number}": np.full(1 << 18, number, "f4") for number in range(16)}
    path = save(tmp_path, large)

    def read() -> None:
        for number, array in enumerate(formats.read(path).values()):
            assert array[0] == number

    assert peak_memory(read) < 3 << 20


def test_other_json_is_not_recognised(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    assert not tfjs.matches(tmp_path / "model.json", b"{}") and not tfjs.matches(tmp_path, b"")


def test_nothing_is_written(tmp_path):
    with pytest.raises(FileFormatError, match=r"is a TensorFlow\.js model, which 4 tensors do not make"):
        formats.write(tmp_path / "model.json", WEIGHTS, "tfjs")


ONE = entry("w", np.ones(2, "f4"))
HOSTILE = {
    "no JSON": ("weightsManifest", "is no JSON"),
    "nested too deep": ("[" * 100_000, "is no JSON"),
    "a list": ("[]", "without names"),
    "no manifest": ("{}", "without weights"),
    "a manifest that is a number": ({"weightsManifest": 3}, "where a list is"),
    "a group that is a list": ({"weightsManifest": [[]]}, "where names and values are"),
    "a parent folder": ({"weightsManifest": [{"paths": ["../w.bin"], "weights": []}]}, "in the same folder"),
    "an absolute path": ({"weightsManifest": [{"paths": ["/etc/passwd"], "weights": []}]}, "in the same folder"),
    "a path that is a number": ({"weightsManifest": [{"paths": [3], "weights": []}]}, "where a name is"),
    "a long path": ({"weightsManifest": [{"paths": ["a" * 5000], "weights": []}]}, "5,000 letters"),
    "a file that is not there": ({"weightsManifest": [{"paths": ["no.bin"], "weights": []}]}, "which is not there"),
    "two of one name": ([ONE, ONE], "twice"),
    "another dtype": ([ONE | {"dtype": "float8"}], "dtype 'float8'"),
    "another quantization": ([ONE | {"quantization": {"dtype": "int4"}}], "is quantized as 'int4'"),
    "no scale": ([ONE | {"quantization": {"dtype": "uint8", "min": 0}}], "where a number is"),
    "a shape of text": ([ONE | {"shape": ["a"]}], "where an integer is"),
    "a negative axis": ([ONE | {"shape": [-2, -1]}], "none negative"),
    "many axes": ([ONE | {"shape": [1] * 33}], "at most 32 axes"),
    "a gigantic shape": ([ONE | {"shape": [2**40, 2**20]}], "would take"),
    "a gigantic integer": ([ONE | {"shape": [2**70]}], "where an integer is"),
    "more than there is": ([ONE | {"shape": [1000]}], "at most 16"),
    "texts without end": ([{"name": "t", "shape": [2**40], "dtype": "string"}], "has 1,099,511,627,776 texts"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path, content, words):
    path = save(tmp_path, entries=content if isinstance(content, list) else [], data=b"\xff" * 16)
    if not isinstance(content, list):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(FileFormatError) as error:
        dict(formats.read(path, "tfjs"))
    assert words in str(error.value) and "model.json" in str(error.value)


def test_links_out_of_the_folder_are_refused(tmp_path):
    path = save(tmp_path / "model")
    shard = tmp_path / "model" / "group1-shard1.bin"
    shard.rename(tmp_path / "outside.bin")
    shard.symlink_to(tmp_path / "outside.bin")
    with pytest.raises(FileFormatError, match="in the same folder"):
        formats.read(path)


def test_mutated_files_are_read_or_refused(tmp_path, mutations):
    way = {"dtype": "uint8", "scale": 0.5, "min": -1.0}
    arrays = WEIGHTS | {"small": np.arange(6, dtype="u1")}
    entries = [entry(name, array) for name, array in arrays.items()]
    entries[-1] |= {"dtype": "float32", "quantization": way}
    save(tmp_path / "model", arrays, entries, shard_bytes=90)
    fuzz.check_mutations("tfjs", tmp_path / "model", mutations)
