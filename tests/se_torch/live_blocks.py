"""Blocks as people write them, with their specs, and modules that resemble one and are none."""

import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from se_spec import HardSigmoid, LeakyReLU, SESpec


class Tutorial(nn.Module):
    """The tutorials' SELayer."""

    def __init__(self, channels: int = 16, hidden: int = 4, bias: bool = False) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=bias),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels, bias=bias),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        return x * self.fc(y).view(b, c, 1, 1).expand_as(x)


class Functional(nn.Module):
    """Convolutions, a mean, and functions of two stages that are arguments."""

    def __init__(self, act: Any = F.relu, gate: Any = torch.sigmoid, pool: Any = None, **options: Any) -> None:
        super().__init__()
        self.one = nn.Conv2d(16, 4, 1, **options)
        self.two = nn.Conv2d(4, 16, kernel_size=1, **options)
        self.act, self.gate = act, gate
        self.pool = pool or (lambda x: x.mean((2, 3), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.two(self.act(self.one(self.pool(x)))))


class BackToFront(nn.Module):
    """Layers in the other order, of a width above the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(24, 16), nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        s = self.up(F.gelu(self.down(F.adaptive_avg_pool2d(x, 1).flatten(1))))
        return x.mul(torch.sigmoid(s)[:, :, None, None])


class Raw(nn.Module):
    """Raw matrices of (inputs, outputs), and of equal widths."""

    def __init__(self, hidden: int = 4) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(16, hidden))
        self.second = nn.Parameter(torch.randn(hidden, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(torch.mean(x, dim=[-1, -2]) @ self.first) @ self.second
        return torch.einsum("nchw,nc->nchw", x, y.sigmoid())


class Named(nn.Module):
    """Residual, scaled, with leaky ReLU, for any rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        convolution = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
        self.layers = nn.ModuleDict({"a": convolution(16, 4, 1), "b": convolution(4, 16, 1)})
        self.pool = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d}[rank](1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.layers["a"](self.pool(x)), 0.17)
        return x + x * 2 * torch.tanh(self.layers["b"](y))


