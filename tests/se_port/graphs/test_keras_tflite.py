"""Our own Keras blocks in TensorFlow Lite models that TensorFlow converts: every spec gives the same gates."""

import numpy as np
import pytest

import se_numpy

from . import keras_exports
from .keras_exports import CHANNELS, SPECS

pytestmark = [pytest.mark.framework("keras"), pytest.mark.filterwarnings("ignore")]
TOLERANCES = {"float32": 2e-6, "float16": 5e-3, "dynamic": 2e-6, "int8": 0.05}
"""Of gates; dynamic quantization leaves matrices of less than 1,024 numbers as they are."""


@pytest.fixture(scope="module")
def exported(tf, tmp_path_factory):
    model, folder = keras_exports.make_blocks(), tmp_path_factory.mktemp("tflite") / "net"
    model.export(str(folder), verbose=False)
    return model, folder


@pytest.mark.parametrize(
    "way", ["float32", "int8", *(pytest.param(way, marks=pytest.mark.slow) for way in ("float16", "dynamic"))]
)
def test_every_spec_is_found_with_the_same_gates(tf, exported, way):
    """The converter folds what a hard sigmoid does to its argument into the projection, so those specs differ."""
    import se_keras

    model, folder = exported
    found = keras_exports.match_numbered(keras_exports.convert(tf, folder, way, model))
    x = np.random.default_rng(1).normal(size=(2, 5, 4, CHANNELS))
    for number, spec in enumerate(SPECS):
        match = found[number]
        if spec.gate in ("sigmoid", "tanh", "relu", "identity"):
            expected = spec if spec.bias or not match.spec.bias else spec.replace(bias=True)
            assert match.spec == expected
        kernels = se_keras.get_parameters(model, name=f"se{number}")
        gates = [
            se_numpy.squeeze_excitation(x, one, values, data_format="channels_last")
            for values, one in ((kernels, spec), (match.parameters, match.spec))
        ]
        scale = np.abs(gates[0]).max()
        np.testing.assert_allclose(gates[1] / scale, gates[0] / scale, atol=TOLERANCES[way], rtol=0, err_msg=str(spec))
        assert bool(match.changes) >= (way == "int8")
