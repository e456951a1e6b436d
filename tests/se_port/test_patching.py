"""A block put back into the file that it came from."""

import zipfile

import numpy as np
import pytest

import se_numpy
import se_port
from se_port import formats
from se_port.__main__ import main
from se_spec import FileFormatError, LayoutError, ParameterError, SESpec

SPEC = SESpec(16, hidden=4, bias=True)
NEW = {name: value.astype(np.float32) for name, value in se_numpy.initialize(SPEC, seed=7).items()}
NAMES = {"reduce.weight": "fc1.weight", "reduce.bias": "fc1.bias", "expand.weight": "fc2.weight",
         "expand.bias": "fc2.bias"}  # fmt: skip


def torch_names(dtype=np.float32):
    values = se_numpy.initialize(SPEC, seed=1)
    tensors = {}
    for canonical, value in values.items():
        array = value.astype(dtype)
        tensors[f"net.se.{NAMES[canonical]}"] = array[..., None, None] if array.ndim == 2 else array
    return tensors | {"head.weight": np.arange(6, dtype=dtype).reshape(2, 3)}


def check_only_the_block_changed(before, after):
    assert len(before) == len(after)
    different = np.flatnonzero(np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8))
    size = sum(value.nbytes for value in NEW.values())
    assert 0 < different.size <= size + 4 * 4 * 3  # and three places of a checksum for each member


@pytest.mark.parametrize("file", ["x.npz", "x.pth", pytest.param("x.safetensors", marks=pytest.mark.framework("port"))])
def test_one_block_is_new_and_every_other_byte_the_same(tmp_path, file):
    source, target = tmp_path / file, tmp_path / f"new.{file}"
    formats.write(source, torch_names())
    se_port.replace_block(source, target, "net.se", NEW)
    found = se_port.find_blocks(target)["net.se"].parameters
    for name, value in NEW.items():
        np.testing.assert_array_equal(found[name], value)
    check_only_the_block_changed(source.read_bytes(), target.read_bytes())
    if zipfile.is_zipfile(target):
        assert zipfile.ZipFile(target).testzip() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file, f"new.{file}"])


@pytest.mark.framework("torch")
def test_a_block_of_a_file_of_torch_is_replaced(tmp_path):
    torch = pytest.importorskip("torch")
    weights = {name: torch.from_numpy(value) for name, value in torch_names().items()}
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "x.pth")
    se_port.replace_block(tmp_path / "x.pth", tmp_path / "y.pth", "net.se", NEW)
    loaded = torch.load(tmp_path / "y.pth", weights_only=True)
    assert loaded["epoch"] == 3
    np.testing.assert_array_equal(loaded["state_dict"]["net.se.fc1.weight"].numpy()[..., 0, 0], NEW["reduce.weight"])
    assert zipfile.ZipFile(tmp_path / "y.pth").testzip() is None


@pytest.mark.framework("onnx")
def test_a_block_of_a_model_with_a_graph_is_replaced(tmp_path):
    onnx = pytest.importorskip("onnx")
    from .graphs.test_onnx import model

    onnx.save(model(), tmp_path / "x.onnx")
    spec = se_port.find_blocks(tmp_path / "x.onnx")["se"].spec
    new = {name: value.astype(np.float32) for name, value in se_numpy.initialize(spec, seed=3).items()}
    se_port.replace_block(tmp_path / "x.onnx", tmp_path / "y.onnx", "se", new)
    changed = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(tmp_path / "y.onnx").graph.initializer}
    np.testing.assert_array_equal(changed["se.fc2.bias"], new["expand.bias"])


@pytest.mark.framework("keras", "port")
def test_a_block_of_a_keras_file_is_replaced(tmp_path):
    keras = pytest.importorskip("keras")
    import se_keras

    x = keras.Input((5, 4, 16))
    model = keras.Model(x, se_keras.SqueezeExcitation(SPEC, name="se")(x))
    model.save(tmp_path / "x.h5")
    se_port.replace_block(tmp_path / "x.h5", tmp_path / "y.h5", "se", NEW)
    np.testing.assert_array_equal(se_port.load(tmp_path / "y.h5", SPEC)["reduce.weight"], NEW["reduce.weight"])


def test_what_cannot_be_put_back_is_refused(tmp_path):
    source, target = tmp_path / "x.npz", tmp_path / "y.npz"
    formats.write(source, torch_names(np.float16))
    with pytest.raises(ParameterError, match="not exact in float16"):
        se_port.replace_block(source, target, "net.se", NEW)
    with pytest.raises(LayoutError, match=r"no block 'other'; there are 'net\.se'"):
        se_port.replace_block(source, target, "other", NEW)
    with pytest.raises(ParameterError):
        se_port.replace_block(source, target, "net.se", {"reduce.weight": NEW["reduce.weight"]})
    np.savez_compressed(source, **torch_names())
    with pytest.raises(FileFormatError, match="is not in the file as it is"):
        se_port.replace_block(source, target, "net.se", NEW)
    masked = torch_names()
    masked["net.se.fc1.weight_orig"] = masked.pop("net.se.fc1.weight")
    masked["net.se.fc1.weight_mask"] = np.ones((4, 16, 1, 1), np.float32)
    np.savez(source, **masked)
    with pytest.raises(LayoutError, match="its parameters are computed"):
        se_port.replace_block(source, target, "net.se", NEW)
    with pytest.raises(FileFormatError, match="is no file"):
        se_port.replace_block(tmp_path, target, "net.se", NEW)
    assert not target.exists()
    target.write_bytes(b"kept")
    with pytest.raises(FileFormatError, match="is there already"):
        se_port.replace_block(source, target, "net.se", NEW)
    assert target.read_bytes() == b"kept"


def test_the_command_replaces_a_block(tmp_path, capsys):
    formats.write(tmp_path / "x.npz", torch_names())
    np.savez(tmp_path / "new.npz", **NEW)
    command = ["replace", str(tmp_path / "x.npz"), str(tmp_path / "y.npz"), "--block", "net.se"]
    assert main([*command, "--with", str(tmp_path / "new.npz")]) == 0
    assert "net.se has the parameters of" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["net.se.fc1.bias"], NEW["reduce.bias"])
