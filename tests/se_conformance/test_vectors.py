"""The frozen vectors: the generator reproduces the packaged files, every reader can use them, no change is missed."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import se_numpy
from se_conformance import vectors
from se_conformance.__main__ import main
from se_conformance.calls import CallResult
from se_conformance.cases import round_to
from se_conformance.vectors import MANIFEST, TENSORS, exports, frozen
from se_conformance.vectors.answers import choose_answer, read_answers
from se_conformance.vectors.judge import find_error, judge_answers, select_vectors
from se_spec import HardSigmoid, LayoutError, LeakyReLU, SEError, SESpec
from se_spec.nonlinearities import ACTIVATIONS, GATES

PACKAGED = Path(vectors.__file__).parent
EXAMPLE = Path(__file__).parents[2] / "examples" / "se_block.c"
BIASED = SESpec(6, hidden=4, bias=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in (MANIFEST, TENSORS):
        (tmp_path / name).write_bytes((PACKAGED / name).read_bytes())
    return tmp_path


def test_generator_reproduces_the_packaged_files_bytewise(tmp_path: Path) -> None:
    names = vectors.write(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [MANIFEST, TENSORS]  # and nothing temporary
    for name in (MANIFEST, TENSORS):
        assert (tmp_path / "new" / name).read_bytes() == (PACKAGED / name).read_bytes(), f"{name} is not up to date"
    assert names == [vector.name for vector in vectors.load()]
    assert len(set(names)) == len(names)
    assert vectors.write(tmp_path / "new") == names  # over what is there


def test_packaged_vectors_are_small_and_cover_every_field_of_the_spec() -> None:
    assert sum((PACKAGED / name).stat().st_size for name in (MANIFEST, TENSORS)) < 64_000
    loaded = vectors.load()
    specs = [vector.spec for vector in loaded]
    assert len(loaded) >= 30
    assert {spec.activation for spec in specs} >= {*ACTIVATIONS, LeakyReLU(slope=0.1)}
    assert {spec.gate for spec in specs} >= {*GATES, HardSigmoid(slope=0.2, offset=0.5)}
    assert {spec.squeeze for spec in specs} == {"avg", "max", "avg_max"}
    for field, values in {"bias": (0, 1), "residual": (0, 1), "single_projection": (0, 1), "gain": (1, 2)}.items():
        assert {getattr(spec, field) for spec in specs} == set(values)
    assert {vector.x.ndim for vector in loaded} == {3, 4, 5}
    assert {len(vector.x) for vector in loaded} == {1, 2}
    assert {vector.dtype for vector in loaded} == {"float32", "bfloat16", "float64"}


@pytest.mark.parametrize("vector", vectors.load(), ids=lambda vector: vector.name)
def test_the_oracle_gives_the_answers_of_a_vector(vector: vectors.Vector) -> None:
    assert {str(array.dtype) for array in (vector.x, vector.y, *vector.parameters.values())} == {vector.dtype}
    assert str(vector.g.dtype) == ("float64" if vector.dtype == "float64" else "float32")  # N-7
    arguments = vector.x, vector.spec, vector.parameters
    near(vector.y, se_numpy.squeeze_excitation(*arguments, data_format="channels_last"))
    near(vector.g, se_numpy.excitation(*arguments, data_format="channels_last"))


def near(stored: np.ndarray, oracle: np.ndarray) -> None:
    """Checks that the oracle is within half a unit in the last place, and its own rounding, of the stored answer."""
    assert stored.shape == oracle.shape
    assert stored.any()
    info = ml_dtypes.finfo(stored.dtype)
    _, exponent = np.frexp(np.maximum(np.abs(oracle), float(info.smallest_normal)))
    half = np.ldexp(0.5, exponent - 1 - info.nmant)
    assert (np.abs(stored.astype(np.float64) - oracle) <= half + 1e-15 * np.abs(oracle).max()).all()


def test_vectors_are_readable_with_json_and_safetensors_alone(tmp_path: Path) -> None:
    code = """
import hashlib, json, pathlib, safetensors, sys
folder = pathlib.Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
data = (folder / manifest["file"]).read_bytes()
assert hashlib.sha256(data).hexdigest() == manifest["sha256"]
tensors = dict(safetensors.deserialize(data))
assert {name: hashlib.sha256(tensor["data"]).hexdigest() for name, tensor in tensors.items()} == manifest["tensors"]
for vector in manifest["vectors"]:
    roles = {role: tensors[name] for role, name in vector["tensors"].items()}
    assert roles["x"]["shape"] == roles["y"]["shape"] == vector["shape"]
    assert roles["expand.weight"]["shape"][0] == vector["spec"]["channels"] == vector["shape"][-1]