class Effective(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True))) * x


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 4), nn.Linear(4, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.b(self.a(x.mean((1, 2), keepdim=True)).relu()).sigmoid()


class OneBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 4, bias=False), nn.Linear(4, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.b(self.a(x.mean((2, 3))).relu()).sigmoid()[..., None, None]


class LockedSE(Tutorial):
    """A block with an attribute that no copy can be made of."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.layers = threading.Lock(), [1]

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return super().forward(x)


def make_gate() -> nn.Sequential:
    """The gate alone, as a Sequential."""
    layers = (nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid())
    return nn.Sequential(*layers)


def relu6_gate(v: Tensor) -> Tensor:
    return F.relu6(v + 3.0) / 6.0


def own_clip(v: Tensor) -> Tensor:
    return (0.3 * v + 0.4).clamp(0.05, 0.9)


def hard_swish(h: Tensor) -> Tensor:
    return h * F.relu6(h + 3) / 6


def both(x: Tensor) -> Tensor:
    return 0.5 * x.mean((2, 3), keepdim=True) + 0.5 * x.amax((2, 3), keepdim=True)


BIASED = SESpec(16, hidden=4, bias=True)
BLOCKS: dict[str, tuple[Any, SESpec]] = {
    "tutorial": (Tutorial, SESpec(16, hidden=4)),
    "tutorial, biases": (lambda: Tutorial(bias=True), BIASED),
    "tutorial, hidden 1": (lambda: Tutorial(hidden=1), SESpec(16, hidden=1)),
    "convolutions": (Functional, BIASED),
    "no bias": (lambda: Functional(bias=False), SESpec(16, hidden=4)),
    "silu module": (lambda: Functional(nn.SiLU()), BIASED.replace(activation="silu")),
    "swish by hand": (lambda: Functional(lambda h: h * h.sigmoid()), BIASED.replace(activation="silu")),
    "hard swish by hand": (lambda: Functional(hard_swish), BIASED.replace(activation="hard_swish")),
    "gelu tanh": (lambda: Functional(nn.GELU("tanh")), BIASED.replace(activation="gelu_tanh")),
    "relu6": (lambda: Functional(nn.ReLU6()), BIASED.replace(activation="relu6")),
    "leaky": (lambda: Functional(nn.LeakyReLU(0.123)), BIASED.replace(activation=LeakyReLU(0.123))),
    "no activation": (lambda: Functional(nn.Identity()), BIASED.replace(activation="identity")),
    "hard sigmoid module": (lambda: Functional(gate=nn.Hardsigmoid()), BIASED.replace(gate="hard_sigmoid")),
    "hard sigmoid by relu6": (lambda: Functional(gate=relu6_gate), BIASED.replace(gate="hard_sigmoid")),
    "hard sigmoid by clip": (
        lambda: Functional(gate=lambda v: (0.2 * v + 0.5).clamp(0, 1)),
        BIASED.replace(gate=HardSigmoid(slope=0.2, offset=0.5)),
    ),
    "hard sigmoid of GhostNet": (
        lambda: Functional(gate=lambda v: v.clamp(0, 1)),
        BIASED.replace(gate=HardSigmoid(slope=1, offset=0)),
    ),
    "hard sigmoid of nobody": (
        lambda: Functional(gate=own_clip),
        BIASED.replace(gate=HardSigmoid(slope=0.3, offset=0.4, low=0.05, high=0.9)),
    ),
    "tanh gate plus 1": (lambda: Functional(gate=lambda v: 1 + v.tanh()), BIASED.replace(gate="tanh", residual=True)),
    "gain": (lambda: Functional(gate=lambda v: 1.5 * v.sigmoid()), BIASED.replace(gain=1.5)),
    "maximum": (lambda: Functional(pool=nn.AdaptiveMaxPool2d(1)), BIASED.replace(squeeze="max")),
    "both": (lambda: Functional(pool=both), BIASED.replace(squeeze="avg_max")),
    "pool of one size": (lambda: Functional(pool=nn.AvgPool2d(7)), BIASED),
    "pool of square maps": (lambda: Functional(pool=lambda x: F.avg_pool2d(x, x.size(2))), BIASED),
    "back to front": (BackToFront, SESpec(16, hidden=24, bias=True, activation="gelu")),
    "matrices": (Raw, SESpec(16, hidden=4)),
    "equal widths": (lambda: Raw(16), SESpec(16, hidden=16)),
    **{
        f"rank {rank}": (
            lambda rank=rank: Named(rank),
            BIASED.replace(activation=LeakyReLU(0.17), gate="tanh", gain=2.0, residual=True),
        )
        for rank in (1, 3)
    },
    "effective": (Effective, SESpec(16, single_projection=True, bias=True, gate="hard_sigmoid")),
    "channels last": (ChannelsLast, BIASED),
    "one bias": (OneBias, BIASED),
    "attribute without copies": (LockedSE, SESpec(16, hidden=4)),
    "gate alone": (make_gate, BIASED),
    "gate alone, vectors": (lambda: nn.Sequential(*make_gate(), nn.Flatten()), BIASED),
    "dropout of 0": (lambda: nn.Sequential(*make_gate()[:3], nn.Dropout(0.0), *make_gate()[3:]), BIASED),
}


class NormSE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Conv2d(16, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3), keepdim=True))


class ChannelGate(nn.Module):
    """CBAM's: one bottleneck for the mean and the maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 16))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))
        return x * torch.sigmoid(logits)[..., None, None]


class CountingSE(Tutorial):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))


