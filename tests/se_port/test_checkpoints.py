"""Checkpoints as training loops write them: other objects beside the weights, parts, prefixes, shards, and blocks."""

import argparse
import collections
import datetime
import enum
import json
import pathlib

import numpy as np
import pytest

import se_port
from se_port.__main__ import main
from se_spec import FileFormatError, LayoutError, SESpec, network, parameters

RANDOM = np.random.default_rng(0)
SHAPES = {"fc1.weight": (4, 16, 1, 1), "fc1.bias": (4,), "fc2.weight": (16, 4, 1, 1), "fc2.bias": (16,)}
BLOCK = {f"layer1.0.se.{name}": RANDOM.normal(size=shape).astype("f4") for name, shape in SHAPES.items()}
OTHER = {name.replace("layer1.0", "layer2.0"): value + 1 for name, value in BLOCK.items()}


class Options:
    """A class of a training script."""

    def __init__(self) -> None:
        self.rate = 0.1


class Mode(enum.Enum):
    """An enumeration of a training script."""

    TRAIN = 1


BESIDE = {
    "options": lambda torch: argparse.Namespace(model="efficientnet_b0"),
    "an object": lambda torch: Options(),
    "a choice": lambda torch: Mode.TRAIN,
    "a number of NumPy": lambda torch: np.float64(77.1),
    "a state of NumPy": lambda torch: np.random.get_state(),
    "a generator of NumPy": lambda torch: np.random.default_rng(0),
    "a path": lambda torch: pathlib.PurePosixPath("/x"),
    "a date": lambda torch: [datetime.datetime(2024, 1, 1), datetime.timedelta(1)],
    "collections": lambda torch: [collections.defaultdict(list, a=[1]), collections.Counter("ab"),
                                  collections.deque([1]), {"a"}, frozenset({1}), b"ab", 1 + 2j, slice(1)],
    "pairs": lambda torch: {(1, 2): 3},
    "a type": lambda torch: torch.float16,
    "another type's tensor": lambda torch: torch.ones(1, dtype=torch.uint16),
    "a complex tensor": lambda torch: torch.ones(2, dtype=torch.complex64),
    "a state of the generator": lambda torch: torch.get_rng_state(),
    "an optimizer": lambda torch: torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).state_dict(),
}  # fmt: skip


@pytest.mark.framework("torch")
@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("name", BESIDE)
def test_objects_beside_the_weights_are_left_out(tmp_path, name, old):
    torch = pytest.importorskip("torch")
    path = tmp_path / "last.pth.tar"
    weights = {name: torch.from_numpy(value) for name, value in BLOCK.items()}
    content = {"epoch": 3, "state_dict": weights, "more": BESIDE[name](torch)}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    found = se_port.find_blocks(path)["layer1.0.se"]
    np.testing.assert_array_equal(found.parameters["reduce.bias"], BLOCK["layer1.0.se.fc1.bias"])


@pytest.mark.framework("torch")
@pytest.mark.filterwarnings("ignore")  # of PyTorch, about its own quantization
def test_pickled_models_and_tensors_that_are_not_read_are_named(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pth"
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), path)
    with pytest.raises(FileFormatError, match=r"holds an object of torch\.nn\.modules\.container\.Sequential"):
        se_port.find_blocks(path)
    torch.save({"fc.weight": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)}, path)
    with pytest.raises(FileFormatError, match=r"'fc\.weight' is made by _rebuild_qtensor"):
        se_port.find_blocks(path)


@pytest.mark.framework("torch")
@pytest.mark.parametrize("names", [("state_dict", "state_dict_ema"), ("model", "ema"), ("model", "model_ema")])
def test_one_of_several_parts_is_chosen(tmp_path, names, capsys):
    torch = pytest.importorskip("torch")
    path = tmp_path / "last.pth"
    first = {name: torch.from_numpy(value) for name, value in BLOCK.items()}
    content = {names[0]: first, names[1]: {name: value + 1 for name, value in first.items()}}
    torch.save(content, path)
    for source in (path, {key: {name: value.numpy() for name, value in part.items()} for key, part in content.items()}):
        with pytest.raises(ValueError, match=rf"{names[0]} \(4 tensors\), {names[1]} \(4 tensors\); choose one"):
            se_port.find_blocks(source)
        found = se_port.find_blocks(source, part=names[1])["layer1.0.se"]
        np.testing.assert_array_equal(found.parameters["expand.bias"], BLOCK["layer1.0.se.fc2.bias"] + 1)
        with pytest.raises(ValueError, match=f"has no part 'other' with tensors; it has {names[0]}"):
            se_port.find_blocks(source, part="other")
    assert main(["inspect", str(path), "--part", names[1], "--prefix", "layer1."]) == 0
    assert "    0.se: 16 channels" in capsys.readouterr().out
    np.savez(tmp_path / "x.npz", **BLOCK)
    with pytest.raises(FileFormatError, match="of the format npz, which has no parts"):
        se_port.find_blocks(tmp_path / "x.npz", part="model")


def test_nested_and_flattened_mappings_are_sources():
    nested = {"layer1": {"0": {"se": {"fc1": {}, "fc2": {}}}}}
    for name, value in BLOCK.items():
        *_, module, leaf = name.split(".")
        nested["layer1"]["0"]["se"][module][leaf] = value
    flat = {tuple(name.split(".")): value for name, value in BLOCK.items()}
    for source in (nested, flat, {"state_dict": BLOCK, "epoch": 3}, {"params": nested}):
        assert list(se_port.find_blocks(source)) == ["layer1.0.se"]
    with pytest.raises(LayoutError, match=r"no name of the source begins with 'other\.'"):
        se_port.find_blocks(BLOCK, prefix="other.")


