"""A block in float64 whose every stage can be replaced: the faults of the catalogue are injected into it.

It computes the oracle's formulas, channels last, with each stage as an attribute: a fault replaces a stage, a field of
the spec, or the function around the stages.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from se_numpy.nonlinearities import activate, activate_derivative, apply_gate, gate_derivative
from se_spec import SESpec

from ..cases import round_to

Array = np.ndarray
Parameters = dict[str, Array]


class Block:
    """A right block; its attributes are the stages in order, and each may be replaced.

    ``z`` is (N, C), or has spatial axes where a fault does not reduce them; the products act on the last axis.
    """

    def __init__(self, spec: SESpec, dtype: str = "float64") -> None:
        self.spec = spec
        self.dtype = dtype
        self.parameters: Callable[[Parameters], Parameters] = lambda p: p
        self.input: Callable[[Array], Array] = lambda x: x
        self.squeeze: Callable[[Array], Array] = self._squeeze
        self.reduce: Callable[[Array, Parameters], Array] = lambda z, p: (
            z @ p["reduce.weight"].T + p.get("reduce.bias", 0.0)
        )
        self.activation: Callable[[Array], Array] = lambda u: activate(u, self.spec.activation)
        self.expand: Callable[[Array, Parameters], Array] = lambda h, p: (
            h @ p["expand.weight"].T + p.get("expand.bias", 0.0)
        )
        self.excite: Callable[[Array, Parameters], Array] = self._excite
        self.gate: Callable[[Array], Array] = lambda v: apply_gate(v, self.spec.gate)
        self.scale: Callable[[Array, Array, Array], Array] = self._scale
        self.output: Callable[[Array, Array], Array] = lambda y, x: y
        self.gate_slope: Callable[[Array], Array] = lambda v: gate_derivative(v, self.spec.gate)
        self.activation_slope: Callable[[Array], Array] = lambda u: activate_derivative(u, self.spec.activation)
        self.gradients: Callable[[Array, Array, Parameters], tuple[Array, Parameters]] = self._gradients
        self.through_activation: Callable[[Array, Array], Array] = lambda dh, slope: dh * slope
        self.through_gate: Callable[[Array, Array], Array] = lambda direct, pooled: direct + pooled
        self.around: Callable[[Callable[..., Array]], Callable[..., Array]] = lambda function: function
        self.keeps_state = False  # whether an answer depends on earlier calls, or on where the arrays are in memory

    def run(self, x: Array, parameters: Parameters) -> tuple[Array, Array]:
        """Compute y and the gate in float64."""
        wide = {name: array.astype(np.float64) for name, array in parameters.items()}
        p, x = self.parameters(wide), self.input(x.astype(np.float64))
        with np.errstate(all="ignore"):
            z = self.squeeze(x)
            g = self.excite(z, p)
            return self.output(self.scale(x, g, z), x), g

    def function(self) -> Callable[[Array, Parameters], Array]:
        """Return ``function(x, parameters) -> y``, whose arrays are in ``dtype``."""

        def call(x: Array, parameters: Parameters) -> Array:
            return round_to(self.run(x, parameters)[0], self.dtype)

        return self.around(call)

    def vjp(self, x: Array, dy: Array, parameters: Parameters) -> tuple[Array, Parameters]:
        """Compute dx and dparameters; all arrays are in ``dtype``."""
        wide = {name: array.astype(np.float64) for name, array in parameters.items()}
        dx, dparameters = self.gradients(x.astype(np.float64), dy.astype(np.float64), self.parameters(wide))
        return round_to(dx, self.dtype), {name: round_to(dparameters[name], self.dtype) for name in parameters}

    def excitation(self, x: Array, parameters: Parameters) -> Array:
        """Compute the gate, (N, C), in float32, or in float64 for float64."""
        return self.run(x, parameters)[1].astype("float64" if self.dtype == "float64" else "float32")

    def _squeeze(self, x: Array) -> Array:
        axes = tuple(range(1, x.ndim - 1))
        match self.spec.squeeze:
            case "avg":
                return np.asarray(x.mean(axes))
            case "max":
                return np.asarray(x.max(axes))
        return np.asarray(0.5 * x.mean(axes) + 0.5 * x.max(axes))

    def _excite(self, z: Array, p: Parameters) -> Array:
        h = z if self.spec.single_projection else self.activation(self.reduce(z, p))
        return self.gate(self.expand(h, p))

    def _scale(self, x: Array, g: Array, z: Array) -> Array:
        y = x * (self.spec.gain * broadcast_gate(g, x))
        return y + x if self.spec.residual else y

    def _gradients(self, x: Array, dy: Array, p: Parameters) -> tuple[Array, Parameters]:
        axes = tuple(range(1, x.ndim - 1))
        z = self.squeeze(x)
        u = None if self.spec.single_projection else self.reduce(z, p)
        h = z if u is None else self.activation(u)
        v = self.expand(h, p)
        dv = self.spec.gain * (dy * x).sum(axes) * self.gate_slope(v)
        found = {"expand.weight": dv.T @ h, "expand.bias": dv.sum(0)}
        dz = dv @ p["expand.weight"]
        if u is not None:
            du = self.through_activation(dz, self.activation_slope(u))
            found |= {"reduce.weight": du.T @ z, "reduce.bias": du.sum(0)}
            dz = du @ p["reduce.weight"]
        share: Any = 1.0 / np.prod([x.shape[axis] for axis in axes])
        if self.spec.squeeze != "avg":
            tied = x == x.max(axes, keepdims=True)
            top = tied / tied.sum(axes, keepdims=True)
            share = top if self.spec.squeeze == "max" else 0.5 * share + 0.5 * top
        direct = dy * (self.spec.gain * broadcast_gate(self.gate(v), x)) + (dy if self.spec.residual else 0.0)
        return self.through_gate(direct, broadcast_gate(dz, x) * share), {name: found[name] for name in p}


def broadcast_gate(g: Array, x: Array) -> Array:
    """Add spatial axes to a gate (N, C), so that it broadcasts to x; a gate that has them is unchanged."""
    return g if g.ndim == x.ndim else np.expand_dims(g, tuple(range(1, x.ndim - 1)))
