"""``se_port`` from file to file, through every format; ``inspect``, ``convert``, ``verify`` and the command line."""

import inspect
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

import se_numpy
import se_port
from se_port import formats
from se_port.__main__ import main
from se_port.layouts.networks import NETWORK_LAYOUTS
from se_port.page import page
from se_port.preprocessing import preprocessing
from se_spec import FileFormatError, LayoutError, NetworkSpec, ParameterError, SESpec, network
from se_spec.networks import NETWORKS

from ..conftest import OnDemand
from ..small_networks import as_bytes
from .test_networks import cut

torch = OnDemand("torch")
ENDINGS = {"safetensors": ".safetensors", "npz": ".npz", "torch": ".pt", "msgpack": ".msgpack", "tensorflow": ".index"}
NET = network("se_resnet20", num_classes=5)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    return se_numpy.initialize(NET, seed=0)


@pytest.mark.parametrize("layout", ["canonical", "se_torch", "se_flax.linen", "moskomule"])
@pytest.mark.parametrize("format", ENDINGS)
def test_network_round_trips_in_every_format_without_framework(
    tmp_path: Path, values, format: str, layout: str
) -> None:
    path = tmp_path / f"net{ENDINGS[format]}"
    se_port.save(path, values, NET, layout)
    assert formats.format_of(path) == format
    back = se_port.load(path, NET)
    assert list(back) == list(values)
    assert as_bytes(back) == as_bytes(values)
    assert se_port.load(path, NET, layout).keys() == values.keys()


@pytest.mark.parametrize(
    ("ending", "library"), [(".safetensors", "safetensors"), (".msgpack", "msgpack"), (".index", "google_crc32c")]
)
def test_missing_library_is_an_error_that_names_the_extra(
    tmp_path: Path, values, monkeypatch, ending: str, library: str
) -> None:
    path = tmp_path / f"net{ending}"
    se_port.save(path, values, NET)
    monkeypatch.setitem(sys.modules, library, None)
    for access in (lambda: se_port.load(path, NET), lambda: se_port.save(tmp_path / f"new{ending}", values, NET)):
        with pytest.raises(FileFormatError, match=rf"needs {library}, .* pip install 'se-suite\[port\]'"):
            access()
    assert "125 float32" in str(se_port.inspect(values))


@pytest.mark.parametrize(
    "layout", [name for name, row in NETWORK_LAYOUTS.items() if row.format not in ("keras", "orbax")]
)
def test_l2_every_layout_round_trips_in_its_systems_format(tmp_path: Path, layout: str) -> None:
    row = NETWORK_LAYOUTS[layout]
    net = cut(row.networks[0] if row.networks else "se_resnet50")
    values = se_numpy.initialize(net, seed=0)
    ending = {"caffe": ".caffemodel", "mxnet": ".params", "matconvnet": ".mat"}.get(row.format) or ENDINGS[row.format]
    path = tmp_path / f"net{ending}"
    se_port.save(path, values, net, layout)
    back = se_port.load(path, net)
    for name, value in values.items():
        if layout.startswith("matconvnet") and name.endswith("variance"):
            assert np.allclose(back[name], value, rtol=1e-6)
        else:
            assert back[name].tobytes() == value.tobytes(), name


def test_conversion_report_lists_layouts_sizes_and_leftovers(tmp_path: Path, values) -> None:
    source, target = tmp_path / "theirs.pth", tmp_path / "ours.msgpack"
    se_port.save(source, values, NET, "moskomule")
    report = se_port.convert(source, target, NET, target_layout="linen")
    assert (report.source_layout, report.target_layout) == ("moskomule", "se_flax.linen")
    assert report.tensors == len(values)
    assert report.bytes == sum(value.nbytes for value in values.values())
    assert report.changes == report.inexact == ()
    assert len(report.left_behind) == 21
    assert report.left_behind[0] == "bn1.num_batches_tracked"
    assert as_bytes(se_port.load(target, NET)) == as_bytes(values)
    assert "every parameter comes back to the bit" in str(report)


