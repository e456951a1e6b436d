"""The named networks, each as its source builds it: ``network("se_resnet50")``.

Names without a prefix are the authors' own (hujie-frank/SENet 0262d43, models/*.prototxt), the same without SE, and
``se_resnet18``/``34``, which the authors do not have: their stem, pooling and biases on basic units (the
parameters of timm's ``legacy_seresnet18``/``34``, which have one ReLU more per unit). ``se_resnet20``/``32``/``56`` are
moskomule's for CIFAR. Others carry their system:

===============  =========================================================================================
``timm.``        1.0.31: ``legacy_*`` (Cadene's port of the authors' nets), ``seresnet50``, ``seresnext50_32x4d``
``shicai.``      shicai/SENet-Caffe d577a92
``tensorpack.``  tensorpack 1547a54, examples/ResNet, ``--mode se``
``mxnet.``       bruinxiong/SENet.mxnet 5f0b469: post-activation ResNeXt, pre-activation ResNet
``moskomule.``   moskomule/senet.pytorch 8cb2669: torchvision's ResNets with SE
``chainer.``     nutszebra/SENets 2a5a0b3: ``se_resnet_n{N}_r{r}`` and ``resnet_n{N}``, any N and r
``taki.``        taki0112/SENet-Tensorflow 41b12c4, SE_ResNeXt.py
===============  =========================================================================================

A network's parameters keep its source's channel order: the authors', shicai's and tensorpack's see BGR. Momentum is
Caffe's default of 0.999 where a deploy prototxt says nothing.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

from ..errors import SpecError
from ..hints import suggest_name
from ..texts import quote
from .families import Inception, Residual, Shortcut, Stage
from .parts import ConvStep, Head, PoolStep, SEFields, Stem, Step
from .spec import NetworkSpec

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Units per stage on ImageNet; 18 and 34 have basic units."""

_STEM = Stem((ConvStep(64, 7, 2), PoolStep()))
_STEM_OF_THREE = Stem((ConvStep(64, 3, 2), ConvStep(64, 3), ConvStep(128, 3), PoolStep()))
_BIASED = SEFields(bias=True)
_CAFFE: dict[str, Any] = {"pool_padding": "ceil", "momentum": 0.999, "se": _BIASED}


def _stages(depth: int, first: float = 1 / 4, second: float = 1 / 4) -> tuple[Stage, ...]:
    """Make a ResNet's stages; ``first`` and ``second`` are a bottleneck's widths as shares of its channels."""
    basic = depth < 50
    stages = []
    for index, units in enumerate(DEPTHS[depth]):
        channels = (64 if basic else 256) * 2**index
        widths = (channels,) if basic else (int(channels * first), int(channels * second))
        stages.append(Stage(units, channels, widths, 1 if index == 0 else 2))
    return tuple(stages)


def _residual(stem: Stem, stages: tuple[Stage, ...], facts: dict[str, Any]) -> NetworkSpec:
    """Build a residual network; ``facts`` are fields of its body and of the network."""
    of_body = {name: value for name, value in facts.items() if name in Residual.__dataclass_fields__}
    rest = {name: value for name, value in facts.items() if name not in of_body}
    return NetworkSpec(**{"stem": stem, **rest, "body": Residual(stages, **of_body)})


def _resnet(depth: int, **facts: Any) -> NetworkSpec:
    return _residual(_STEM, _stages(depth), facts)


def _resnext(depth: int, groups: int = 32, **facts: Any) -> NetworkSpec:
    return _residual(_STEM, _stages(depth, 1 / 2, 1 / 2), {"groups": groups, **facts})


def _senet154(**facts: Any) -> NetworkSpec:
    shortcut, head = Shortcut(kernel=3), Head(dropout=0.2)  # the prototxt names it 1x1, but its kernel is 3
    return _residual(
        _STEM_OF_THREE, _stages(152, 1 / 2, 1), {"groups": 64, "shortcut": shortcut, "head": head, **facts}
    )