class BAM(nn.Module):
    """BAM's gate of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_c = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.gate_c(F.avg_pool2d(x, x.size(2))).unsqueeze(2).unsqueeze(3).expand_as(x)


def window_of_seven(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, [min(7, length) for length in x.shape[2:]])[:, :, :1, :1]


def mean_of_frames(x: Tensor) -> Tensor:
    heard = (x != 0).any(1, keepdim=True)
    return (x * heard).sum((2, 3), keepdim=True) / heard.sum((2, 3), keepdim=True)


def make_pruned() -> nn.Module:
    block = Tutorial()
    prune.l1_unstructured(block.fc[0], "weight", 0.5)
    return block


def make_state_hook() -> nn.Module:
    block = Tutorial()
    block.register_state_dict_post_hook(lambda *arguments: None)
    return block


class BasicBlock(nn.Module):
    """kuangliu's, which has no module for squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.fc1, self.fc2 = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        w = F.avg_pool2d(out, out.size()[2:])
        return out * self.fc2(F.relu(self.fc1(w))).sigmoid() + x


def make_parametrized() -> nn.Module:
    block = Tutorial()
    torch.nn.utils.parametrizations.weight_norm(block.fc[0])
    return block


def make_hooked() -> nn.Module:
    block = Tutorial()
    block.fc[2].register_forward_hook(lambda layer, arguments, y: None)
    return block


def make_quantized() -> nn.Module:
    block = Tutorial()
    kind = type("Linear", (nn.Linear,), {"__module__": "torch.ao.nn.quantized.dynamic.modules.linear"})
    block.fc[0], block.fc[2] = kind(16, 4), kind(4, 16)  # torch's own warns that it will be removed
    return block


NEAR = {
    "dropout": (lambda: nn.Sequential(*make_gate()[:3], nn.Dropout(0.2), *make_gate()[3:]), "dropout"),
    "batch norm": (NormSE, "BatchNorm2d ('fc.1')"),
    "CBAM": (ChannelGate, "its factors are those of no spec"),
    "wrong gate": (lambda: Functional(gate=lambda v: v.softmax(1)), "its factors are those of no spec"),
    "detached gate": (lambda: Functional(gate=lambda v: v.detach().sigmoid()), "its gradients are others than ours"),
    "window of seven": (lambda: Functional(pool=window_of_seven), "on a larger map its answer is another"),
    "silent frames": (lambda: Functional(pool=mean_of_frames), "on a map with zeros its answer is another"),
    "softplus": (lambda: Functional(act=F.softplus), "its factors are those of no spec"),
    "missing squeeze": (
        lambda: type("PointwiseSE", (Functional,), {})(pool=lambda x: x),
        "it does not scale each channel of a map by one number",
    ),
    "inside of another": (BasicBlock, "it computes squeeze and excitation in its own call, beside other layers"),
    "BAM": (BAM, "it has BatchNorm1d ('gate_c.2') beside its projections"),
    "pruned": (make_pruned, "its layer 'fc.0' has hooks"),
    "hooks of the state": (make_state_hook, "it has hooks of its state_dict"),
    "buffers": (CountingSE, "buffers, which ours would not have: calls"),
    "parametrized": (make_parametrized, "its layer 'fc.0' is parametrized (weight)"),
    "hooks of a layer": (make_hooked, "its layer 'fc.2' has hooks"),
    "quantized": (make_quantized, "its layer 'fc.0' is quantized (Linear)"),
    "PReLU": (lambda: Functional(nn.PReLU()), "its parameters are not those of one or two projections"),
    "groups": (
        lambda: type("GroupedSE", (Functional,), {})(groups=4),
        "its parameters are not those of one or two projections",
    ),
}


class Host(nn.Module):
    """A small network around a block, which may return its gate alone."""

    def __init__(self, block: nn.Module, rank: int = 2, is_last: bool = False) -> None:
        super().__init__()
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
        self.stem, self.se = convolution(3, 16, 3), block
        self.is_last = is_last

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x.movedim(1, -1) if self.is_last else x
        y = self.se(x)
        y = y if y.ndim == x.ndim else y.reshape(*y.shape, *(1 for _ in x.shape[2:]))
        return y if y.shape == x.shape else x * y