def test_conversion_report_lists_arithmetic(tmp_path: Path) -> None:
    net = cut("se_resnet50")
    source, target = tmp_path / "theirs.caffemodel", tmp_path / "theirs.mat"
    se_port.save(source, se_numpy.initialize(net, seed=0), net, "caffe")
    report = se_port.convert(source, target, net, target_layout="matconvnet")
    assert len(report.changes) == 2
    assert "Caffe's stored factor" in report.changes[0]
    assert "sigma" in report.changes[1]
    assert all(name.endswith("variance") for name in report.inexact)


def test_l4_existing_file_is_kept_unless_forced(tmp_path: Path, values) -> None:
    path = tmp_path / "net.npz"
    path.write_text("precious")
    with pytest.raises(FileFormatError, match="is there already; expected another path, or force to replace it"):
        se_port.save(path, values, NET)
    assert path.read_text() == "precious"
    se_port.save(path, values, NET, force=True)
    assert as_bytes(se_port.load(path, NET)) == as_bytes(values)
    assert os.listdir(tmp_path) == ["net.npz"]


def test_l4_failed_write_leaves_no_file(tmp_path: Path, values) -> None:
    with pytest.raises(ParameterError, match=r"parameters do not fit: missing stage1\.block3\.conv1\.weight"):
        se_port.save(tmp_path / "net.npz", values, network("se_resnet32"))
    net = cut("se_resnet50")
    half = se_numpy.initialize(net, seed=0, dtype="float16")
    with pytest.raises(FileFormatError, match="cannot hold 'conv1/7x7_s2:0', which is float16"):
        se_port.save(tmp_path / "net.caffemodel", half, net, "caffe")
    with pytest.raises(FileFormatError, match="no ending that says a format"):
        se_port.save(tmp_path / "net.weights", values, NET)
    assert not list(tmp_path.iterdir())


def test_l3_block_needs_a_spec_for_unknown_choices(tmp_path: Path) -> None:
    spec = SESpec(64, hidden=8, bias=True, activation="silu")
    values = se_numpy.initialize(spec, seed=0)
    path = tmp_path / "block.npz"
    se_port.save(path, values, spec, "timm.SqueezeExcite")
    assert list(formats.read(path)) == [
        "conv_reduce.weight",
        "conv_reduce.bias",
        "conv_expand.weight",
        "conv_expand.bias",
    ]
    assert as_bytes(se_port.load(path, spec)) == as_bytes(values)
    with pytest.raises(LayoutError, match=r"the activation of the block is not in the source .* one of 'relu', 'silu'"):
        se_port.load(path)
    with pytest.raises(LayoutError, match=r"no block fits: expected \(64 channels, 4 hidden, no biases\), found"):
        se_port.load(path, SESpec(64))
    (found,) = se_port.find_blocks(path, activation="silu", gate="sigmoid").values()
    assert found.spec == spec
    assert found.unknown == ()
    se_port.save(tmp_path / "caffe.caffemodel", values, spec.replace(activation="relu"), "caffe")
    with pytest.raises(LayoutError, match="layout 'caffe' has the activation 'relu', the spec 'silu'"):
        se_port.load(tmp_path / "caffe.caffemodel", spec)


def test_inspection_lists_format_network_and_blocks(tmp_path: Path, values) -> None:
    path = tmp_path / "net.pth"
    se_port.save(path, values, NET, "moskomule")
    said = str(se_port.inspect(path))
    for fact in (
        f"{path}: torch, 146 tensors",
        "125 float32, 21 int64",
        "layout: moskomule",
        "network: se_resnet20",
        "5 classes, 3 input channels, 274,165 learnable parameters",
        "SE blocks: 9",
        "layer1.0.se: 16 channels, hidden 1, activation relu, gate sigmoid [moskomule, xmu",
    ):
        assert fact in said
    tensors = dict(formats.read(path))
    del tensors["layer1.0.bn1.weight"]
    found = se_port.inspect(tensors)
    assert found.networks == ()
    assert "se_resnet20 in layout 'moskomule' does not fit: missing layer1.0.bn1.weight (16,)" in found.problem
    assert "no SE block" in se_port.inspect({"a": np.zeros(3)}).problem


