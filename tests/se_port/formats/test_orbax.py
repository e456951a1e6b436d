"""Orbax's folders: checkpoints are exchanged with Orbax, and hostile ones are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from se_port import formats
from se_port.formats import orbax
from se_spec import FileFormatError

from ...conftest import OnDemand
from .tensors import facts, one_of_each

checkpoint, jax, tensorstore = OnDemand("orbax.checkpoint"), OnDemand("jax"), OnDemand("tensorstore")

pytestmark = pytest.mark.framework("port-orbax")


def tensors() -> dict[str, np.ndarray]:
    """Make tensors, none of them empty, in the order in which Orbax returns them."""
    given = one_of_each(orbax.DTYPES.values()) | {"zeros": np.zeros((40, 50), np.float32)}
    return {f"params/{name}": array for name, array in sorted(given.items()) if array.size}


def saved(path: Path, tree: object, *, ocdbt: bool = True) -> Path:
    handler = checkpoint.PyTreeCheckpointHandler(use_ocdbt=ocdbt)
    with checkpoint.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, tree)
    return path


def test_round_trip_is_exact(tmp_path):
    given = tensors()
    formats.write(tmp_path / "net", dict(reversed(given.items())), "orbax")
    assert orbax.matches(tmp_path / "net", b"") and not orbax.matches(tmp_path / "net" / "d", b"")
    assert facts(formats.read(tmp_path / "net", "orbax")) == facts(given)
    with checkpoint.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(tmp_path / "net")
    assert facts({f"params/{name}": np.asarray(value) for name, value in sorted(tree["params"].items())}) == facts(
        given
    )


def write_with_orbax(folder: Path, *, ocdbt: bool) -> tuple[Path, formats.Tensors]:
    tree = {
        "batch_stats": {"mean": np.ones(2, np.float16)},
        "params": {"layers": [{"kernel": jax.numpy.arange(6.0).reshape(2, 3)}, {}], "scale": np.float32(3)},
        "step": 5,
        "none": None,
    }
    path = saved(folder / "net", tree, ocdbt=ocdbt)
    return path, {
        "batch_stats/mean": np.ones(2, np.float16),
        "params/layers/0/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "params/scale": np.array(3, np.float32),
        "step": np.array(5),
    }


def test_step_of_a_checkpoint_manager_is_read(tmp_path):
    with checkpoint.CheckpointManager(tmp_path / "run") as manager:
        manager.save(7, args=checkpoint.args.StandardSave({"kernel": np.ones(2)}))
    assert facts(formats.read(tmp_path / "run" / "7", "orbax")) == facts({"kernel": np.ones(2)})


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """Write a checkpoint whose files can be changed by hand: one folder for each array."""
    draw = np.random.default_rng(1).integers(0, 4, 1000).astype(np.float32)
    return saved(tmp_path_factory.mktemp("orbax") / "net", {"a": np.ones(2, np.float32), "b": draw}, ocdbt=False)


def metadata(change: Callable[[dict[str, Any]], object], name: str = "_METADATA") -> Callable[[Path], object]:
    def apply(path: Path) -> None:
        told = json.loads((path / name).read_text())
        change(told)
        (path / name).write_text(json.dumps(told))

    return apply


def array(**changes: object) -> Callable[[Path], object]:
    return metadata(lambda told: told.update(changes), "a/.zarray")


def leaf(*keys: str, kind: str = "np.ndarray") -> Callable[[Path], object]:
    value = {
        "key_metadata": [{"key": key, "key_type": 2} for key in keys],
        "value_metadata": {"value_type": kind, "skip_deserialize": False},
    }
    return metadata(lambda told: told["tree_metadata"].update(new=value))


def chunk(data: bytes, name: str = "a/0") -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes(data)


FRAME = b"\x28\xb5\x2f\xfd\x20\x08"
"""Head of a frame for eight bytes; the first three bytes of each block that follows hold end, kind and length."""
SIZELESS = b"\x28\xb5\x2f\xfd\x00\x58"
"""Head of a frame that does not announce its size, as TensorStore wrote it up to 0.1.84."""
HOSTILE = {
    "a leaf outside": (leaf("..", "x"), "keys without '/'"),
    "a leaf with a slash": (leaf("a/../../x"), "keys without '/'"),
    "an empty key": (leaf(""), "none of them empty"),
    "a leaf that is missing": (leaf("c"), "has no c/.zarray"),
    "a leaf twice": (leaf("a"), "names a twice"),
    "a leaf of another kind": (leaf("c", kind="os.system"), "is a os.system"),
    "no leaves": (metadata(lambda told: told.pop("tree_metadata")), "no leaves of a tree"),
    "a leaf without keys": (metadata(lambda told: told["tree_metadata"].update(x={})), "its keys and its type"),
    "deep": (lambda path: (path / "_METADATA").write_text("[" * 100_000), "_METADATA is no JSON"),
    "no JSON": (lambda path: (path / "_METADATA").write_bytes(b"\xff\xfe\x00"), "_METADATA is no JSON"),
    "Zarr 3": (metadata(lambda told: told.update(use_zarr3=True)), "is of Zarr 3"),
    "a link": (lambda path: (path / "c").symlink_to("/etc"), "holds the link c"),
    "a large shape": (array(shape=[1 << 50], chunks=[1 << 50]), "would take"),
    "large chunks": (array(chunks=[1 << 50]), "would take"),
    "many chunks": (array(shape=[1 << 22], chunks=[1]), "4,194,304 chunks"),
    "chunks of nothing": (array(chunks=[0]), "Zarr 2 as Orbax writes it"),
    "a negative axis": (array(shape=[-1]), "integers"),
    "an axis that is true": (array(shape=[True]), "integers"),
    "objects": (array(dtype="|O"), "Zarr 2 as Orbax writes it"),
    "another compressor": (array(compressor={"id": "blosc"}), "Zarr 2 as Orbax writes it"),
    "filters": (array(filters=[{"id": "delta"}]), "Zarr 2 as Orbax writes it"),
    "another order": (array(order="F"), "Zarr 2 as Orbax writes it"),
    "not compressed, and too long": (array(compressor=None), "a chunk of"),
    "a chunk that is missing": (lambda path: (path / "a/0").unlink(), "has no a/0"),
    "no frame": (chunk(bytes(20)), "one frame"),
    "an empty chunk": (chunk(b""), "one frame"),
    "a frame for more": (chunk(b"\x28\xb5\x2f\xfd\x20\x09\x49\x00\x00" + bytes(9)), "announces 9 and"),
    "more in a frame that says no size": (chunk(SIZELESS + b"\x61\x00\x00" + bytes(12)), "cannot be read"),
    "a bomb that says no size": (chunk(SIZELESS + b"\x02\x00\x10\x00" * 50_000 + b"\x03\x00\x10\x00"), "may unpack to"),
    "a frame that does not end": (chunk(FRAME + b"\x40\x00\x00" + bytes(8)), "one frame"),
    "more after the frame": (chunk(FRAME + b"\x41\x00\x00" + bytes(9)), "one frame"),
    "a bomb": (chunk(FRAME + b"\x02\x00\x10\x00" * 50_000 + b"\x03\x00\x10\x00"), "may unpack to"),
    "a broken block": (chunk(FRAME + b"\x45\x00\x00" + b"\xff" * 8), "cannot be read"),
}


@pytest.mark.parametrize(("change", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path, bare, change, words):
    shutil.copytree(bare, tmp_path / "net")
    change(tmp_path / "net")
    with pytest.raises(FileFormatError) as error:
        dict(formats.read(tmp_path / "net", "orbax"))
    assert words in str(error.value) and str(tmp_path / "net") in str(error.value)


def test_typed_zstandard_frames_are_checked(tmp_path, bare):
    """A bare block and a repeated byte, each of eight bytes, are read."""
    shutil.copytree(bare, tmp_path / "net")
    for block in (b"\x41\x00\x00" + np.array([1.5, -0.0], np.float32).tobytes(), b"\x43\x00\x00\x00"):
        expected = np.frombuffer(block[3:].ljust(8, b"\0"), np.float32)
        for frame in (FRAME, SIZELESS):
            chunk(frame + block)(tmp_path / "net")
            np.testing.assert_array_equal(formats.read(tmp_path / "net", "orbax")["a"], expected)


def test_store_outside_the_folder_is_refused(tmp_path):
    """TensorStore does not follow such a key; if that changed, a checkpoint could hold a file of the reader's."""
    store = tensorstore.KvStore.open(f"file://{tmp_path}/").result()
    with pytest.raises(ValueError, match=r"[Ii]nvalid"):
        store.read("../x").result()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "would be empty"),
        ({"a": np.zeros((0, 2))}, "no empty array"),
        ({"a": np.array(["text"])}, "of <U4"),
        ({"a.b": np.zeros(1), "a/b": np.zeros(1)}, "one name to Orbax"),
        ({"a": np.zeros(1), "a/b": np.zeros(1)}, "lies within another tensor"),
    ],
)
def test_unsupported_tensors_are_not_written(tmp_path, given, words):
    with pytest.raises(FileFormatError, match=words):
        formats.write(tmp_path / "net", given, "orbax")
    assert not list(tmp_path.iterdir())
