"""Compares a block in four frameworks, with the same weights on the same input, with the oracle."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import jax.numpy as jnp
import keras
import numpy as np
import torch
from flax import nnx

import se_flax
import se_keras
import se_numpy
import se_torch
from se_spec import SESpec

spec = SESpec(64, reduction=16, bias=True)
parameters = se_numpy.initialize(spec, seed=0)
x = np.random.default_rng(0).standard_normal((2, 7, 5, 64), dtype=np.float32)

block = se_torch.SqueezeExcitation(spec)
se_torch.set_parameters(block, parameters)
from_torch = block(torch.from_numpy(x).movedim(-1, 1)).movedim(1, -1).detach().numpy()

layer = keras.Sequential([keras.Input((None, None, 64)), se_keras.SqueezeExcitation(spec, name="se")])
se_keras.set_parameters(layer, parameters, name="se")
from_keras = keras.ops.convert_to_numpy(layer(x))

module = se_flax.SqueezeExcitation(spec, rngs=nnx.Rngs(0))
se_flax.set_parameters(module, parameters)
from_nnx = np.asarray(module(jnp.asarray(x)))

linen = se_flax.linen.SqueezeExcitation(spec)
from_linen = np.asarray(linen.apply(se_flax.linen.set_parameters(linen, parameters), jnp.asarray(x)))

want = se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last")
for name, got in {"torch": from_torch, "keras": from_keras, "nnx": from_nnx, "linen": from_linen}.items():
    print(f"{name:6} differs from the oracle by at most {abs(got - want).max():.1e}")
    assert abs(got - want).max() < 1e-6