assert not [name for name in sys.modules if name.startswith(("se_", "numpy"))]
print(manifest["count"], len(manifest["vectors"]))
"""
    output = subprocess.check_output([sys.executable, "-c", code, PACKAGED], text=True, cwd=tmp_path)
    assert output.split() == [str(len(vectors.load()))] * 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [Path.unlink, cut, flip])
@pytest.mark.parametrize("name", [MANIFEST, TENSORS])
def test_missing_truncated_or_changed_file_is_refused(name: str, harm: Callable[[Path], Any], copy: Path) -> None:
    assert len(vectors.load(copy)) == len(vectors.load())
    harm(copy / name)
    with pytest.raises(LayoutError, match=f"{name}.*install se-suite again"):
        vectors.load(copy)


def drop(manifest: dict[str, Any]) -> None:
    del manifest["vectors"][3]


def drop_and_count(manifest: dict[str, Any]) -> None:
    drop(manifest)
    manifest["count"] -= 1


def change_gate(manifest: dict[str, Any]) -> None:
    manifest["vectors"][0]["spec"]["gate"] = "tanh"


def other_format(manifest: dict[str, Any]) -> None:
    manifest["format"] = 2


def other_tensor(manifest: dict[str, Any]) -> None:
    manifest["tensors"]["0"] = "0" * 64


def one_tensor_less(manifest: dict[str, Any]) -> None:
    del manifest["tensors"]["0"]


@pytest.mark.parametrize(
    ("harm", "said", "said_when_signed"),
    [
        (drop, "manifest_sha256", "count of vectors"),
        (drop_and_count, "manifest_sha256", "tensors that no vector uses"),
        (change_gate, "manifest_sha256", None),
        (other_format, "not of format 1", "not of format 1"),
        (other_tensor, "manifest_sha256", "sha256 of the tensor 0"),
        (one_tensor_less, "manifest_sha256", "only one of file and manifest"),
    ],
)
def test_changed_manifest_is_refused(
    harm: Callable[[dict[str, Any]], None], said: str, said_when_signed: str | None, copy: Path
) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    harm(manifest)
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(LayoutError, match=said):
        vectors.load(copy)
    del manifest["manifest_sha256"]
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    (copy / MANIFEST).write_text(json.dumps({**manifest, "manifest_sha256": hashlib.sha256(canonical).hexdigest()}))
    if said_when_signed:
        with pytest.raises(LayoutError, match=said_when_signed):
            vectors.load(copy)


def test_file_that_is_no_manifest_is_refused(copy: Path) -> None:
    for text in ("[]", "{", "{}"):
        (copy / MANIFEST).write_text(text)
        with pytest.raises(LayoutError, match=r"manifest\.json is not"):
            vectors.load(copy)


def test_bfloat16_survives_safetensors_bitwise() -> None:
    values = round_to(np.array([[1.5, -0.0, np.inf], [2.0**-133, 3.0, -7.0]]), "bfloat16")
    (back,) = frozen._unpack(frozen._pack({"a": values})).values()
    assert back.dtype == values.dtype
    assert back.tobytes() == values.tobytes()
    many = {str(k): np.full(3, k, np.float32) for k in range(40)}
    assert frozen._pack(many) == frozen._pack(dict(reversed(many.items())))


@pytest.mark.parametrize("vector", vectors.load(), ids=lambda vector: vector.name)
def test_vector_distinguishes_its_activation_and_gate_from_others(vector: vectors.Vector) -> None:
    spec = vector.spec
    others = [spec.replace(gate=gate) for gate in ("sigmoid", "hard_sigmoid", "tanh") if gate != spec.gate]
    if not spec.single_projection and (vector.dtype != "bfloat16" or vector.name.startswith("activation")):
        others += [spec.replace(activation=name) for name in ("relu", "silu", "identity") if name != spec.activation]
    for other in others:

        def wrong(x: np.ndarray, parameters: dict[str, np.ndarray], spec: SESpec, other: SESpec = other) -> np.ndarray:
            return se_numpy.squeeze_excitation(x, other, parameters, data_format="channels_last").astype(x.dtype)

        assert find_error(wrong, vector), other


# For other languages


def test_json_has_every_number_exactly() -> None:
    text = vectors.format_json(vectors.load())
    read = json.loads(text)
    assert (read["count"], read["data_format"]) == (len(vectors.load()), "channels_last")
    assert len(text) < 130_000
    for vector, entry in zip(vectors.load(), read["vectors"], strict=True):
        assert (entry["name"], SESpec.from_dict(entry["spec"])) == (vector.name, vector.spec)
        arrays = {**entry["parameters"], **{role: entry[role] for role in ("x", "y", "g")}}
        for role, stored in {**vector.parameters, "x": vector.x, "y": vector.y, "g": vector.g}.items():
            assert round_to(np.array(arrays[role]), stored.dtype.name).tobytes() == stored.tobytes()


def test_header_has_every_number_in_float32_exactly() -> None:
    text = vectors.format_header(vectors.load())
    arrays = {
        name: np.array([float(number.rstrip("f")) for number in numbers.split(", ")]).astype(np.float32)
        for name, numbers in re.findall(r"static const float (\w+)\[\] = {(.*)};", text)
    }
    rows = re.findall(r'    {"(.*?)", "(\w+)", "(\w+)", "(\w+)", (.*)},', text)
    expected = [vector for vector in vectors.load() if vector.dtype == "float32"]
    assert [name for name, *_ in rows] == [vector.name for vector in expected]
    assert len(text) < 70_000
    for vector, (_, squeeze, *_, rest) in zip(expected, rows, strict=True):
        stored = [vector.x, *(vector.parameters.get(name) for name in exports.PARAMETERS), vector.y, vector.g]
        assert squeeze == vector.spec.squeeze
        for name, array in zip(rest.split(", ")[-7:], stored, strict=True):
            assert (name == "NULL") == (array is None)
            assert array is None or arrays[name].tobytes() == array.tobytes()


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which("cc")
    assert found, "the example in C needs a compiler named cc, as the package gcc or clang has"
    return found


@pytest.mark.parametrize(
    ("right", "wrong", "cause"),
    [
        ("", "", ""),
        ("u < 0 ? 0 : u", "u", "activation missing"),
        ("/ v->positions;", ";", "sum instead of mean"),
        ("1 / (1 + expf(-", "0.37f * (2 + atanf(", None),
    ],
    ids=["right", "no activation", "sum", "of no catalogue"],
)
def test_a_block_in_c_is_compiled_and_judged(
    compiler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], right: str, wrong: str, cause: str | None
) -> None:
    code = EXAMPLE.read_text()
    assert code.count(right) == 1 or not right
    (tmp_path / "block.c").write_text(code.replace(right, wrong) if right else code)
    kind = ["--spec", BIASED.to_json()]
    assert main(["vectors", str(tmp_path), "--format", "c", *kind]) == 0
    options = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{tmp_path}"]
    subprocess.run([compiler, *options, tmp_path / "block.c", "-lm", "-o", tmp_path / "block"], check=True)
    (tmp_path / "answers").write_bytes(subprocess.check_output([tmp_path / "block"]))
    count = len(capsys.readouterr().out.splitlines())
    status = main(["vectors", "--judge", str(tmp_path / "answers"), *kind, "--only", "*float32"])
    *lines, skipped, last = capsys.readouterr().out.splitlines()
    assert skipped == f"skipped {len(vectors.load()) - count} vectors, which are of other blocks or have other names"
    assert (status, last) == ((1, f"0 of {count}") if right else (0, f"{count} of {count}"))
    for line in lines:
        assert (f"agrees with: {cause}" if cause else "stage unknown, none of the catalogue") in line


def test_vectors_of_a_block_are_selected_whatever_their_widths() -> None:
    every = vectors.load()
    assert select_vectors(every) == every
    biased = select_vectors(every, SESpec(640, reduction=16, bias=True))
    assert {"1 hidden float32", "1 channel float32", "hidden above channels float32"} < {one.name for one in biased}
    assert {vector.spec.replace(channels=6, hidden=4) for vector in biased} == {BIASED}
    assert {vector.dtype for vector in select_vectors(every, only="*bfloat16")} == {"bfloat16"}
    single = select_vectors(every, SESpec(8, single_projection=True, bias=True))
    assert [vector.name for vector in single] == ["single projection float32", "single projection bfloat16"]


def test_stage_and_cause_of_wrong_answers_are_named() -> None:
    def relu(x: np.ndarray, parameters: dict[str, np.ndarray], spec: SESpec) -> np.ndarray:
        spec = spec if spec.single_projection else spec.replace(activation="relu")
        return se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last").astype(x.dtype)

    def answer(vector: vectors.Vector) -> CallResult:
        return CallResult(y=relu(vector.x, vector.parameters, vector.spec))

    wrong = judge_answers(answer, vectors.load())
    assert {str(entry.vector.spec.activation) for entry in wrong} == {
        "silu", "hard_swish", "gelu", "gelu_tanh", "relu6", "sigmoid", "tanh", "identity", "LeakyReLU(slope=0.1)"
    }  # fmt: skip
    assert {entry.stage for entry in wrong} == {"activation"}
    assert {entry.causes[0].name for entry in wrong} == {"activation is relu"}
    (misshapen,) = judge_answers(lambda vector: CallResult(y=vector.x[:1]), vectors.load()[:1])
    assert (misshapen.stage, misshapen.causes) == ("call", [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nnonsense\n", "line 2 of the answers is 'nonsense'"),
        ("a: 1\n\na: 2", "line 3 of the answers has 'a' twice"),
        ("a: 1 one", "line 1 of the answers, 'a': could not convert string to float: 'one'"),
    ],
)
def test_answers_of_another_form_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "answers").write_text(text)
    with pytest.raises(SEError, match=said):
        read_answers(str(tmp_path / "answers"))


def test_answers_are_read_from_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a: 1.5 -0x1.8p-3 inf\n b: nan"))
    assert {name: str(numbers.tolist()) for name, numbers in read_answers("-").items()} == {
        "a": "[1.5, -0.1875, inf]",
        "b": "[nan]",
    }


def test_a_missing_answer_is_wrong() -> None:
    first, second = vectors.load()[:2]
    answers = {first.name: first.y.astype(np.float64).ravel(), second.name: np.zeros(3)}
    wrong = judge_answers(lambda vector: choose_answer(answers, vector), vectors.load()[:3])
    assert [entry.error for entry in wrong] == [
        "bfloat16 (3,), expected bfloat16 (2, 2, 4, 6)",
        "raised nothing: there is no answer to this vector",
    ]
