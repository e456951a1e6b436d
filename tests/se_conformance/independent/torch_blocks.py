"""Blocks in PyTorch, in the habits of its tutorials and model repositories; channels first."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from se_spec import HardSigmoid, SESpec

from .base import Arrays, Registry, by_name, in_order


def to_tensor(array: np.ndarray | None) -> Any:
    """Share the array's memory with a tensor, or copy an array that torch refuses or warns of."""
    if array is None:
        return None
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_array(tensor: Any) -> Any:
    """Convert a tensor to an array of its dtype."""
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.detach().contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


def adapt(block: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``function(x, parameters)`` of a block."""

    def function(x: np.ndarray, parameters: Arrays) -> Any:
        with torch.no_grad():
            return to_array(block(*map(to_tensor, [x, *in_order(parameters)])))

    return function


def differentiate(block: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``vjp(x, dy, parameters)`` of a block by autograd."""

    def vjp(x: np.ndarray, dy: np.ndarray, parameters: Arrays) -> tuple[np.ndarray, Arrays]:
        leaves = [to_tensor(array) for array in (x, *in_order(parameters))]
        leaves = [None if leaf is None else leaf.clone().requires_grad_() for leaf in leaves]
        block(*leaves).backward(to_tensor(dy))
        gradients = [
            None if leaf is None else to_array(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
            for leaf in leaves
        ]
        return gradients[0], by_name(gradients[1:], parameters)

    return vjp


REGISTRY = Registry("torch", adapt, differentiate, "channels_first")
wrong, right = REGISTRY.wrong, REGISTRY.right

PAPER = SESpec.preset("moskomule", 64)
TIMM = SESpec.preset("timm.SEModule", 24)
EFFICIENTNET = SESpec.preset("timm.efficientnet", 16)
MOBILENET = SESpec.preset("torchvision.mobilenet_v3", 24)
EFFECTIVE = SESpec.preset("timm.EffectiveSEModule", 12)
SQUARE = SESpec(8, hidden=8, bias=True)


def logits(z: Tensor, w1: Tensor, b1: Any, w2: Tensor, b2: Any) -> Tensor:
    return F.linear(F.relu(F.linear(z, w1, b1)), w2, b2)


def excite(z: Tensor, *weights: Any) -> Tensor:
    return torch.sigmoid(logits(z, *weights))[:, :, None, None]


# ---- call


@wrong(
    "gate alone is returned",
    TIMM,
    "call",
    "The gate, (N, C, 1, 1), is returned, and the caller is expected to multiply.",
    "leothesouthafrican/Thesis",
)
def return_gate(x, w1, b1, w2, b2):
    return excite(x.mean((2, 3)), w1, b1, w2, b2)


@wrong(
    "gate has no spatial axes",
    PAPER,
    "call",
    "The map, (N, C, H, W), is multiplied by (N, C) as it is.",
    "PaddlePaddle/PaddleSeg pull request 1332",
)
def multiply_without_axes(x, w1, b1, w2, b2):
    return x * torch.sigmoid(logits(x.mean((2, 3)), w1, b1, w2, b2))


@wrong(
    "x is multiplied in place",
    EFFICIENTNET,
    "call",
    "`mul_` writes the result into x.",
    "in-place activations of MobileNetV3 code",
)
def multiply_in_place(x, w1, b1, w2, b2):
    g = torch.sigmoid(F.linear(F.silu(F.linear(x.mean((2, 3)), w1, b1)), w2, b2))
    return x.mul_(g[:, :, None, None])


@wrong(
    "float32 is returned for bfloat16",
    SESpec(16, hidden=4, bias=True),
    "call",
    "The block computes in float32 and does not cast back.",
    "NVIDIA-NeMo/Speech pull request 2302",
    dtype="bfloat16",
)
def return_float32(x, w1, b1, w2, b2):
    x, w1, b1, w2, b2 = (t.float() for t in (x, w1, b1, w2, b2))
    return x * excite(x.mean((2, 3)), w1, b1, w2, b2)


@wrong(
    "dropout is on",
    SESpec(16, hidden=8),
    "activation",
    "Dropout of the hidden units stays in training mode.",
    "mwalmsley/zoobot, dropout that is always on",
)
def drop_out(x, w1, b1, w2, b2):
    h = F.dropout(F.relu(F.linear(x.mean((2, 3)), w1)), 0.2, training=True)
    return x * torch.sigmoid(F.linear(h, w2))[:, :, None, None]


# ---- squeeze


@wrong(
    "view in place of a permutation",
    PAPER,
    "squeeze",
    "(N, C, H, W) is viewed as (N, H W, C) and averaged over the middle axis.",
    "tokens of transformers, xmu-xiaoma666/External-Attention-pytorch",
)
def view_as_tokens(x, w1, b1, w2, b2):
    n, c, h, w = x.shape
    return x * excite(x.reshape(n, h * w, c).mean(1), w1, b1, w2, b2)


@wrong(
    "pooling is not called",
    TIMM,
    "squeeze",
    "The 1x1 convolutions run over the whole map, so that each position has its own gate.",
    "xiaolai-sqlai/mobilenetv3 issue 12",
)
def forget_pooling(x, w1, b1, w2, b2):
    h = F.relu(F.conv2d(x, w1[:, :, None, None], b1))
    return x * torch.sigmoid(F.conv2d(h, w2[:, :, None, None], b2))


@wrong(
    "CBAM in place of the mean",
    SESpec(16, hidden=8),
    "squeeze",
    "The shared layers run over mean and maximum, and the logits of both are added.",
    "Jongchan/attention-module, AlexeyAB/darknet issue 8419",
)
def add_maximum_branch(x, w1, b1, w2, b2):
    v = logits(x.mean((2, 3)), w1, b1, w2, b2) + logits(x.amax((2, 3)), w1, b1, w2, b2)
    return x * torch.sigmoid(v)[:, :, None, None]


@wrong(
    "mean branch is added twice",
    PAPER,
    "expand",
    "The logits of the mean are added to themselves, where CBAM adds those of the maximum.",
    "MenghaoGuo/Awesome-Vision-Attentions issue 32",
)
def double_logits(x, w1, b1, w2, b2):
    z = F.adaptive_avg_pool2d(x, 1).flatten(1)
    return x * torch.sigmoid(logits(z, w1, b1, w2, b2) + logits(z, w1, b1, w2, b2))[:, :, None, None]


@wrong(
    "window of seven",
    MOBILENET,
    "squeeze",
    "Pooling has a fixed window of at most 7 x 7, of which only the first is used.",
    "Cadene/pretrained-models.pytorch issue 171",
)
def pool_seven(x, w1, b1, w2, b2):
    z = F.avg_pool2d(x, (min(7, x.shape[2]), min(7, x.shape[3])))[:, :, 0, 0]
    return x * F.hardsigmoid(logits(z, w1, b1, w2, b2))[:, :, None, None]


@wrong(
    "mean over one axis",
    SESpec(16, hidden=8, bias=True),
    "squeeze",
    "The mean is over the width alone, so that each row has its own gate.",
    "coordinate attention, one direction",
)
def squeeze_width(x, w1, b1, w2, b2):
    z = x.mean(3).transpose(1, 2)
    return x * torch.sigmoid(logits(z, w1, b1, w2, b2)).transpose(1, 2)[..., None]


@wrong(
    "maximum in place of the mean",
    EFFICIENTNET,
    "squeeze",
    "The squeeze is the maximum.",
    "timctho/mobilenet-v2-tensorflow issue 1",
)
def squeeze_maximum(x, w1, b1, w2, b2):
    h = F.silu(F.linear(F.adaptive_max_pool2d(x, 1).flatten(1), w1, b1))
    return x * torch.sigmoid(F.linear(h, w2, b2))[:, :, None, None]


@wrong(
    "sum overflows float16",
    SESpec(16, hidden=4),
    "squeeze",
    "The sum over positions is float16 before it is divided.",
    "Tencent/ncnn issue 3561",
    dtype="float16",
)
def overflow_half(x, w1, b1, w2, b2):
    z = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
    return (x.float() * excite(z.float(), w1.float(), None, w2.float(), None)).half()


@wrong(
    "mean accumulates in bfloat16",
    SESpec(16, hidden=8, bias=True),
    "squeeze",
    "Rows are added up in bfloat16 before the mean over columns.",
    "custom kernels for bfloat16",
    dtype="bfloat16",
)
def accumulate_bfloat16(x, w1, b1, w2, b2):
    total = torch.zeros_like(x[:, :, 0])
    for row in x.unbind(2):
        total = total + row
    z = total.float().mean(2) / x.shape[2]
    g = excite(z, w1.float(), b1.float(), w2.float(), b2.float())
    return (x.float() * g).bfloat16()


@wrong(
    "first frame stands for all",
    SESpec(16, hidden=4, bias=True),
    "squeeze",
    "In a 3-D map only the first slice is averaged.",
    "2-D code lifted to volumes, moskomule/senet.pytorch issue 62",
    ranks=(3,),
)
def squeeze_first_slice(x, w1, b1, w2, b2):
    return x * excite(x[:, :, 0].mean((2, 3)), w1, b1, w2, b2)[..., None]


@wrong(
    "silent frames are taken for padding",
    SESpec(16, hidden=4),
    "squeeze",
    "Frames whose channels are all zero leave the mean, as padding of a shorter recording.",
    "speechbrain/speechbrain, mask of lengths",
    ranks=(1,),
)
def mask_frames(x, w1, b1, w2, b2):
    mask = (x != 0).any(1, keepdim=True).to(x)
    z = (x * mask).sum(2) / mask.sum(2).clamp(min=1)
    return x * torch.sigmoid(logits(z, w1, b1, w2, b2))[..., None]


# ---- reduce


@wrong(
    "batch norm in the bottleneck",
    SESpec(16, hidden=8),
    "reduce",
    "Batch norm with the statistics of the batch follows reduce.",
    "xiaolai-sqlai/mobilenetv3 issue 15",
)
def normalise_batch(x, w1, b1, w2, b2):
    u = F.linear(x.mean((2, 3)), w1)
    u = (u - u.mean(0)) / torch.sqrt(((u - u.mean(0)) ** 2).mean(0) + 1e-5)
    return x * torch.sigmoid(F.linear(F.relu(u), w2))[:, :, None, None]


@wrong(
    "layer norm in the bottleneck",
    SESpec(16, hidden=8, bias=True),
    "reduce",
    "Layer norm follows reduce.",
    "global context blocks, xvjiarui/GCNet",
)
def normalise_layer(x, w1, b1, w2, b2):
    u = F.layer_norm(F.linear(x.mean((2, 3)), w1, b1), w1.shape[:1])
    return x * torch.sigmoid(F.linear(F.relu(u), w2, b2))[:, :, None, None]


@wrong(
    "reduce is transposed",
    SQUARE,
    "reduce",
    "reduce's square weight is used as (in, out).",
    "weights ported from Keras without a transposition",
)
def transpose_reduce(x, w1, b1, w2, b2):
    return x * excite(x.mean((2, 3)), w1.T, b1, w2, b2)


@wrong(
    "biases are swapped",
    SQUARE,
    "reduce",
    "Each projection adds the bias of the other.",
    "checkpoints loaded by position",
)
def swap_biases(x, w1, b1, w2, b2):
    return x * excite(x.mean((2, 3)), w1, b2, w2, b1)


@wrong(
    "reduce has no bias",
    TIMM,
    "reduce",
    "The bias of reduce is not added.",
    "`bias=False` of the tutorials, hujie-frank/SENet issue 78",
)
def drop_reduce_bias(x, w1, b1, w2, b2):
    return x * excite(x.mean((2, 3)), w1, None, w2, b2)


@wrong(
    "reduce is grouped",
    SESpec(16, hidden=8),
    "reduce",
    "reduce is a convolution of four groups.",
    "split attention, zhanghang1989/ResNeSt",
)
def group_reduce(x, w1, b1, w2, b2):
    weight = torch.cat([w1[2 * i : 2 * i + 2, 4 * i : 4 * i + 4] for i in range(4)])
    h = F.relu(F.conv2d(F.adaptive_avg_pool2d(x, 1), weight[:, :, None, None], groups=4))
    return x * torch.sigmoid(F.conv2d(h, w2[:, :, None, None]))


@wrong(
    "bottleneck is twice as wide",
    SESpec(16, hidden=4),
    "reduce",
    "The bottleneck has eight units; weights of four are repeated to fill it.",
    "braindecode/braindecode pull request 955",
)
def widen_bottleneck(x, w1, b1, w2, b2):
    return x * excite(x.mean((2, 3)), w1.repeat(2, 1), None, w2.repeat(1, 2), None)


@wrong(
    "autocast is on inside",
    PAPER,
    "reduce",
    "The projections run under autocast in bfloat16, although x is float32.",
    "mixed-precision training code",
)
def autocast_inside(x, w1, b1, w2, b2):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        g = excite(x.mean((2, 3)), w1, b1, w2, b2)
    return x * g.to(x.dtype)


# ---- activation


@wrong("mish", SESpec(16, hidden=8, bias=True), "activation", "The activation is mish.", "digantamisra98/Mish")
def activate_mish(x, w1, b1, w2, b2):
    h = F.mish(F.linear(x.mean((2, 3)), w1, b1))
    return x * torch.sigmoid(F.linear(h, w2, b2))[:, :, None, None]


@wrong(
    "approximate GELU",
    SESpec(16, hidden=8, bias=True, activation="gelu"),
    "activation",
    "GELU is the approximation by tanh.",
    "checkpoints of JAX, whose default it is",
)
def activate_gelu_tanh(x, w1, b1, w2, b2):
    h = F.gelu(F.linear(x.mean((2, 3)), w1, b1), approximate="tanh")
    return x * torch.sigmoid(F.linear(h, w2, b2))[:, :, None, None]


@wrong(
    "one dropout mask for ever",
    SESpec(16, hidden=8),
    "activation",
    "Hidden units are multiplied by a dropout mask of a fixed seed.",
    "variational dropout without its scope",
)
def fix_dropout(x, w1, b1, w2, b2):
    keep = torch.rand(w1.shape[0], generator=torch.Generator().manual_seed(0)) > 0.3
    h = F.relu(F.linear(x.mean((2, 3)), w1)) * keep / 0.7
    return x * torch.sigmoid(F.linear(h, w2))[:, :, None, None]


@wrong(
    "ReLU6 in place of ReLU",
    SESpec(16, hidden=8, bias=True),
    "activation",
    "The activation is cut at 6.",
    "MobileNetV2 code, shicai/MobileNet-Caffe issue 51",
)
def activate_relu6(x, w1, b1, w2, b2):
    h = F.relu6(F.linear(x.mean((2, 3)), w1, b1))
    return x * torch.sigmoid(F.linear(h, w2, b2))[:, :, None, None]


# ---- expand and gate


@wrong(
    "projections are left out",
    SESpec(8, hidden=8),
    "reduce",
    "The gate is the sigmoid of the mean.",
    "mnikitin/channel-attention, SEv1",
)
def skip_projections(x, w1, b1, w2, b2):
    return x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1))


