"""Our own Keras blocks in SavedModels and frozen graphs that TensorFlow writes: every spec, and every bit."""

import numpy as np
import pytest

from . import keras_exports
from .keras_exports import SPECS

pytestmark = [pytest.mark.framework("keras"), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def model(tf):
    return keras_exports.make_blocks()


@pytest.mark.parametrize("way", ["saved", "exported", "frozen"])
def test_every_spec_is_found_with_its_parameters_to_the_bit(tf, model, tmp_path, way):
    import se_keras

    path = tmp_path / "net"
    if way == "saved":
        tf.saved_model.save(model, str(path))
    elif way == "exported":
        model.export(str(path), verbose=False)
    else:
        path = keras_exports.freeze(tf, model, tmp_path / "net.pb")
    found = keras_exports.match_numbered(path)
    for number, spec in enumerate(SPECS):
        match = found[number]
        assert match.spec == spec
        assert match.changes == ()
        expected = se_keras.get_parameters(model, name=f"se{number}")
        assert list(match.parameters) == list(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(match.parameters[name], value)


@pytest.mark.parametrize("size", [(None, None), (5, 4), (None,)], ids=str)
def test_other_dtypes_and_sizes_are_read(tf, tmp_path, size):
    import keras

    import se_keras

    for policy in ("float64", "mixed_float16", "bfloat16"):
        x = keras.Input((*size, 8), dtype=policy if policy == "float64" else None)
        block = se_keras.SqueezeExcitation(SPECS[-1], name="se0", dtype=policy)
        net = keras.Model(x, block(x))
        tf.saved_model.save(net, str(tmp_path / policy))
        (match,) = keras_exports.match_graphs(keras_exports.open_source(tmp_path / policy))[0]
        assert match.spec == SPECS[-1]
        for name, value in se_keras.get_parameters(net, name="se0").items():
            np.testing.assert_array_equal(match.parameters[name], value)
