"""Keras models, exported in each way that ``se_port`` reads."""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from se_port.detect.blocks import match_graphs
from se_port.graphs import Match
from se_port.sources import open_source
from se_spec import SESpec
from se_spec.nonlinearities import ACTIVATIONS, GATES, HardSigmoid, LeakyReLU

CHANNELS = 8
ACTIVATIONS_AND_GATES = [
    *({"activation": one} for one in (*ACTIVATIONS, LeakyReLU(0.01))),
    *({"gate": one} for one in (*GATES, HardSigmoid(0.2, 0.5), HardSigmoid(1.0, 0.0))),
]
SPECS = [
    *(SESpec(CHANNELS, hidden=4, bias=i % 2 == 0, **fields) for i, fields in enumerate(ACTIVATIONS_AND_GATES)),
    SESpec(CHANNELS, hidden=4, bias=True, squeeze="max"),
    SESpec(CHANNELS, hidden=4, bias=True, squeeze="avg_max"),
    SESpec(CHANNELS, single_projection=True),
    SESpec(CHANNELS, hidden=4, gain=2.0),
    SESpec(CHANNELS, hidden=4, residual=True),
    SESpec(CHANNELS, hidden=4, gain=2.0, residual=True, squeeze="avg_max", activation="silu", gate="hard_sigmoid"),
]
"""Every activation, gate and squeeze, and what else a spec has."""


def make_blocks() -> Any:
    """A model with a block of each spec, named se0, se1, ..., on inputs that differ."""
    keras, se_keras = importlib.import_module("keras"), importlib.import_module("se_keras")
    keras.utils.set_random_seed(0)
    x = keras.Input((5, 4, CHANNELS))
    outputs = [se_keras.SqueezeExcitation(spec, name=f"se{i}")(x * float(i + 1)) for i, spec in enumerate(SPECS)]
    return keras.Model(x, outputs)


def make_network(name: str, side: int, seed: int = 0) -> Any:
    """A network of keras.applications whose parameters are all drawn, those of batch norm among them."""
    keras = importlib.import_module("keras")
    keras.utils.set_random_seed(seed)
    draw = np.random.default_rng(seed)
    net = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(side, side, 3))
    for weight in net.weights:
        if len(weight.shape) == 1:
            is_scale = weight.path.endswith(("variance", "gamma"))
            drawn = draw.uniform(0.5, 1.5, weight.shape) if is_scale else draw.normal(0.0, 0.1, weight.shape)
            weight.assign(drawn)
    return net


def freeze(tf: Any, model: Any, path: Path) -> Path:
    """Write a frozen GraphDef."""
    constants = importlib.import_module("tensorflow.python.framework.convert_to_constants")
    shape = tf.TensorSpec((None, *model.inputs[0].shape[1:]), tf.float32)
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(shape)
    graph = constants.convert_variables_to_constants_v2(function).graph
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def convert(tf: Any, folder: Path, way: str, model: Any) -> Path:
    """Convert a SavedModel to TensorFlow Lite: ``float32``, ``float16``, ``dynamic`` or ``int8``."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    if way != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if way == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if way == "int8":
        draw = np.random.default_rng(0)
        shape = (1, *model.inputs[0].shape[1:])
        converter.representative_dataset = lambda: ([draw.normal(size=shape).astype("f4")] for _ in range(4))
    path = folder.with_name(f"{folder.name}.{way}.tflite")
    path.write_bytes(converter.convert())
    return path


def match_numbered(path: Path) -> dict[int, Match]:
    """Find the blocks of ``make_blocks`` in a file, by their numbers; nothing else may be found."""
    matches, lookalikes = match_graphs(open_source(path))
    assert not lookalikes
    found = {}
    for match in matches:
        number = re.search(r"se(\d+)", "|".join((match.path, *match.names.values())))
        assert number is not None and int(number[1]) not in found
        found[int(number[1])] = match
    assert len(found) == len(SPECS)
    return found