@wrong(
    "second projection is left out",
    SQUARE,
    "expand",
    "Only reduce and its activation stand before the gate.",
    "effective SE read from SE weights",
)
def skip_expand(x, w1, b1, w2, b2):
    return x * torch.sigmoid(F.relu(F.linear(x.mean((2, 3)), w1, b1)))[:, :, None, None]


@wrong(
    "band of channels",
    EFFECTIVE,
    "expand",
    "Each logit sees its channel and the two beside it, as in a 1-D convolution over channels.",
    "efficient channel attention, BangguWu/ECANet",
)
def band_channels(x, w1, b1, w2, b2):
    band = torch.ones_like(w2).triu(-1).tril(1)
    return x * F.hardsigmoid(F.linear(x.mean((2, 3)), w2 * band, b2))[:, :, None, None]


@wrong(
    "sigmoid is applied twice", TIMM, "gate", "The gate is the sigmoid of the sigmoid.", "huoxiangzuo/HiFuse issue 9"
)
def apply_sigmoid_twice(x, w1, b1, w2, b2):
    return x * torch.sigmoid(excite(x.mean((2, 3)), w1, b1, w2, b2))


@wrong(
    "softmax gate",
    PAPER,
    "gate",
    "The gates of a sample are a softmax over channels.",
    "titu1994/keras-squeeze-excite-network issue 7",
)
def gate_softmax(x, w1, b1, w2, b2):
    return x * torch.softmax(logits(x.mean((2, 3)), w1, b1, w2, b2), 1)[:, :, None, None]


