"""Blocks in NumPy, as ports from C, exercises and inference engines write them; channels last where not said."""

from collections.abc import Callable
from typing import Any

import numpy as np

from se_spec import LeakyReLU, SESpec

from .base import Arrays, Registry, by_name, in_order

Array = np.ndarray


def adapt(block: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``function(x, parameters)`` of a block; x is handed over as it lies in memory."""

    def function(x: Array, parameters: Arrays) -> Any:
        with np.errstate(all="ignore"):
            return block(x, *in_order(parameters))

    return function


def differentiate(derivative: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``vjp(x, dy, parameters)`` of a derivative ``(x, dy, w1, b1, w2, b2) -> (dx, dw1, db1, dw2, db2)``."""

    def vjp(x: Array, dy: Array, parameters: Arrays) -> tuple[Array, Arrays]:
        with np.errstate(all="ignore"):
            dx, *gradients = derivative(x, dy, *in_order(parameters))
            return dx, by_name(gradients, parameters)

    return vjp


REGISTRY = Registry("numpy", adapt, differentiate)
wrong, right = REGISTRY.wrong, REGISTRY.right

PAPER = SESpec(16, hidden=4)
CAFFE = SESpec.preset("caffe", 64)
BIASED = SESpec(12, hidden=3, bias=True)
MOBILENET = SESpec.preset("torchvision.mobilenet_v3", 24)


def sigmoid(v: Array) -> Array:
    e = np.exp(-np.abs(v))
    return np.where(v >= 0, 1 / (1 + e), e / (1 + e))


def relu(u: Array) -> Array:
    return np.maximum(u, 0)


def dense(z: Array, w: Array, b: Array | None) -> Array:
    return z @ w.T if b is None else z @ w.T + b


def excite(z: Array, w1: Array, b1: Array | None, w2: Array, b2: Array | None) -> Array:
    return sigmoid(dense(relu(dense(z, w1, b1)), w2, b2))


def scale(x: Array, g: Array) -> Array:
    return x * g[:, None, None, :]


# ---- call


@wrong(
    "output buffer is shared by all calls",
    PAPER,
    "call",
    "The result is a view of one buffer, which the next call of the same shape overwrites.",
    "microsoft/onnxruntime issue 10103",
)
class SharedBuffer:
    def __init__(self) -> None:
        self.buffers: dict[Any, Array] = {}

    def __call__(self, x: Array, *weights: Any) -> Array:
        out = self.buffers.setdefault(x.shape, np.empty_like(x))
        np.multiply(x, excite(x.mean((1, 2)), *weights)[:, None, None], out=out)
        return out


@wrong(
    "gate is cached by id(x)",
    PAPER,
    "call",
    "The gate is looked up by the address of x, which a later array can have.",
    "biolab/orange3 pull request 4370",
)
class CachedGate:
    def __init__(self) -> None:
        self.gates: dict[Any, Array] = {}

    def __call__(self, x: Array, *weights: Any) -> Array:
        key = (id(x), x.shape)
        if key not in self.gates:
            self.gates[key] = excite(x.mean((1, 2)), *weights)
        return scale(x, self.gates[key])


@wrong(
    "weights of the first call are kept",
    BIASED,
    "call",
    "The weights are packed for the matrix product at the first call and never again.",
    "weight packing of inference engines, such as Tencent/ncnn",
)
class PackedWeights:
    def __init__(self) -> None:
        self.packed: Any = None

    def __call__(self, x: Array, *weights: Any) -> Array:
        if self.packed is None:
            self.packed = [None if w is None else w.copy() for w in weights]
        return scale(x, excite(x.mean((1, 2)), *self.packed))


@wrong(
    "squeeze is frozen after ten calls",
    PAPER,
    "call",
    "Ten calls calibrate the range of z; every later call clips z to that range.",
    "post-training calibration, as in quantised ports of MobileNetV3",
)
class CalibratedSqueeze:
    def __init__(self) -> None:
        self.calls, self.low, self.high = 0, np.inf, -np.inf

    def __call__(self, x: Array, *weights: Any) -> Array:
        z = x.mean((1, 2))
        self.calls += 1
        if self.calls <= 10 and z.size:
            self.low, self.high = min(self.low, np.nanmin(z)), max(self.high, np.nanmax(z))
        elif self.calls > 10:
            z = np.clip(z, self.low, self.high).astype(x.dtype)
        return scale(x, excite(z, *weights))


@wrong(
    "squeeze is a running mean",
    PAPER,
    "squeeze",
    "z is mixed with the z of earlier calls, with momentum 0.1, as batch norm tracks its mean.",
    "habit of batch norm, moved to the squeeze",
)
class RunningSqueeze:
    def __init__(self) -> None:
        self.mean: Any = None

    def __call__(self, x: Array, *weights: Any) -> Array:
        z = x.mean((1, 2))
        if len(z):
            now = z.mean(0)
            self.mean = now if self.mean is None else (0.9 * self.mean + 0.1 * now).astype(x.dtype)
            z = z - now + self.mean
        return scale(x, excite(z, *weights))


@wrong("x is scaled in place", PAPER, "call", "x itself is multiplied by the gate and returned.", "habit: `x *= gate`")
def scale_in_place(x, w1, b1, w2, b2):
    x *= excite(x.mean((1, 2)), w1, b1, w2, b2)[:, None, None, :]
    return x


@wrong(
    "result is float64",
    PAPER,
    "call",
    "The mean is taken in float64 and nothing is cast back.",
    "habit: `dtype=np.float64` in NumPy ports",
)
def return_float64(x, w1, b1, w2, b2):
    z = x.mean(axis=(1, 2), dtype=np.float64)
    return x * excite(z, w1, b1, w2, b2)[:, None, None, :]


@wrong(
    "descriptor is returned",
    PAPER,
    "call",
    "The scaled means, (N, C), are returned in place of the map.",
    "SELayer of tabular and multi-label networks",
)
def return_descriptor(x, w1, b1, w2, b2):
    z = x.mean(axis=(1, 2))
    return z * excite(z, w1, b1, w2, b2)


@wrong(
    "strides are ignored",
    PAPER,
    "call",
    "The C loop walks x in memory order, so that a transposed or sliced x is permuted.",
    "pytorch/pytorch issue 67239",
)
def ignore_strides(x, w1, b1, w2, b2):
    x = x.ravel(order="K").reshape(x.shape)
    return scale(x, excite(x.mean((1, 2)), w1, b1, w2, b2))


@wrong(
    "output has the strides of x",
    PAPER,
    "call",
    "The output is allocated with the strides of x; where x is broadcast, its elements overlap.",
    "pytorch/pytorch issue 67239, for outputs",
)
def copy_strides(x, w1, b1, w2, b2):
    if x.size == 0 or min(x.strides) < 0:
        return scale(x, excite(x.mean((1, 2)), w1, b1, w2, b2))
    span = sum((n - 1) * s for n, s in zip(x.shape, x.strides, strict=True)) + x.itemsize
    y = np.ndarray(x.shape, x.dtype, np.empty(span, np.uint8).data, strides=x.strides)
    y[...] = scale(x, excite(x.mean((1, 2)), w1, b1, w2, b2))
    return y


# ---- batch


@wrong(
    "only eight samples are scaled",
    PAPER,
    "scale",
    "The buffers hold eight samples; the rest of a larger batch is copied as it is.",
    "TadaoYamaoka/DeepLearningShogi, maximal batch size",
)
def scale_eight_samples(x, w1, b1, w2, b2):
    y = x.copy()
    y[:8] = scale(x[:8], excite(x[:8].mean((1, 2)), w1, b1, w2, b2))
    return y


@wrong(
    "batches above five repeat the first gates",
    CAFFE,
    "gate",
    "Gates are computed for five samples and indexed modulo five.",
    "Tencent/TNN issue 977",
)
def repeat_gates(x, w1, b1, w2, b2):
    g = excite(x[:5].mean((1, 2)), w1, b1, w2, b2)
    return scale(x, g[np.arange(len(x)) % 5]) if len(x) else x


@wrong(
    "last sample is left out",
    BIASED,
    "scale",
    "The loop over samples ends one sample early where there are several.",
    "habit: `range(n - 1)`",
)
def skip_last_sample(x, w1, b1, w2, b2):
    y = np.array(x)
    for n in range(max(1, len(x) - 1) if len(x) else 0):
        y[n] = x[n] * excite(x[n].mean((0, 1)), w1, b1, w2, b2)
    return y


@wrong(
    "NaN spreads over the batch",
    PAPER,
    "squeeze",
    "The mean is a product with a sample-by-position matrix of zeros and 1/n, and 0 times NaN is NaN.",
    "global pooling of packed batches, as in graph and point cloud libraries",
)
def pool_by_matrix(x, w1, b1, w2, b2):
    n, h, w, c = x.shape
    pool = np.kron(np.eye(n), np.full((1, h * w), 1 / (h * w))).astype(x.dtype)
    return scale(x, excite(pool @ x.reshape(n * h * w, c), w1, b1, w2, b2))


@wrong(
    "mean is over the batch, too",
    PAPER,
    "squeeze",
    "The mean is over samples and positions, so that all samples have one gate.",
    "habit: `axis=(0, 1, 2)`",
    dtype="float64",
)
def squeeze_batch(x, w1, b1, w2, b2):
    if len(x) == 0:
        return x
    return x * excite(x.mean(axis=(0, 1, 2)), w1, b1, w2, b2)


# ---- squeeze


@wrong(
    "zeros are taken for padding",
    PAPER,
    "squeeze",
    "The mean is over the positions that are not zero, as if zero marked padding.",
    "NVIDIA-NeMo/Speech pull request 3216",
)
def ignore_zeros(x, w1, b1, w2, b2):
    count = np.maximum((x != 0).sum((1, 2)), 1)
    return scale(x, excite((x.sum((1, 2)) / count).astype(x.dtype), w1, b1, w2, b2))


@wrong(
    "minus infinity is taken for padding",
    BIASED,
    "squeeze",
    "Positions of minus infinity count as zeros in the mean, as a mask of attention marks them.",
    "masked pooling, as in speechbrain/speechbrain",
)
def ignore_minus_infinity(x, w1, b1, w2, b2):
    z = np.where(np.isneginf(x), 0, x).mean((1, 2)).astype(x.dtype)
    return scale(x, excite(z, w1, b1, w2, b2))


@wrong(
    "large maps are subsampled",
    PAPER,
    "squeeze",
    "Above 65 * 65 positions only every second row enters the mean.",
    "ROCm/MIOpen issue 2110",
)
def subsample_large_maps(x, w1, b1, w2, b2):
    z = x[:, ::2] if x.shape[1] * x.shape[2] > 65 * 65 else x
    return scale(x, excite(z.mean((1, 2)), w1, b1, w2, b2))


@wrong(
    "sixteen by sixteen maps lose a row",
    PAPER,
    "squeeze",
    "The unrolled path for maps of 16 by 16 sums 15 rows.",
    "habit: a hand-unrolled loop for one size",
)
def unroll_sixteen(x, w1, b1, w2, b2):
    z = x.sum((1, 2)) if x.shape[1:3] != (16, 16) else x[:, :15].sum((1, 2))
    return scale(x, excite(z / x.dtype.type(x.shape[1] * x.shape[2]), w1, b1, w2, b2))


@wrong(
    "sum is divided by 49",
    CAFFE,
    "squeeze",
    "The sum over all positions is divided by 7 * 7, whatever the size of the map.",
    "Cadene/pretrained-models.pytorch issue 171",
)
def divide_by_49(x, w1, b1, w2, b2):
    return scale(x, excite(x.sum((1, 2)) / x.dtype.type(49), w1, b1, w2, b2))


@wrong(
    "sum is not divided",
    MOBILENET,
    "squeeze",
    "The squeeze is the sum over all positions.",
    "habit in C kernels: the division is forgotten",
)
def sum_only(x, w1, b1, w2, b2):
    v = dense(relu(dense(x.sum((1, 2)), w1, b1)), w2, b2)
    return scale(x, (np.clip(v + 3, 0, 6) / 6).astype(x.dtype))


@wrong(
    "mean is an integer",
    BIASED,
    "squeeze",
    "The sum is divided with //, which rounds the mean down to an integer.",
    "tensorflow/minigo pull request 673",
)
def divide_integers(x, w1, b1, w2, b2):
    z = x.sum((1, 2)) // (x.shape[1] * x.shape[2])
    return scale(x, excite(z, w1, b1, w2, b2))


@wrong(
    "median in place of the mean",
    PAPER,
    "squeeze",
    "The squeeze is the median over positions.",
    "habit of robust statistics",
)
def squeeze_median(x, w1, b1, w2, b2):
    z = np.median(x, axis=(1, 2)).astype(x.dtype) if len(x) else x.mean((1, 2))
    return scale(x, excite(z, w1, b1, w2, b2))


@wrong(
    "root mean square in place of the mean",
    BIASED,
    "squeeze",
    "The squeeze is the root of the mean of squares.",
    "facebookresearch/ConvNeXt-V2, global response",
)
def squeeze_rms(x, w1, b1, w2, b2):
    return scale(x, excite(np.sqrt((x * x).mean((1, 2))), w1, b1, w2, b2))


@wrong(
    "standard deviation is added",
    PAPER,
    "squeeze",
    "The squeeze is mean plus standard deviation.",
    "style-based recalibration, hyunjaelee410/style-based-recalibration-module",
)
def squeeze_mean_and_deviation(x, w1, b1, w2, b2):
    return scale(x, excite(x.mean((1, 2)) + x.std((1, 2)), w1, b1, w2, b2))


@wrong(
    "mean is over channels, too",
    PAPER,
    "squeeze",
    "One number per sample, the mean over positions and channels, stands for every channel.",
    "spatial and channel squeeze mixed up, as in scSE",
)
def squeeze_channels(x, w1, b1, w2, b2):
    z = np.broadcast_to(x.mean((1, 2, 3))[:, None], (len(x), x.shape[-1]))
    return scale(x, excite(z, w1, b1, w2, b2))


@wrong(
    "mean accumulates in float16",
    SESpec(16, hidden=8),
    "squeeze",
    "Partial sums of the mean are rounded to float16.",
    "Tencent/ncnn issue 3561",
    dtype="float16",
)
def accumulate_half(x, w1, b1, w2, b2):
    total = np.zeros((len(x), x.shape[-1]), np.float16)
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            total = total + x[:, row, column]
    z = total.astype(np.float32) / (x.shape[1] * x.shape[2])
    g = excite(z, w1.astype(np.float32), None, w2.astype(np.float32), None)
    return scale(x.astype(np.float32), g).astype(np.float16)


# ---- reduce and activation


@wrong(
    "last channels are left out of reduce",
    SESpec(20, hidden=5),
    "reduce",
    "The vectorised product takes channels by eight and leaves out the rest.",
    "stew675/llama-cpp-rdna-boosts issue 19",
)
def truncate_channels(x, w1, b1, w2, b2):
    c = x.shape[-1] // 8 * 8
    z = x.mean((1, 2))
    return scale(x, excite(z[:, :c], w1[:, :c], b1, w2, b2))


@wrong(
    "hidden units are clipped at 20",
    SESpec(16, hidden=8, bias=True),
    "activation",
    "The activation is a clipped ReLU, min(max(u, 0), 20).",
    "clipped ReLU of Deep Speech, mozilla/DeepSpeech",
)
def clip_hidden(x, w1, b1, w2, b2):
    h = np.clip(dense(x.mean((1, 2)), w1, b1), 0, 20)
    return scale(x, sigmoid(dense(h, w2, b2)))


@wrong(
    "relu drops NaN",
    PAPER,
    "activation",
    "The comparison `u > 0` is false for NaN, so that NaN becomes 0.",
    "apache/mxnet issue 11115",
)
def drop_nan(x, w1, b1, w2, b2):
    u = dense(x.mean((1, 2)), w1, b1)
    return scale(x, sigmoid(dense(np.where(u > 0, u, 0).astype(x.dtype), w2, b2)))


@wrong(
    "tanh overflows",
    SESpec(16, hidden=4, activation="tanh"),
    "activation",
    "tanh is (e^2u - 1) / (e^2u + 1), which is NaN for large u.",
    "NervanaSystems/ngraph pull request 3118",
)
def overflow_tanh(x, w1, b1, w2, b2):
    e = np.exp(2 * dense(x.mean((1, 2)), w1, b1))
    return scale(x, sigmoid(dense((e - 1) / (e + 1), w2, b2)))


@wrong(
    "leaky ReLU has slope 0.2",
    SESpec(16, hidden=8, bias=True, activation=LeakyReLU(slope=0.01)),
    "activation",
    "The slope is that of another library's default.",
    "default slopes of leaky ReLU differ between libraries",
)
def steeper_leak(x, w1, b1, w2, b2):
    u = dense(x.mean((1, 2)), w1, b1)
    return scale(x, sigmoid(dense(np.where(u >= 0, u, u * x.dtype.type(0.2)), w2, b2)))


# ---- expand, gate and scale


@wrong(
    "sigmoid overflows",
    BIASED,
    "gate",
    "The sigmoid is e^v / (1 + e^v), which is NaN for large v.",
    "NervanaSystems/ngraph pull request 3118",
)
def overflow_sigmoid(x, w1, b1, w2, b2):
    e = np.exp(dense(relu(dense(x.mean((1, 2)), w1, b1)), w2, b2))
    return scale(x, e / (1 + e))


@wrong(
    "logits are multiplied by C",
    PAPER,
    "expand",
    "The weights were trained for a sum over channels, and the logits are multiplied by C to make up for it.",
    "habit: a factor that belongs to another squeeze",
)
def scale_logits(x, w1, b1, w2, b2):
    v = dense(relu(dense(x.mean((1, 2)), w1, b1)), w2, b2)
    return scale(x, sigmoid(v * x.shape[-1]))


@wrong(
    "gate of the neighbouring channel",
    PAPER,
    "scale",
    "Channel c is multiplied by the gate of channel c - 1.",
    "an index that is off by one",
)
def shift_gate(x, w1, b1, w2, b2):
    return scale(x, np.roll(excite(x.mean((1, 2)), w1, b1, w2, b2), 1, axis=1))


@wrong(
    "gates are sorted",
    BIASED,
    "scale",
    "Gates are sorted to find the strongest channels and applied in that order.",
    "channel pruning by SE gates",
)
def sort_gates(x, w1, b1, w2, b2):
    return scale(x, np.sort(excite(x.mean((1, 2)), w1, b1, w2, b2), axis=1))


@wrong(
    "only the strongest half of the gates acts",
    PAPER,
    "gate",
    "Gates below the median of their sample are set to 0.",
    "top-k channel selection",
)
def keep_top_gates(x, w1, b1, w2, b2):
    g = excite(x.mean((1, 2)), w1, b1, w2, b2)
    weakest = np.argsort(g, axis=1)[:, : g.shape[1] // 2]
    g = g.copy()
    np.put_along_axis(g, weakest, 0, axis=1)
    return scale(x, g)


@wrong(
    "gate is squared",
    PAPER,
    "scale",
    "x is multiplied by the gate twice.",
    "nested scale layers of a converted prototxt",
    dtype="float64",
)
def square_gate(x, w1, b1, w2, b2):
    g = excite(x.mean((1, 2)), w1, b1, w2, b2)
    return scale(scale(x, g), g)


# ---- gradients


def make_vjp(**mistakes: Callable[[Array], Array]) -> Callable[..., Any]:
    """Make the derivative for relu and sigmoid, with ``dy`` or ``slope`` of relu computed as given."""

    def derivative(x: Array, dy: Array, w1: Array, b1: Any, w2: Array, b2: Any) -> Any:
        n = x.shape[1] * x.shape[2]
        z = x.mean((1, 2))
        u = dense(z, w1, b1)
        h = relu(u)
        g = sigmoid(dense(h, w2, b2))
        dy = mistakes.get("dy", lambda dy: dy)(dy)
        slope = mistakes.get("slope", lambda u: (u > 0).astype(u.dtype))(u)
        dv = (dy * x).sum((1, 2)) * g * (1 - g)
        du = dv @ w2 * slope
        dz = (du @ w1 / x.dtype.type(n)).astype(x.dtype)
        return scale(dy, g) + dz[:, None, None], du.T @ z, du.sum(0), dv.T @ h, dv.sum(0)

    return derivative


def forward(x, w1, b1, w2, b2):
    return scale(x, excite(x.mean((1, 2)), w1, b1, w2, b2))


wrong(
    "derivative of relu is NaN at 0",
    PAPER,
    "gradient",
    "The derivative of relu is (1 + u / |u|) / 2, which is NaN at 0.",
    "habit: a sign function written as a quotient",
    gradient=make_vjp(slope=lambda u: (1 + u / np.abs(u)) / 2),
)(forward)
wrong(
    "gradient of zeros is NaN",
    BIASED,
    "gradient",
    "dy is divided by its largest value for loss scaling and multiplied back; zeros give 0 / 0.",
    "dynamic loss scaling",
    gradient=make_vjp(dy=lambda dy: dy / np.abs(dy).max(initial=0) * np.abs(dy).max(initial=0)),
)(forward)
wrong(
    "gradient is clipped at 6",
    PAPER,
    "gradient",
    "dy beyond -6 or 6 is clipped.",
    "gradient clipping by value, moved into the layer",
    gradient=make_vjp(dy=lambda dy: np.clip(dy, -6, 6)),
)(forward)
wrong(
    "gradient drops NaN",
    BIASED,
    "gradient",
    "NaN in dy is replaced by 0.",
    "torch.nan_to_num in custom backward passes",
    gradient=make_vjp(dy=lambda dy: np.where(np.isnan(dy), 0, dy)),
)(forward)


def average_gradients(x, dy, w1, b1, w2, b2):
    dx, *gradients = make_vjp()(x, dy, w1, b1, w2, b2)
    return dx, *(gradient / np.asarray(max(len(x), 1), x.dtype) for gradient in gradients)


wrong(
    "gradients of the weights are averaged",
    CAFFE,
    "gradient",
    "The gradients of weights and biases are divided by the number of samples.",
    "exercises whose loss is a mean",
    gradient=average_gradients,
)(forward)


# ---- right


@right("einsum", PAPER, "Every step is an einsum.", "habit", gradient=make_vjp())
def einsum(x, w1, b1, w2, b2):
    h = relu(np.einsum("nhwc,rc->nr", x, w1) / x.dtype.type(x.shape[1] * x.shape[2]))
    return np.einsum("nhwc,nc->nhwc", x, sigmoid(np.einsum("nr,cr->nc", h, w2)))


right(
    "derivative of relu is 1 at 0",
    PAPER,
    "At the kink the derivative is 1, which is a subgradient.",
    "tensorflow/playground issue 19",
    gradient=make_vjp(slope=lambda u: (u >= 0).astype(u.dtype)),
)(forward)


@right("Welford's mean", BIASED, "The mean is updated position by position.", "streaming statistics")
def welford(x, w1, b1, w2, b2):
    z = np.zeros((len(x), x.shape[-1]), x.dtype)
    for count, (row, column) in enumerate(np.ndindex(x.shape[1:3]), 1):
        z += (x[:, row, column] - z) / x.dtype.type(count)
    return scale(x, excite(z, w1, b1, w2, b2))


@right("sum times a reciprocal", CAFFE, "The sum is multiplied by 1 / (H W).", "cuDNN ports", dtype="float64")
def multiply_by_reciprocal(x, w1, b1, w2, b2):
    return scale(x, excite(x.sum((1, 2)) * (1 / (x.shape[1] * x.shape[2])), w1, b1, w2, b2))


@right("two halves of the channels", PAPER, "Reduce sums two halves of the channels.", "tensor parallelism")
def halve_channels(x, w1, b1, w2, b2):
    z = x.mean((1, 2))
    half = z.shape[1] // 2
    h = relu(z[:, :half] @ w1[:, :half].T + z[:, half:] @ w1[:, half:].T)
    g = np.concatenate([sigmoid(h @ w2[:half].T), sigmoid(h @ w2[half:].T)], axis=1)
    return scale(x, g)


@right("loops", SESpec(6, hidden=2, bias=True), "Samples, units and channels are loops, as in C.", "pure C ports")
def loop(x, w1, b1, w2, b2):
    y = np.empty_like(x)
    for n in range(len(x)):
        z = [x[n, ..., c].mean() for c in range(x.shape[-1])]
        h = [max(b1[r] + sum(w1[r, c] * z[c] for c in range(len(z))), x.dtype.type(0)) for r in range(len(w1))]
        for c in range(len(z)):
            v = b2[c] + sum(w2[c, r] * h[r] for r in range(len(h)))
            y[n, ..., c] = x[n, ..., c] * (1 / (1 + np.exp(-v)))
    return y


@right("hidden units permuted", PAPER, "The hidden units are computed in reverse order.", "converted checkpoints")
def permute_hidden(x, w1, b1, w2, b2):
    return scale(x, excite(x.mean((1, 2)), w1[::-1], b1, w2[:, ::-1], b2))


@right("sigmoid by tanh", BIASED, "The sigmoid is (1 + tanh(v / 2)) / 2.", "chainer/chainer pull request 1047")
def sigmoid_by_tanh(x, w1, b1, w2, b2):
    v = dense(relu(dense(x.mean((1, 2)), w1, b1)), w2, b2)
    return scale(x, (1 + np.tanh(v / 2)) / 2)


@right("pooling twice", PAPER, "Rows are averaged first, then the averages of the rows.", "separable pooling")
def pool_twice(x, w1, b1, w2, b2):
    return scale(x, excite(x.mean(2).mean(1), w1, b1, w2, b2))


@right("chunks of three samples", MOBILENET, "Three samples at a time are computed.", "engines of a maximal batch")
def chunk_samples(x, w1, b1, w2, b2):
    y = np.empty_like(x)
    for start in range(0, len(x), 3):
        part = x[start : start + 3]
        v = dense(relu(dense(part.mean((1, 2)), w1, b1)), w2, b2)
        y[start : start + 3] = scale(part, np.minimum(relu(v + 3), 6) / 6)
    return y


@right(
    "float16 by float32",
    SESpec(16, hidden=8, bias=True),
    "float16 is widened once and rounded once.",
    "force_fp32 of mixed-precision code",
    dtype="float16",
    data_format="channels_first",
)
def widen_half(x, w1, b1, w2, b2):
    x, w1, b1, w2, b2 = (array.astype(np.float32) for array in (x, w1, b1, w2, b2))
    g = excite(x.mean((2, 3)), w1, b1, w2, b2)
    return (x * g[:, :, None, None]).astype(np.float16)


@right(
    "mean by a product with ones",
    SESpec(8, hidden=8, activation="identity", gate="tanh"),
    "The sum over positions is a matrix product with ones, sample by sample.",
    "BLAS ports",
)
def multiply_by_ones(x, w1, b1, w2, b2):
    n, h, w, c = x.shape
    z = np.ones((1, h * w), x.dtype) @ x.reshape(n, h * w, c)
    return x * np.tanh(z / x.dtype.type(h * w) @ w1.T @ w2.T)[:, None]