# Networks in larger files


@pytest.fixture(scope="module")
def timm_names():
    net = network("timm.seresnet50", num_classes=10)
    values = {name: np.zeros(shape, "f4") for name, shape in parameters.shapes(net).items()}
    from se_port.canonical import to_layout

    return net, dict(to_layout(values, net, "timm").tensors)


@pytest.mark.parametrize("beside", [{}, {"loss.weight": (10,)}, {"head.conv1.weight": (3, 3, 1, 1)}])
def test_network_behind_a_prefix_is_found_beside_anything(timm_names, beside):
    net, tensors = timm_names
    source = {f"model.{name}": value for name, value in tensors.items()}
    source |= {name: np.zeros(shape, "f4") for name, shape in beside.items()}
    assert [(match.name, match.prefix) for match in se_port.inspect(source).networks] == [("timm.seresnet50", "model.")]
    assert len(se_port.load(source, net)) == len(parameters.shapes(net))


def test_one_of_two_copies_of_a_network_is_chosen(timm_names):
    net, tensors = timm_names
    source = {prefix + name: value for prefix in ("encoder_q.", "encoder_k.") for name, value in tensors.items()}
    assert {match.prefix for match in se_port.inspect(source).networks} == {"encoder_q.", "encoder_k."}
    for spec in (net, None):
        with pytest.raises(LayoutError, match=r"2 such networks, behind 'encoder_q\.', 'encoder_k\.'; choose one"):
            se_port.load(source, spec)
    assert len(se_port.load(source, net, prefix="encoder_k.")) == len(parameters.shapes(net))


def test_network_that_fits_and_is_another_is_refused(timm_names, tmp_path):
    """timm's and the paper's networks have the same names and shapes, and other strides and paddings."""
    _, tensors = timm_names
    paper = network("se_resnet50", num_classes=10)
    with pytest.raises(LayoutError, match=r"layout 'timm' has timm\.seresnet50 .* another network"):
        se_port.load(tensors, paper)
    values = {name: np.zeros(shape, "f4") for name, shape in parameters.shapes(paper).items()}
    with pytest.raises(LayoutError, match="another network"):
        se_port.save(tmp_path / "x.safetensors", values, network("timm.seresnet50", num_classes=10), "timm.legacy")
    assert not list(tmp_path.iterdir())


# Shards


def write_shards(folder):
    safetensors = pytest.importorskip("safetensors.numpy")
    names = {f"model-0000{part + 1}-of-00002.safetensors": list(BLOCK)[2 * part : 2 * part + 2] for part in (0, 1)}
    for file, own in names.items():
        safetensors.save_file({name: BLOCK[name] for name in own}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, own in names.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


@pytest.mark.framework("port")
def test_shards_are_one_model_and_a_shard_alone_is_refused(tmp_path):
    index = write_shards(tmp_path)
    for source in (tmp_path, tmp_path / "model.safetensors.index.json"):
        found = se_port.find_blocks(source)["layer1.0.se"]
        assert found.spec == SESpec(16, hidden=4, bias=True)
    with pytest.raises(FileFormatError, match="is shard 1 of 2"):
        se_port.find_blocks(tmp_path / "model-00001-of-00002.safetensors")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (tmp_path / "model-00002-of-00002.safetensors").rename(blobs / "blob")
    with pytest.raises(
        FileFormatError, match=r"needs the shard 'model-00002-of-00002\.safetensors', which is not there"
    ):
        se_port.find_blocks(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").symlink_to("blobs/blob")
    assert list(se_port.find_blocks(tmp_path)) == ["layer1.0.se"]
    for wrong, text in (
        ({"weight_map": {**index["weight_map"], "more": "model-00001-of-00002.safetensors"}}, "missing .'more of"),
        ({"weight_map": dict(list(index["weight_map"].items())[:3])}, "beyond the index .'layer1"),
        ({"weight_map": {"a": "../x.safetensors"}}, "has a shard '../x.safetensors'"),
        ({"weight_map": {}}, "no weight_map"),
        ([], "no weight_map"),
    ):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(wrong))
        with pytest.raises(FileFormatError, match=text):
            se_port.find_blocks(tmp_path)


@pytest.mark.framework("port")
def test_one_block_or_all_are_converted(tmp_path, capsys):
    np.savez(tmp_path / "net.npz", **BLOCK, **OTHER)
    source, target = str(tmp_path / "net.npz"), tmp_path / "out.npz"
    spec = '{"channels": 16, "hidden": 4, "bias": true, "activation": "silu"}'
    options = ["--from", "torchvision", "--to", "canonical", "--spec", spec]
    assert main(["convert", source, str(target), *options]) == 2
    assert "more than one block fits" in capsys.readouterr().err
    assert main(["convert", source, str(target), *options, "--block", "layer2.0.se"]) == 0
    np.testing.assert_array_equal(np.load(target)["reduce.bias"], OTHER["layer2.0.se.fc1.bias"])
    assert main(["convert", source, str(target), *options, "--block", "other"]) == 2
    assert "there is no block 'other'; there are 'layer1.0.se', 'layer2.0.se'" in capsys.readouterr().err
    assert main(["convert", source, str(target), *options, "--all-blocks"]) == 0
    np.testing.assert_array_equal(
        np.load(tmp_path / "out.layer1.0.se.npz")["expand.bias"], BLOCK["layer1.0.se.fc2.bias"]
    )