@wrong(
    "hard sigmoid of slope one half",
    MOBILENET,
    "gate",
    "The hard sigmoid is min(max((v + 1) / 2, 0), 1).",
    "SegmentationBLWX/sssegmentation issue 26",
)
def gate_half_slope(x, w1, b1, w2, b2):
    return x * ((logits(x.mean((2, 3)), w1, b1, w2, b2) + 1) / 2).clamp(0, 1)[:, :, None, None]


@wrong(
    "gate is a bare clamp", EFFECTIVE, "gate", "The gate is min(max(v, 0), 1).", "iamhankai/ghostnet.pytorch issue 2"
)
def gate_clamp(x, w1, b1, w2, b2):
    return x * F.linear(x.mean((2, 3)), w2, b2).clamp(0, 1)[:, :, None, None]


@wrong(
    "hard sigmoid forgets its divisor",
    MOBILENET,
    "gate",
    "The gate is ReLU6(v + 3), up to 6.",
    "hard sigmoid written from memory",
)
def gate_relu6(x, w1, b1, w2, b2):
    return x * F.relu6(logits(x.mean((2, 3)), w1, b1, w2, b2) + 3)[:, :, None, None]


@wrong(
    "gate of the first sample",
    SESpec(16, hidden=4, bias=True),
    "scale",
    "Every sample is multiplied by the gate of the first.",
    "batch of one in exported graphs",
)
def broadcast_first_gate(x, w1, b1, w2, b2):
    return x * excite(x.mean((2, 3)), w1, b1, w2, b2)[:1]


