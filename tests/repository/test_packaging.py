"""What ships, from somewhere else: the wheel in an environment of its own, with NumPy alone."""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import se_spec
from evidence import extras, release

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "se_spec",
    "se_numpy",
    "se_torch",
    "se_keras",
    "se_flax",
    "se_conformance",
    "se_parity",
    "se_port",
    "se_suite",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_package_typed_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.partition("/")[0] for name in names}
    assert roots == {*PACKAGES, f"se_suite-{se_spec.__version__}.dist-info"}
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
        sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        assert sources <= set(names)
    assert wheel.stat().st_size < 1_000_000


def test_wheel_alone_is_a_working_oracle_with_numpy_alone(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    numpy = f"numpy=={pins()['numpy']}"
    pip = [sys.executable, "-m", "pip", "--python", python, "-q", "--disable-pip-version-check"]  # none to install
    subprocess.run([*pip, "install", "--no-compile", wheel, numpy], check=True)
    code = """
import json, sys, importlib, numpy as np, se_numpy, se_spec, se_conformance
spec = se_spec.SESpec(64, reduction=16)
x = np.ones((1, 3, 5, 64), np.float32)
y = se_numpy.squeeze_excitation(x, spec, se_numpy.initialize(spec, seed=0), data_format="channels_last")
errors = {}
for package in ("se_torch", "se_keras", "se_flax"):
    try: importlib.import_module(package)
    except ModuleNotFoundError as error: errors[package] = str(error)
from importlib.metadata import version
print(json.dumps([str(y.dtype), y.shape, se_numpy.__file__, errors, version("se-suite")]))
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    output = subprocess.check_output([python, "-c", code], text=True, cwd=tmp_path, env=environ)
    dtype, shape, file, errors, version = json.loads(output)
    assert (dtype, shape, version) == ("float64", [1, 3, 5, 64], se_spec.__version__)
    assert file.startswith(str(tmp_path))
    for package, message in errors.items():
        assert f"pip install 'se-suite[{package.removeprefix('se_')}]'" in message
    assert len(errors) == 3
    check = subprocess.run([python.with_name("se-parity")], capture_output=True, text=True, cwd=tmp_path, env=environ)
    assert check.returncode == 2
    assert "pip install 'se-suite[parity]'" in check.stderr


def test_metadata_is_what_an_index_shows(wheel: Path) -> None:
    metadata = release.read_metadata(wheel)
    release.check_metadata(metadata)
    description = str(metadata.get_payload())
    assert "*x is squeezed to z" in description  # a picture's description in its place
    assert "tested versions (`docs/VERSIONS.md`)" in description
    assert "(https://arxiv.org/abs/1709.01507)" in description
    metadata.replace_header("Author", "nobody")
    with pytest.raises(release.ReleaseError, match="Author is 'nobody'"):
        release.check_metadata(metadata)


def test_description_with_a_link_into_the_repository_is_refused(wheel: Path) -> None:
    metadata = release.read_metadata(wheel)
    metadata.set_payload("[tests](docs/VERSIONS.md)")
    with pytest.raises(release.ReleaseError, match=r"docs/VERSIONS\.md"):
        release.check_metadata(metadata)


@pytest.mark.parametrize(
    ("name", "fault"), [("tests/test_a.py", "should not have"), ("docs/SPEC.md", "has no LICENSE")]
)
def test_source_distribution_has_what_it_should(tmp_path: Path, name: str, fault: str) -> None:
    (tmp_path / "x.whl").touch()
    with tarfile.open(tmp_path / "se_suite-0.1.0.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(f"se_suite-0.1.0/{name}"))
    with pytest.raises(release.ReleaseError, match=fault):
        release.check_files(tmp_path / "x.whl", tmp_path / "se_suite-0.1.0.tar.gz")


def test_every_extra_is_measured_and_used() -> None:
    assert [*filter(None, extras.EXTRAS)] == sorted(extras.list_extras(), key=[*extras.EXTRAS].index)
    for name, extra in extras.EXTRAS.items():
        compile(extra.program, name or "none", "exec")
        row = extras.PAGE.read_text()
        assert f"| {f'`{name}`' if name else 'none'} | {extra.purpose} |" in row


def test_citation_workflow_and_hooks_agree_with_the_project() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {se_spec.__version__}\n" in citation
    assert "title: Squeeze-and-Excitation Networks" in citation
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"- name: {project['authors'][0]['name']}\n" in citation
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "- run: .ci/run\n" in workflow
    assert f'python-version: "{project["requires-python"].removeprefix(">=")}"' in workflow
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert hooks.count("additional_dependencies: [ruff==") == hooks.count(f"ruff=={pins()['ruff']}]") == 2


def test_every_extra_is_in_all_and_every_distribution_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["optional-dependencies"]
    # Triton, imported after TensorFlow, ends the process.
    together = [name for name in declared if name not in ("all", "triton")]
    assert declared["all"] == [f"se-suite[{','.join(together)}]"]
    wanted = {line.partition(">=")[0] for name in together for line in declared[name] if ">=" in line}
    assert wanted | {"numpy"} <= set(pins())


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)
