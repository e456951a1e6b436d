"""Outputs of other people's code, with their weights: the weights that ``se_port`` reads reproduce them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import se_numpy
import se_port
from se_port import formats
from se_spec import SESpec, network
from se_spec.networks import SEFields

from ..conftest import requested_targets
from ..small_networks import difference

HERE = Path(__file__).parents[1] / "references"


def arrays(folder: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.load(HERE / folder / f"{name}.npy").astype(np.float64) for name in ("input", "output"))
    return x, y


def doubles(weights: str, spec, layout: str) -> dict[str, np.ndarray]:
    loaded = se_port.load(HERE / weights, spec, layout)
    return {name: value.astype(np.float64) for name, value in loaded.items()}


BLOCKS = {
    "xmu-SEAttention_c100_r16": ("xmu", SESpec.preset("xmu", 100, reduction=16)),
    "xmu-SEAttention_c64_r3": ("xmu", SESpec.preset("xmu", 64, reduction=3)),
    "moskomule-SELayer_64": ("moskomule", SESpec.preset("moskomule", 64)),
}


@pytest.mark.parametrize("layout", ["auto", "its own"])
@pytest.mark.parametrize("folder", BLOCKS)
def test_m7_reference_blocks_are_reproduced(folder: str, layout: str) -> None:
    own, spec = BLOCKS[folder]
    values = doubles(f"{folder}/weights.pth", spec, own if layout == "its own" else layout)
    x, want = arrays(folder)
    got = se_numpy.squeeze_excitation(x, spec, values, data_format="channels_first")
    assert abs(got - want).max() / abs(want).max() < 1.2e-7


def short(name: str, stem: tuple[int, ...], stages: dict[int, tuple[int, int]], units: int = 2, **changes):
    """Make a network from channels of the stem, and from channels and inner width of each stage."""
    net, left = network(name), iter(stem)
    steps = tuple(replace(step, channels=next(left)) if hasattr(step, "channels") else step for step in net.stem.steps)
    made = [
        replace(stage, units=units, channels=channels, widths=widths)
        for stage, (channels, widths) in zip(net.body.stages, stages.items(), strict=False)
    ]
    return net.replace(stem=replace(net.stem, steps=steps), stages=tuple(made), **changes)


def a_sixteenth(name: str, **changes):
    """Make an Inception with a sixteenth of its channels."""

    def narrow(step):
        if isinstance(step, tuple):
            return tuple(map(narrow, step))
        return replace(step, channels=step.channels // 16) if hasattr(step, "channels") else step

    net = network(name)
    return net.replace(stem=replace(net.stem, steps=narrow(net.stem.steps)), stages=narrow(net.body.stages), **changes)


BOTTLENECK, WIDER = {32: (8, 8), 64: (16, 16)}, {32: (16, 16), 64: (32, 32)}
OWN_CODE = {
    "moskomule-se_resnet20": ("weights.pth", network("se_resnet20"), "moskomule"),
    "nutszebra-N2_r16": ("weights.model", network("chainer.se_resnet_n2_r16"), "chainer"),
}
NETS = OWN_CODE | {
    "caffe-se_resnet50": (
        "weights.caffemodel",
        short("se_resnet50", (8,), BOTTLENECK, num_classes=7),
        "caffe",
    ),
    "caffe-se_resnext50": (
        "weights.caffemodel",
        short("se_resnext50_32x4d", (8,), WIDER, groups=4, num_classes=7),
        "caffe",
    ),
    "caffe-senet154": (
        "weights.caffemodel",
        short("senet154", (8, 8, 16), {32: (16, 32), 64: (32, 64)}, groups=4, num_classes=7),
        "caffe.senet154",
    ),
    "caffe-se_bn_inception": (
        "weights.caffemodel",
        a_sixteenth("se_bn_inception", se=SEFields(reduction=4, bias=True), num_classes=7),
        "caffe.bn_inception",
    ),
    "caffe-shicai": ("weights.caffemodel", short("shicai.se_resnet50", (8,), BOTTLENECK, num_classes=7), "shicai"),
    "mxnet-se_resnet": ("weights.params", short("mxnet.se_resnet50", (8,), BOTTLENECK, num_classes=7), "mxnet"),
    "mxnet-se_resnext": (
        "weights.params",
        short("mxnet.se_resnext50_32x4d", (8,), WIDER, groups=4, num_classes=7),
        "mxnet",
    ),
    "tensorpack-resnet_se": (
        "weights.npz",
        short("tensorpack.resnet50_se", (8,), {64: (16, 16), 128: (32, 32)}, num_classes=7),
        "tensorpack",
    ),
    "taki-se_resnext": (
        "weights.ckpt.index",
        short("taki.se_resnext_cifar", (8,), {8: (32, 32), 16: (32, 32), 32: (32, 32)}, units=3),
        "taki",
    ),
}


def net_of(folder: str, layout: str = "auto"):
    weights, net, own = NETS[folder]
    return net, doubles(f"{folder}/{weights}", net, own if layout == "its own" else layout)


every_net = pytest.mark.parametrize("folder", NETS)


@pytest.mark.parametrize("layout", ["auto", "its own"])
@every_net
def test_m7_reference_networks_are_reproduced(folder: str, layout: str) -> None:
    (net, values), (x, want) = net_of(folder, layout), arrays(folder)
    assert difference(se_numpy.senet(x, net, values, data_format="channels_first"), want) < 4e-7


@every_net
def test_l1_network_is_written_under_its_frameworks_names(folder: str, tmp_path: Path) -> None:
    weights, net, layout = NETS[folder]
    values, path = se_port.load(HERE / folder / weights, net), tmp_path / weights.replace(".model", ".npz")
    se_port.save(path, values, net, layout=layout)
    theirs, ours = (
        {name: value.shape for name, value in formats.read(at).items()} for at in (HERE / folder / weights, path)
    )
    assert ours.items() <= theirs.items()
    assert {name.rpartition("/")[2] for name in theirs.keys() - ours.keys()} <= {"biased", "local_step"}
    again = se_port.load(path, net)
    assert all(np.array_equal(again[name], value) for name, value in values.items())


@every_net
def test_l4_blocks_of_reference_networks_are_found(folder: str) -> None:
    weights, net, _ = NETS[folder]
    blocks = {}
    for name, value in se_port.load(HERE / folder / weights, net).items():
        path, se, leaf = name.partition(".se.")
        if se:
            blocks.setdefault(path, {})[leaf] = value.tobytes()
    found = se_port.find_blocks(HERE / folder / weights)
    assert len(found) == len(blocks) > 0
    for block in found.values():
        assert {leaf: value.tobytes() for leaf, value in block.parameters.items()} in blocks.values()


@pytest.mark.parametrize("folder", OWN_CODE)
@pytest.mark.parametrize(
    "target",
    [pytest.param(one.name, marks=pytest.mark.framework(one.family)) for one in requested_targets(costly=False)],
)
def test_m7_in_every_implementation(folder: str, target: str, workers) -> None:
    (net, values), (x, want) = net_of(folder), arrays(folder)
    got = workers(target).logits(net, values, np.moveaxis(x, 1, -1), mode="eager").result().values
    assert got.dtype == np.float64
    assert difference(got, want) < 4e-7
    assert difference(got, se_numpy.senet(x, net, values, data_format="channels_first")) < 1e-12