# ---- scale


@wrong(
    "ReLU after the product",
    SESpec(16, hidden=8),
    "scale",
    "A ReLU follows the product.",
    "d-li14/mobilenetv3.pytorch issue 18",
)
def rectify_product(x, w1, b1, w2, b2):
    return F.relu(x * excite(x.mean((2, 3)), w1, b1, w2, b2))


@wrong(
    "residual is added twice",
    SESpec.preset("monai.ResidualSELayer", 16),
    "scale",
    "x is added inside the block and again after it.",
    "Project-MONAI/MONAI, residual layer in a residual unit",
)
def add_residual_twice(x, w1, b1, w2, b2):
    h = F.leaky_relu(F.linear(x.mean((2, 3)), w1, b1), 0.01)
    return x * F.relu(F.linear(h, w2, b2))[:, :, None, None] + x + x


@wrong(
    "gate follows the residual",
    SESpec(16, hidden=8, residual=True),
    "scale",
    "x is added first, and the sum is multiplied by the gate.",
    "SE after the sum, the SE-POST of the paper",
)
def gate_after_residual(x, w1, b1, w2, b2):
    return (x + x) * excite(x.mean((2, 3)), w1, b1, w2, b2)


@wrong(
    "scale and shift",
    SESpec(16, hidden=8),
    "scale",
    "The logits are a shift besides the gate, as in units with two outputs.",
    "LeelaChessZero/lc0 pull request 459, tensorflow/minigo issue 683",
)
def shift_by_logits(x, w1, b1, w2, b2):
    v = logits(x.mean((2, 3)), w1, b1, w2, b2)[:, :, None, None]
    return x * torch.sigmoid(v) + v


