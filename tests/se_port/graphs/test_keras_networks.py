"""Networks of keras.applications in every format that TensorFlow writes: how many blocks, and their parameters."""

import numpy as np
import pytest

import se_port
from se_spec import LayoutError

from . import keras_exports

pytestmark = [pytest.mark.framework("keras"), pytest.mark.filterwarnings("ignore")]
NETWORKS = {
    "MobileNetV3Small": (64, 9, "expanded_conv_3_squeeze_excite_conv", "expanded_conv_3_squeeze_excite_conv_1"),
    "EfficientNetB0": (32, 16, "block2a_se_reduce", "block2a_se_expand"),
    "MobileNetV2": (32, 0, "", ""),
}
"""Side of the images, blocks, and the two layers of one block."""
SLOW = ("EfficientNetB0", "MobileNetV2")


@pytest.fixture(scope="module", params=["MobileNetV3Small", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def exported(tf, tmp_path_factory, request):
    name = request.param
    net, folder = keras_exports.make_network(name, NETWORKS[name][0]), tmp_path_factory.mktemp(name) / "net"
    net.export(str(folder), verbose=False)
    return name, net, folder


def find(path, count):
    if count:
        return se_port.find_blocks(path)
    with pytest.raises(LayoutError, match="no SE block"):
        se_port.find_blocks(path)
    return {}


def write(tf, net, folder, way, tmp_path):
    if way == "exported":
        return folder
    if way == "saved":
        tf.saved_model.save(net, str(tmp_path / "saved"))
        return tmp_path / "saved"
    if way == "frozen":
        return keras_exports.freeze(tf, net, tmp_path / "frozen.pb")
    if way == "checkpoint":
        tf.train.Checkpoint(model=net).write(str(tmp_path / "checkpoint"))
        return tmp_path / "checkpoint.index"
    return keras_exports.convert(tf, folder, way, net)


@pytest.mark.parametrize(
    "way",
    ["exported", "frozen", "checkpoint", "float32"]
    + [pytest.param(way, marks=pytest.mark.slow) for way in ("saved", "float16", "dynamic", "int8")],
)
def test_every_block_is_found_and_none_invented(tf, exported, tmp_path, way):
    name, net, folder = exported
    _, count, *layers = NETWORKS[name]
    found = find(write(tf, net, folder, way, tmp_path), count)
    assert len(found) == count
    if not count:
        return
    # TensorFlow Lite and frozen graphs have the scope of the call, such as conv_1, in their names.
    (block,) = [one for one in found.values() if layers[0] in "|".join(one.names.values()).replace("_1_", "_")]
    tolerance = {"float16": 1e-3, "dynamic": 1e-2, "int8": 1e-2}.get(way, 0.0)
    for projection, layer in zip(("reduce", "expand"), layers, strict=True):
        kernel, bias = net.get_layer(layer).get_weights()
        expected = kernel[0, 0].T
        value = block.parameters[f"{projection}.weight"]
        np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance * np.abs(expected).max())
        shift = 3.0 if "HardSigmoid" in str(block.spec.gate) and projection == "expand" else 0.0  # folded
        np.testing.assert_allclose(
            block.parameters[f"{projection}.bias"], bias + np.float32(shift), rtol=0, atol=10 * tolerance
        )
    assert block.unknown == ()