def test_every_network_has_preprocessing() -> None:
    assert preprocessing("senet154").classes.startswith("ILSVRC2017")
    assert {preprocessing(name).source.split()[0] for name in NETWORKS} == {
        "hujie-frank/SENet",
        "timm",
        "shicai/SENet-Caffe",
        "tensorpack",
        "bruinxiong/SENet.mxnet",
        "moskomule/senet.pytorch",
        "taki0112/SENet-Tensorflow",
        "nutszebra/SENets",
    }
    assert "0.017" in preprocessing("shicai.se_resnet50").source
    for name in NETWORKS:
        assert preprocessing(name).crop >= network(name).input_size


@pytest.mark.framework("torch")
@pytest.mark.framework("parity")
def test_verification_detects_a_wrong_port(tmp_path: Path, values, capsys, monkeypatch, guest_workers) -> None:
    monkeypatch.setattr("se_parity.implementations.Worker", guest_workers)
    source, target = tmp_path / "theirs.pth", tmp_path / "ours.safetensors"
    se_port.save(source, values, NET, "moskomule")
    se_port.convert(source, target, NET, target_layout="torch")
    right = se_port.verify(source, target, NET)
    assert right.passed
    assert right.error == right.floor < 1e-6
    wrong = values | {"stage1.block0.se.expand.weight": -values["stage1.block0.se.expand.weight"]}
    se_port.save(target, wrong, NET, "torch", force=True)
    assert main(["verify", str(source), str(target)]) == 1
    said = capsys.readouterr().out
    assert "1 parameters differ" in said
    assert "NOT the same network" in said


@pytest.mark.framework("torch")
def test_bfloat16_state_dict_is_a_source(values) -> None:
    import se_torch

    model = se_torch.SENet(NET, dtype=torch.bfloat16)
    se_torch.set_parameters(model, values)
    back = se_port.load(model.state_dict(), NET)
    assert {value.dtype.name for value in back.values()} == {"bfloat16"}
    assert as_bytes(back) == as_bytes(se_torch.get_parameters(model))
    saved = {"state": {name: value.clone() for name, value in model.state_dict().items()}}
    assert as_bytes(se_port.load(saved["state"], NET)) == as_bytes(back)


@pytest.mark.framework("keras", "port")
def test_files_are_exchanged_with_keras(tf, tmp_path: Path, values) -> None:
    import se_keras

    model = se_keras.senet(NET)
    se_port.save(tmp_path / "ours.h5", values, NET, "keras")
    model.load_weights(tmp_path / "ours.h5", by_name=True)
    assert as_bytes(se_keras.get_parameters(model)) == as_bytes(values)
    model = se_keras.senet(NET)
    se_port.save(tmp_path / "ours.weights.h5", values, NET, "keras")
    model.load_weights(tmp_path / "ours.weights.h5")
    assert as_bytes(se_keras.get_parameters(model)) == as_bytes(values)
    model.save_weights(tmp_path / "theirs.weights.h5")
    model.save(tmp_path / "theirs.keras")
    for name in ("theirs.weights.h5", "theirs.keras"):
        assert as_bytes(se_port.load(tmp_path / name, NET)) == as_bytes(values)
        assert len(se_port.find_blocks(tmp_path / name)) == 9
    block = se_numpy.initialize(SESpec(16), seed=0)
    with pytest.raises(FileFormatError, match="is no place in a layer"):  # of what model, nobody says
        se_port.save(tmp_path / "block.weights.h5", block, SESpec(16), "keras")


@pytest.mark.framework("keras", "port")
@pytest.mark.parametrize(
    "name",
    ["senet154", "se_bn_inception", "shicai.se_resnet50", "mxnet.se_resnet50", "taki.se_resnext_cifar", "resnet18"],
)
def test_keras_loads_every_weight_by_position(tf, tmp_path: Path, name: str) -> None:
    import se_keras

    net = cut(name)
    model, values = se_keras.senet(net), se_numpy.initialize(net, seed=0)
    se_port.save(tmp_path / "net.weights.h5", values, net, "keras")
    model.load_weights(tmp_path / "net.weights.h5")
    assert as_bytes(se_keras.get_parameters(model)) == as_bytes(values)