# ---- gradients


@wrong(
    "gate is detached",
    PAPER,
    "gradient",
    "No gradient flows through the gate.",
    "attention maps that are detached for plots",
    gradient=True,
)
def detach_gate(x, w1, b1, w2, b2):
    return x * excite(x.mean((2, 3)), w1, b1, w2, b2).detach()


@wrong(
    "descriptor is detached",
    TIMM,
    "gradient",
    "The gradient of the gate does not reach x.",
    "`with torch.no_grad()` around pooling",
    gradient=True,
)
def detach_descriptor(x, w1, b1, w2, b2):
    return x * excite(x.detach().mean((2, 3)), w1, b1, w2, b2)


@wrong(
    "gradient passes straight through",
    MOBILENET,
    "gradient",
    "The hard sigmoid's gradient is that of its line, also where it is cut.",
    "straight-through estimators of quantised training",
    gradient=True,
)
def pass_straight_through(x, w1, b1, w2, b2):
    class StraightThrough(torch.autograd.Function):
        forward = staticmethod(lambda context, v: F.hardsigmoid(v))
        backward = staticmethod(lambda context, dy: dy / 6)

    return x * StraightThrough.apply(logits(x.mean((2, 3)), w1, b1, w2, b2))[:, :, None, None]


# ---- right


