"""Files that are judged: TorchScript, which the user must trust, and TensorFlow Lite."""

from pathlib import Path

import pytest

import se_conformance.block_files
from se_conformance import adapt, check
from se_conformance.__main__ import main
from se_spec import ParameterError, SEError, SESpec, SpecError

from ..conftest import OnDemand
from .test_adapters import torch_block

SPEC = SESpec(12, hidden=5, bias=True)
GIVEN = ["--spec", SPEC.to_json()]

torch, nn, keras = OnDemand("torch"), OnDemand("torch.nn"), OnDemand("keras")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


# TorchScript


def scripted(block):
    return torch.jit.script(block)


def traced(block):
    return torch.jit.trace(block, torch.ones(2, 12, 4, 5))


@pytest.mark.framework("torch")
@pytest.mark.parametrize("make", [scripted, traced])
def test_torchscript_is_judged_as_a_module(make):
    class Block(nn.Module):
        def __init__(self, *, largest: bool):
            super().__init__()
            self.fc1, self.fc2, self.largest = nn.Linear(12, 5), nn.Linear(5, 12), largest

        def forward(self, x):
            z = x.amax([2, 3]) if self.largest else x.mean([2, 3])
            return x * self.fc2(self.fc1(z).relu()).sigmoid()[:, :, None, None]

    verdict = check(make(Block(largest=False)), SPEC)
    verdict.raise_if_failed()
    assert "d reduce.weight" in {finding.quantity for finding in verdict.findings}
    assert check(make(Block(largest=True)), SPEC).causes[0] == "squeeze is the maximum"


@pytest.mark.framework("torch")
def test_torchscript_file_runs_only_if_it_is_trusted(tmp_path, capsys):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.se, self.last = traced(torch_block()), nn.Conv2d(12, 3, 1)

        def forward(self, x):
            return self.last(self.se(x))

    path = tmp_path / "net.pt"
    torch.jit.save(scripted(Net()), path)
    assert main(["run", str(path), *GIVEN]) == 2
    assert "may be TorchScript, whose code runs when it is loaded; add --trust if you agree" in capsys.readouterr().err
    assert main(["run", str(path), *GIVEN, "--trust", "--block", "se"]) == 0
    wider = ["--spec", SPEC.replace(hidden=6).to_json(), "--trust", "--block", "se"]
    assert main(["run", str(path), *wider]) == 1
    assert "hidden is 5, the spec says 6" in capsys.readouterr().out
    assert main(["run", str(path), *GIVEN, "--trust", "--block", "x"]) == 2
    assert "there is no submodule 'x'; there are 'se', 'se.fc'" in capsys.readouterr().err
    path.write_bytes(b"PK")
    assert main(["run", str(path), *GIVEN, "--trust"]) == 2
    assert "net.pt is no TorchScript that torch loads (" in capsys.readouterr().err
    with pytest.raises(SEError, match=r"none\.pt' is not a file"):
        se_conformance.block_files.load_script(tmp_path / "none.pt", trusted=True)


# TensorFlow Lite


def convert(tf, model, path, *, half=False):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if half:
        converter.optimizations, converter.target_spec.supported_types = [tf.lite.Optimize.DEFAULT], [tf.float16]
    path.write_bytes(converter.convert())
    return path


def make_model(activation="relu", bias="ones", space=(None, None)):
    x = keras.Input((*space, 12))
    z = keras.layers.GlobalAveragePooling2D()(x)
    h = keras.layers.Dense(5, activation, bias_initializer=bias)(z)
    g = keras.layers.Dense(12, "sigmoid", bias_initializer=bias)(h)
    return keras.Model(x, keras.layers.Multiply()([x, keras.layers.Reshape((1, 1, 12))(g)]))


@pytest.fixture(scope="module")
def files(tf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lite")
    return {
        "right": convert(tf, make_model(), folder / "right.tflite"),
        "silu": convert(tf, make_model("silu"), folder / "silu.tflite"),
        "zeros": convert(tf, make_model(bias="zeros"), folder / "zeros.tflite"),
        "half": convert(tf, make_model(), folder / "half.tflite", half=True),
        "fixed": convert(tf, make_model(space=(7, 7)), folder / "fixed.tflite"),
    }


@pytest.mark.framework("keras")
def test_tflite_file_is_judged(files):
    verdict = check(files["right"], SPEC)
    verdict.raise_if_failed()
    assert verdict.data_format == "channels_last"
    assert {finding.quantity for finding in verdict.findings} == {"y"}
    assert check(str(files["silu"]), SPEC).causes[0] == "activation is silu"
    assert check(files["right"], SPEC.replace(hidden=4)).causes == ("another hidden width",)
    adapt(files["zeros"]).prepare(SPEC.replace(bias=False), "float32")  # a bias of zeros may be none


@pytest.mark.framework("keras")
def test_tflite_file_that_cannot_be_judged_is_refused(files, tmp_path):
    (tmp_path / "broken.tflite").write_bytes(b"TFL3" * 10)
    for path, changed, error, message in (
        (files["half"], {}, SpecError, "is quantized, or is computed.*convert the model without optimizations"),
        (files["fixed"], {}, SpecError, "accepts maps of one size alone; convert it with None"),
        (files["right"], {"dtype": "float64"}, SpecError, "accepts float32, but float64 is judged"),
        (files["right"], {"spec": SESpec(8, hidden=5, bias=True)}, SpecError, "accepts 12 channels"),
        (files["right"], {"spec": SPEC.replace(gate="hard_sigmoid")}, SpecError, "name the block with --block"),
        (files["zeros"], {}, ParameterError, "the converter drops biases of zeros"),
        (tmp_path / "broken.tflite", {}, SpecError, "is no model that TensorFlow Lite reads"),
        ("nowhere.tflite", {}, SpecError, "'nowhere.tflite' is not a file"),
    ):
        with pytest.raises(error, match=message):
            check(path, **{"spec": SPEC, **changed})


@pytest.mark.framework("keras")
def test_a_block_of_a_tflite_file_is_cut_out_and_judged(tf, tmp_path, monkeypatch, capsys):
    import se_keras
    import se_port

    hard = SPEC.replace(gate="hard_sigmoid", activation="silu")
    x = keras.Input((None, None, 3))
    y = se_keras.SqueezeExcitation(SPEC)(keras.layers.Conv2D(12, 3)(x))
    y = se_keras.SqueezeExcitation(hard)(keras.layers.Conv2D(12, 1)(y))
    path = convert(tf, keras.Model(x, keras.layers.Conv2D(4, 1)(y)), tmp_path / "net.tflite")
    plain, other = (se_port.cut_block(path, name) for name in se_port.find_blocks(path))
    assert (plain.spec, other.spec.activation) == (SPEC, "silu")
    check(adapt(other.model, names=other.names), other.spec).raise_if_failed()

    class Entry:
        name = "tflite"

        def load(self):
            return se_port.cut_block

    monkeypatch.setattr(se_conformance.block_files, "entry_points", lambda group: [Entry()])
    assert main(["run", str(path), "--block", next(iter(se_port.find_blocks(path)))]) == 0
    assert f"passed: {SPEC} in float32" in capsys.readouterr().out


def test_every_format_that_is_cut_into_blocks_is_declared():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    declared = text.partition('[project.entry-points."se_conformance.blocks"]\n')[2].partition("\n\n")[0]
    assert declared.splitlines() == [f'{name} = "se_port.extraction:cut_block"' for name in ("onnx", "tflite")]
