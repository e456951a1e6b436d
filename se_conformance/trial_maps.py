"""Inputs of single trials: maps and parameters on which mistakes appear that usual maps hide."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import se_numpy
from se_spec import SESpec

from .cases import Inputs, are_kinks_avoided, raise_one_position, revealing_parameters

LARGE_MAP_ELEMENTS, TALL_MAP_ELEMENTS, WIDE_MAP_ELEMENTS = 1 << 18, 5 << 16, 1 << 17
"""Elements of x in large maps, for which code may have a way of its own."""
FAR_ARGUMENT = {"float64": 800.0, "float32": 120.0, "bfloat16": 120.0, "float16": 100.0}
"""The largest hidden value or logit of a trial; e to this power is beyond the dtype (beyond float32 for the halves)."""
MAX_DRAWS = 50

Draw = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Maker:
    """Makes the inputs of one spec's trials.

    Args:
        spec: which block.
        dtype: as in ``trials``.
        rank: 1, 2 or 3 spatial axes.
        seed: at least 0.
    """

    spec: SESpec
    dtype: str
    rank: int
    seed: int

    def draw(self, number: int, draw: Draw, *, dy_scale: float = 1.0) -> Inputs:
        """Draw a map, dy and parameters until all arguments avoid kinks, MAX_DRAWS times at most.

        Args:
            number: another number gives other inputs.
            draw: draws x, float64, channels last.
            dy_scale: the standard deviation of dy.
        """
        for attempt in range(MAX_DRAWS):
            rng = np.random.default_rng((self.seed, number, attempt))
            x = draw(rng)
            weights = revealing_parameters(x, self.spec, rng)
            inputs = Inputs(x, dy_scale * rng.standard_normal(x.shape), weights).round_to(self.dtype)
            if are_kinks_avoided(inputs, self.spec):
                break
        return inputs

    def normal(self, samples: int, spatial: tuple[int, ...]) -> Draw:
        """Draw normal numbers whose means differ between samples and channels, each with one clear maximum."""
        shape = (samples, *spatial, self.spec.channels)

        def draw(rng: np.random.Generator) -> np.ndarray:
            x = rng.standard_normal(shape) + rng.standard_normal((samples, *(1,) * self.rank, self.spec.channels))
            return self._raise_maxima(x, rng)

        return draw

    def rectified(self, samples: int, spatial: tuple[int, ...]) -> Draw:
        """Draw a map as it comes from a ReLU: no negative number, many exact zeros, a channel and a column of zeros."""
        normal = self.normal(samples, spatial)

        def draw(rng: np.random.Generator) -> np.ndarray:
            x = np.maximum(normal(rng), 0.0)
            x[0, ..., int(rng.integers(self.spec.channels))] = 0.0
            x[..., -1, :] = 0.0
            return x

        return draw

    def without_first_unit(self, inputs: Inputs) -> Inputs:
        """Set the first hidden unit's weights and bias to zero: its sums are 0, where any subgradient is right."""
        zeroed = {name: array.copy() for name, array in inputs.parameters.items()}
        for name, array in zeroed.items():
            if name.startswith("reduce."):
                array[0] = 0.0
        return inputs._replace(parameters=zeroed)

    def constant(self, samples: int, spatial: tuple[int, ...]) -> Draw:
        """Draw a map whose channels have one value each."""
        shape = (samples, *spatial, self.spec.channels)
        return lambda rng: np.array(
            np.broadcast_to(rng.standard_normal((samples, *(1,) * self.rank, self.spec.channels)), shape)
        )

    def far(self, part: str, samples: int, spatial: tuple[int, ...]) -> Inputs:
        """Draw inputs whose hidden values (``"reduce"``) or logits (``"expand"``) reach FAR_ARGUMENT.

        They do in both directions, unless all of them have one sign.
        """
        inputs = self.draw(31, self.normal(samples, spatial))
        wide = {name: array.astype(np.float64) for name, array in inputs.parameters.items()}
        sums = self._trace(inputs).pre if part == "reduce" else self._trace(inputs).logits
        assert sums is not None
        sums = sums - wide.get(f"{part}.bias", 0.0)
        ends = [end for end in (sums.max(initial=0.0), -sums.min(initial=0.0)) if end > 0.1]
        wide[f"{part}.weight"] *= FAR_ARGUMENT[self.dtype] / min(ends, default=1.0)
        moved = inputs._replace(parameters=wide)
        if part == "reduce":  # logits stay near 3
            logits = self._trace(moved).logits - wide.get("expand.bias", 0.0)
            wide["expand.weight"] *= 3.0 / max(float(np.sqrt(np.mean(logits**2))), 1e-3)
        return moved.round_to(self.dtype)

    def large(self, form: str, elements: int, number: int, *, level: float = 0.75) -> Inputs:
        """Draw one sample of more positive numbers than half precision can add; they are not 1, a tie at 256.

        Args:
            form: ``"square"`` has at most 4,096 positions; ``"tall"`` and ``"wide"`` have a long first or last axis.
            elements: of x, about.
            number: another number gives other inputs.
            level: the mean.
        """
        positions = max(64, elements // self.spec.channels)
        if form == "square":
            side = int(min(positions, 4096) ** (1 / self.rank))
            spatial = (*(side,) * (self.rank - 1), side + 1)
        else:
            spatial = (positions // 2 ** (self.rank - 1), *(2,) * (self.rank - 1))[:: 1 if form == "tall" else -1]
        rng = np.random.default_rng((self.seed, number))
        shape = (1, *spatial, self.spec.channels)
        x = level * (1.0 + 0.25 * rng.standard_normal(shape))
        if form != "square":  # neighbours and halves differ, so that none may be left out
            for axis, length in enumerate(spatial, 1):
                index = np.arange(length)
                pattern = (1.0 + 0.25 * (-1.0) ** index) * np.where(2 * index < length, 1.25, 0.75)
                x *= pattern.reshape(-1, *(1,) * (x.ndim - 1 - axis))
        if self.spec.squeeze != "avg":  # one clear maximum
            x.reshape(1, -1, self.spec.channels)[:, spatial[0] // 2] = 4.0 * level
        weights = revealing_parameters(x, self.spec, rng)
        if not self.spec.single_projection:
            _share_a_sign(x, weights, rng)
        return Inputs(x, rng.standard_normal(shape), weights).round_to(self.dtype)

    def _trace(self, inputs: Inputs) -> se_numpy.block.Trace:
        return se_numpy.block.trace(inputs.x, self.spec, inputs.parameters, "channels_last")

    def _raise_maxima(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.spec.squeeze != "avg":
            raise_one_position(x, rng)
        return x


def _share_a_sign(x: np.ndarray, weights: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Give weights one sign and hidden values 1 to 5, so that equal errors of all channels do not cancel."""
    z, size = x.mean(tuple(range(1, x.ndim - 1)))[0], np.abs(weights["reduce.weight"])
    hidden = rng.uniform(1.0, 5.0, len(size)) - weights.get("reduce.bias", 0.0)
    weights["reduce.weight"] = size * (hidden / (size @ z))[:, None]
    logits = weights["expand.weight"] @ (hidden + weights.get("reduce.bias", 0.0))
    weights["expand.weight"] *= 2.0 / max(float(np.sqrt(np.mean(logits**2))), 1e-3)
