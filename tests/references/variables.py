"""Random numbers for the variables of a graph of TensorFlow 1."""

import numpy as np
import tensorflow as tf


def fill(session, random):
    """Kernels as He drew them, variances and scales about 1, all else about 0."""
    for variable in tf.compat.v1.global_variables():
        name, shape = variable.op.name, variable.shape.as_list()
        if name.endswith(("W", "kernel")):
            value = random.normal(0.0, np.sqrt(2.0 / np.prod(shape[:-1])), shape)
        elif "variance" in name or "gamma" in name:
            value = random.uniform(0.5, 1.5, shape)
        else:
            value = random.normal(0.0, 0.5, shape)
        variable.load(value, session)