@right(
    "SELayer of the tutorials",
    PAPER,
    "Adaptive pooling, two linear layers and `expand_as`.",
    "moskomule/senet.pytorch",
    gradient=True,
)
def expand_as(x, w1, b1, w2, b2):
    n, c, _, _ = x.size()
    y = F.adaptive_avg_pool2d(x, 1).view(n, c)
    y = torch.sigmoid(F.linear(F.relu(F.linear(y, w1)), w2)).view(n, c, 1, 1)
    return x * y.expand_as(x)


@right("1x1 convolutions", TIMM, "Both projections are 1x1 convolutions of one position.", "timm", gradient=True)
def convolve(x, w1, b1, w2, b2):
    h = F.relu(F.conv2d(x.mean((2, 3), keepdim=True), w1[..., None, None], b1))
    return x * F.conv2d(h, w2[..., None, None], b2).sigmoid()


@right(
    "pooling after a linear map",
    SESpec(16, hidden=8, bias=True),
    "reduce is applied at every position and averaged then, which is the same for a linear map.",
    "fused kernels",
)
def pool_after_reduce(x, w1, b1, w2, b2):
    u = F.conv2d(x, w1[..., None, None]).mean((2, 3)) + b1
    return x * F.linear(u.relu(), w2, b2).sigmoid()[..., None, None]


@right(
    "bfloat16 in float32",
    SESpec(16, hidden=8),
    "bfloat16 is widened once and rounded once.",
    "NVIDIA apex, layers kept in float32",
    dtype="bfloat16",
)
def widen_bfloat16(x, w1, b1, w2, b2):
    wide = x.float()
    return (wide * excite(wide.mean((2, 3)), w1.float(), None, w2.float(), None)).to(x.dtype)