def _module(one: int, three: tuple[int, int], double: tuple[int, int], pool: tuple[str, int]) -> tuple[Any, ...]:
    """Inception with batch norm: 1x1, 3x3, double 3x3 and pool; no 1x1 and no projection where the stride is 2."""
    stride = 1 if one else 2
    branches: list[tuple[Step, ...]] = [(ConvStep(one, 1),)] if one else []
    branches.append((ConvStep(three[0], 1), ConvStep(three[1], 3, stride)))
    branches.append((ConvStep(double[0], 1), ConvStep(double[1], 3), ConvStep(double[1], 3, stride)))
    pooled = PoolStep(pool[0], 3, stride)
    branches.append((pooled, ConvStep(pool[1], 1)) if pool[1] else (pooled,))
    return tuple(branches)


def _bn_inception(**facts: Any) -> NetworkSpec:
    stem = Stem((ConvStep(64, 7, 2), PoolStep(), ConvStep(64, 1), ConvStep(192, 3), PoolStep()))
    three = (
        _module(64, (64, 64), (64, 96), ("avg", 32)),
        _module(64, (64, 96), (64, 96), ("avg", 64)),
        _module(0, (128, 160), (64, 96), ("max", 0)),
    )
    four = (
        _module(224, (64, 96), (96, 128), ("avg", 128)),
        _module(192, (96, 128), (96, 128), ("avg", 128)),
        _module(160, (128, 160), (128, 160), ("avg", 128)),
        _module(96, (128, 192), (160, 192), ("avg", 128)),
        _module(0, (128, 192), (192, 256), ("max", 0)),
    )
    five = (
        _module(352, (192, 320), (160, 224), ("avg", 128)),
        _module(352, (192, 320), (192, 224), ("max", 128)),
    )
    return NetworkSpec(stem, Inception((three, four, five)), **facts)


def _cifar(units: int, **facts: Any) -> NetworkSpec:
    stages = tuple(Stage(units, width, (width,), 1 if width == 16 else 2) for width in (16, 32, 64))
    return _residual(Stem((ConvStep(16, 3),)), stages, {"num_classes": 10, "input_size": 32, **facts})


def _taki(**facts: Any) -> NetworkSpec:
    """Make the network; its eight parallel branches of 64 are one convolution to 512 and one of 8 groups."""
    stages = tuple(Stage(3, channels, (512, 512), 1 if channels == 64 else 2) for channels in (64, 128, 256))
    own: dict[str, Any] = {
        "groups": 8,
        "padding": "same",
        "pool_padding": "same",
        "epsilon": 1e-3,
        "head": Head(bias=False),
    }
    own |= {"shortcut": Shortcut("zero_pad", pool=2, zeros="both"), "num_classes": 10, "input_size": 32}
    return _residual(Stem((ConvStep(64, 3),)), stages, {**own, **facts})


def _chainer(units: int, se: SEFields | None) -> NetworkSpec:
    stages = tuple(Stage(units, 4 * width, (width, width), 1 if width == 16 else 2) for width in (16, 32, 64))
    shortcut = Shortcut("zero_pad", pool=1, entry="norm_relu", always=True)
    body = Residual(stages, shortcut, order="pre", stride_on="1x1")
    head = Head("conv", before=("relu", "bn", "relu"))
    stem = Stem((ConvStep(16, 3),), norm=False)
    size: dict[str, Any] = {"num_classes": 10, "input_size": 32}
    return NetworkSpec(stem, body, head, se, conv_bias=True, epsilon=2e-5, **size)


def _mxnet(post: bool) -> dict[str, Any]:
    stem = Stem(_STEM.steps, input_norm=True)
    own: dict[str, Any] = {"stem": stem, "epsilon": 2e-5, "se": _BIASED}
    if post:
        return {**own, "shortcut": Shortcut(always=True)}
    shortcut = Shortcut(norm=False, entry="shared", always=True)
    return {**own, "order": "pre", "shortcut": shortcut, "head": Head(before=("bn", "relu"))}


Maker = Callable[..., NetworkSpec]