@pytest.mark.framework("flax")
def test_files_are_exchanged_with_flax(tmp_path: Path, values) -> None:
    import flax
    import jax

    import se_flax

    model = se_flax.linen.SENet(NET)
    se_port.save(tmp_path / "ours.msgpack", values, NET, "linen")
    variables = flax.serialization.msgpack_restore((tmp_path / "ours.msgpack").read_bytes())
    assert as_bytes(se_flax.linen.get_parameters(variables, model)) == as_bytes(values)
    theirs = jax.tree.map(np.asarray, se_flax.linen.set_parameters(model, values))
    (tmp_path / "theirs.msgpack").write_bytes(flax.serialization.to_bytes(theirs))
    assert as_bytes(se_port.load(tmp_path / "theirs.msgpack", NET)) == as_bytes(values)


def test_conversion_reports_progress(tmp_path: Path, values) -> None:
    steps: list[tuple[str, int, int]] = []
    se_port.convert(values, tmp_path / "net.npz", NET, progress=lambda *step: steps.append(step))
    assert steps == [(what, count, len(values)) for what in ("write", "compare") for count in range(1, len(values) + 1)]


@pytest.mark.framework("parity")
def test_progress_bar_is_drawn_on_a_terminal_only(monkeypatch) -> None:
    from se_port.progress import progress_bar

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    with progress_bar() as progress:
        progress("write", 5, 5)
    assert "write" in sys.stderr.getvalue()
    assert "100%" in sys.stderr.getvalue()
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress_bar() as progress:
        progress("write", 5, 5)
    assert sys.stderr.getvalue() == ""


def test_every_command_has_its_exit_status(tmp_path: Path, values, capsys) -> None:
    source, target = tmp_path / "theirs.pth", tmp_path / "ours.npz"
    se_port.save(source, values, NET, "moskomule")
    assert main(["inspect", str(source)]) == 0
    assert "network: se_resnet20" in capsys.readouterr().out
    asked = ["convert", str(source), str(target), "--to", "canonical"]
    assert main(asked) == 0
    assert "from moskomule to canonical: 125 parameters" in capsys.readouterr().out
    assert main(asked) == 2
    assert "se-port: " in (said := capsys.readouterr().err)
    assert "force" in said
    assert main([*asked, "--force"]) == 0
    (tmp_path / "broken.npz").write_bytes(target.read_bytes()[:1000])
    assert main(["inspect", str(tmp_path / "broken.npz")]) == 2
    assert f"se-port: {tmp_path / 'broken.npz'}: " in capsys.readouterr().err
    assert main(["layouts"]) == 0
    assert "moskomule/senet.pytorch 8cb2669" in capsys.readouterr().out


def test_every_command_prints_json(tmp_path: Path, values, capsys) -> None:
    source, target, block = (tmp_path / name for name in ("theirs.pth", "ours.npz", "block.npz"))
    se_port.save(source, values, NET, "moskomule")

    def call(*arguments: object, status: int = 0):
        assert main([*map(str, arguments), "--json"]) == status
        printed = capsys.readouterr()
        assert printed.err == ""
        return json.loads(printed.out)

    found = call("inspect", source)
    assert (found["layout"], list(found["networks"]), len(found["blocks"])) == ("moskomule", ["se_resnet20"], 9)
    assert SESpec.from_dict(found["blocks"]["layer1.0.se"]["spec"]) == SESpec(16)
    (written,) = call("convert", source, target, "--to", "canonical")
    assert (written["target"], written["tensors"], written["inexact"]) == (str(target), 125, [])
    assert NetworkSpec.from_dict(written["network"]) == NET
    (cut,) = call("convert", source, block, "--to", "canonical", "--block", "layer1.0.se")
    assert SESpec.from_dict(cut["block"]) == SESpec(16)
    assert len(call("convert", source, tmp_path / "all.npz", "--to", "canonical", "--all-blocks")) == 9
    replaced = call("replace", source, tmp_path / "new.pth", "--block", "layer1.1.se", "--with", block)
    assert replaced["block"] == "layer1.1.se"
    assert {row["layout"] for row in call("layouts")["networks"]} == set(NETWORK_LAYOUTS)
    assert main(["layouts", "--json", "--markdown"]) == 2