@right(
    "bfloat16 intermediates",
    SESpec(16, hidden=8, bias=True),
    "Each layer rounds its result to bfloat16 and accumulates in float32.",
    "torchvision in bfloat16",
    dtype="bfloat16",
)
def round_bfloat16(x, w1, b1, w2, b2):
    return x * excite(F.adaptive_avg_pool2d(x, 1).flatten(1), w1, b1, w2, b2)


@right("vmap over samples", SESpec(16, hidden=8), "The block is written for one sample and vectorised.", "torch.func")
def map_samples(x, w1, b1, w2, b2):
    if len(x) == 0:
        return x
    return torch.vmap(lambda one: one * (w2 @ (w1 @ one.mean((1, 2))).relu()).sigmoid()[:, None, None])(x)


@right(
    "average pooling of equal windows",
    MOBILENET,
    "Windows of two by two are averaged first where they fit.",
    "pyramid pooling",
)
def pool_windows(x, w1, b1, w2, b2):
    z = F.avg_pool2d(x, 2) if x.shape[2] % 2 == x.shape[3] % 2 == 0 else x
    v = logits(z.mean((2, 3)), w1, b1, w2, b2)
    return x * (F.relu6(v + 3) / 6)[..., None, None]


@right("channels last inside", EFFICIENTNET, "The map is permuted to channels last and back.", "ConvNeXt code")
def permute_inside(x, w1, b1, w2, b2):
    y = x.permute(0, 2, 3, 1)
    h = F.silu(F.linear(y.mean((1, 2), keepdim=True), w1, b1))
    return (y * F.linear(h, w2, b2).sigmoid()).permute(0, 3, 1, 2)


@right(
    "mean and maximum",
    SESpec.preset("timm.SEModule.add_maxpool", 24),
    "Half the mean plus half the maximum is squeezed.",
    "timm",
    gradient=True,
)
def add_maximum(x, w1, b1, w2, b2):
    return x * excite(0.5 * x.mean((2, 3)) + 0.5 * x.amax((2, 3)), w1, b1, w2, b2)


@right(
    "volumes",
    SESpec(16, hidden=8, bias=True),
    "A 3-D map is viewed as one spatial axis.",
    "Project-MONAI/MONAI",
    ranks=(3,),
)
def flatten_volume(x, w1, b1, w2, b2):
    g = torch.sigmoid(logits(x.flatten(2).mean(-1), w1, b1, w2, b2))
    return (x.flatten(2) * g[..., None]).view(x.shape)


@right(
    "recordings",
    SESpec(16, hidden=8),
    "1-D convolutions act on the mean over time.",
    "speechbrain/speechbrain",
    ranks=(1,),
    dtype="float64",
)
def convolve_recordings(x, w1, b1, w2, b2):
    h = F.relu(F.conv1d(x.mean(2, keepdim=True), w1[..., None]))
    return x * torch.sigmoid(F.conv1d(h, w2[..., None]))


@right(
    "clamp of a line",
    SESpec.preset("paddleclas.ghostnet", 16),
    "The declared gate is the line v, cut at 0 and 1.",
    "iamhankai/ghostnet.pytorch issue 2",
)
def clamp_line(x, w1, b1, w2, b2):
    return x * torch.clamp(logits(x.mean((2, 3)), w1, b1, w2, b2), 0, 1)[..., None, None]


@right(
    "declared slope",
    SESpec(16, hidden=8, gate=HardSigmoid(slope=0.2, offset=0.5)),
    "The gate is declared with slope 0.2 and has it.",
    "Keras 2 layers ported to PyTorch",
)
def gate_declared_slope(x, w1, b1, w2, b2):
    v = logits(x.mean((2, 3)), w1, b1, w2, b2)
    return x * torch.clip(torch.addcmul(torch.full_like(v, 0.5), v, torch.full_like(v, 0.2)), 0, 1)[..., None, None]