def _table() -> Iterator[tuple[str, Maker]]:
    tensorpack = {"padding": "same", "pool_padding": "same", "se": _BIASED}
    cadene = {**_CAFFE, "momentum": 0.9}
    for depth in DEPTHS:
        yield f"se_resnet{depth}", partial(_resnet, depth, stride_on="1x1", **_CAFFE)
        legacy = {**cadene, "last_relu": depth < 50}  # timm's basic block only: SE sees no negative number
        yield f"timm.legacy_seresnet{depth}", partial(_resnet, depth, stride_on="1x1", **legacy)
        yield f"mxnet.se_resnet{depth}", partial(_resnet, depth, **_mxnet(post=False))
        yield f"moskomule.se_resnet{depth}", partial(_resnet, depth, se=SEFields())
    for depth in (50, 101, 152):
        yield f"tensorpack.resnet{depth}_se", partial(_resnet, depth, **tensorpack)
        yield f"mxnet.se_resnext{depth}_32x4d", partial(_resnext, depth, **_mxnet(post=True))
    for depth in (50, 101):
        yield f"se_resnext{depth}_32x4d", partial(_resnext, depth, **_CAFFE)
        yield f"timm.legacy_seresnext{depth}_32x4d", partial(_resnext, depth, **cadene)
    for depth, units in ((20, 3), (32, 5), (56, 9)):
        yield f"se_resnet{depth}", partial(_cifar, units, se=SEFields())
    yield "senet154", partial(_senet154, **_CAFFE)
    yield "timm.legacy_senet154", partial(_senet154, **cadene)
    yield "se_bn_inception", partial(_bn_inception, **_CAFFE)
    yield "timm.seresnet50", partial(_resnet, 50, se=_BIASED)
    yield "timm.seresnext50_32x4d", partial(_resnext, 50, se=_BIASED)
    yield "shicai.se_resnet50", partial(_resnet, 50, epsilon=1e-4, input_size=225, **_CAFFE)
    yield "mxnet.se_resnext50_64x2d", partial(_resnext, 50, 64, **_mxnet(post=True))
    yield "taki.se_resnext_cifar", partial(_taki, se=SEFields(4))


_WITH_SE = dict(_table())
_WORD = re.compile("se_|_se$")
_PLAIN = {_WORD.sub("", name): partial(make, se=None) for name, make in _WITH_SE.items() if _WORD.search(name)}
_CHAINER = re.compile(r"chainer\.(?:se_resnet_n([1-9]\d*)_r([1-9]\d*)|resnet_n([1-9]\d*))")

NETWORKS = (*_WITH_SE, *_PLAIN, "chainer.se_resnet_n18_r16", "chainer.se_resnet_n18_r8", "chainer.resnet_n18")
"""Every name; the Chainer nets have any N and r, and here those of their README."""


def network(name: str | NetworkSpec, **overrides: Any) -> NetworkSpec:
    """Make a named network.

    Args:
        name: a name in ``NETWORKS``, such as ``"se_resnet50"``; or a network, which is returned as it is.
        **overrides: fields of the network or of its body that are replaced: ``num_classes``, ``channels`` (of the
            image), ``se`` (None, a ``SESpec`` or a dict of its fields), ...

    Returns:
        The network; equal names and overrides give equal networks.

    Raises:
        SpecError: no such name, no such field, or a value that is not allowed.

    >>> network("se_resnet50").parameter_count(), network("se_resnet50", se={"reduction": 8}).parameter_count()
    (28088024, 30586920)
    >>> network("resnet50") == network("se_resnet50", se=None)
    True
    >>> network("chainer.se_resnet_n18_r16").parameter_count()
    1875906
    """
    if not isinstance(name, str | NetworkSpec):
        raise SpecError(f"a network must be given by its name or as a NetworkSpec, got {type(name).__name__}")
    net = name if isinstance(name, NetworkSpec) else _build(name)
    return net.replace(**overrides) if overrides else net


@lru_cache(256)
def _build(name: str) -> NetworkSpec:
    """Make the network of its source; the result is cached, since expanding it into layers takes milliseconds."""
    if found := _CHAINER.fullmatch(name):
        units, ratio, plain = found.groups()
        return _chainer(int(units or plain), SEFields(int(ratio), bias=True) if ratio else None)
    if make := _WITH_SE.get(name, _PLAIN.get(name)):
        return make()
    hint = suggest_name(name, NETWORKS)
    raise SpecError(f"network {quote(name)} is not known; se_spec.networks.NETWORKS lists all{hint}")