def test_result_of_a_verification_is_data() -> None:
    assert json.loads(json.dumps(se_port.Verification(("a",), "torch", 1e-7, 1e-7).to_dict()))["passed"] is True


def test_missing_framework_of_a_verification_is_named_before_anything_runs(
    tmp_path: Path, values, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    from se_parity.implementations import IMPLEMENTATIONS

    absent = {name: replace(row, needs=("no_such_framework",)) for name, row in IMPLEMENTATIONS.items()}
    monkeypatch.setattr("se_parity.implementations.IMPLEMENTATIONS", absent)
    monkeypatch.setattr(se_numpy, "senet", None)  # it takes seconds
    source = tmp_path / "theirs.pth"
    se_port.save(source, values, NET, "moskomule")
    for layout, extra in (("canonical", "torch"), ("se_keras", "keras-tf"), ("se_flax.linen", "flax")):
        target = tmp_path / f"{layout}.npz"
        se_port.save(target, values, NET, layout)
        assert main(["verify", str(source), str(target)]) == 2
        said = capsys.readouterr().err
        assert "no_such_framework, not installed" in said
        assert f"pip install 'se-suite[{extra}]'" in said
        assert main(["verify", "none.pth", "none.npz", "--to", layout]) == 2  # no file is opened
        assert f"pip install 'se-suite[{extra}]'" in capsys.readouterr().err


@pytest.mark.framework("port-orbax")
def test_format_is_chosen_without_an_ending(tmp_path: Path, values) -> None:
    source, target = tmp_path / "theirs.pth", tmp_path / "checkpoint"
    se_port.save(source, values, NET, "moskomule")
    assert main(["convert", str(source), str(target), "--to", "se_flax", "--format", "orbax"]) == 0
    assert formats.format_of(target) == "orbax"
    assert as_bytes(se_port.load(target, NET)) == as_bytes(values)


def test_format_that_is_not_installed_names_the_extra_that_writes_it(
    tmp_path: Path, values, monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing in ("tensorstore", "orbax.checkpoint"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, missing, None)  # as if it were not installed
            with pytest.raises(FileFormatError, match=r"se-suite\[port-orbax\]"):
                se_port.save(tmp_path / "checkpoint", values, NET, "se_flax", format="orbax")
    with pytest.raises(FileFormatError, match="or the name of a format, such as orbax"):
        se_port.save(tmp_path / "checkpoint", values, NET, "se_flax")


def test_given_format_is_written_whatever_the_ending_is(tmp_path: Path, values) -> None:
    se_port.save(tmp_path / "weights", values, NET, format="npz")
    assert formats.format_of(tmp_path / "weights") == "npz"
    with pytest.raises(FileFormatError, match="no format"):
        se_port.save(tmp_path / "other", values, NET, format="zip")


def test_written_formats_are_those_that_do_not_refuse() -> None:
    writers = {name: inspect.signature(formats._files._import_module(name).write) for name in formats.FORMATS}
    assert {name for name, writer in writers.items() if writer.return_annotation is not NoReturn} == set(
        formats.WRITABLE
    )


@pytest.mark.parametrize("name", ["x.npz", "x" * 200 + ".npz"])
def test_message_has_no_temporary_name(tmp_path: Path, values, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = tmp_path.joinpath(*["folder" * 30] * 5)

    def fail(path: Path, tensors) -> None:
        formats._base.refuse(path, f"{path} cannot hold it", "less")

    monkeypatch.setattr("se_port.formats.npz.write", fail)
    with pytest.raises(FileFormatError) as caught:
        se_port.save(folder / name, values, NET)
    assert ".se-port" not in str(caught.value)


def test_porting_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "PORTING.md").read_text() == page()
