"""Install the wheel with each extra in an empty environment, use it, and measure it; writes docs/EXTRAS.md.

``python -m evidence.extras`` installs every extra, some gigabytes one after the other; each environment is removed when
it has been measured.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Iterable
from datetime import date
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from se_conformance.files import write_atomically

from .versions import read_processor

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "EXTRAS.md"
MEGABYTE = 1_000_000
NONE = ""
"""The name of the installation without an extra."""
COMMANDS = ("se-check", "se-parity", "se-port")


class Extra(NamedTuple):
    """What an extra is for.

    Args:
        purpose: what a user can do with it.
        program: uses it, and fails if something is missing.
        small: whether ``make release-check`` installs it; the others are hundreds of megabytes.
    """

    purpose: str
    program: str
    small: bool = False


_BLOCK = "from se_spec import SESpec\nimport numpy as np\nx = np.ones((2, 5, 7, 64), 'float32')\n"
_NETWORK = "import se_numpy, se_port\nfrom se_spec import network\nnet = network('se_resnet20')\n"
_WRITE = f"{_NETWORK}values = se_numpy.initialize(net, seed=0)\n"
_RIGHT = """
import se_numpy
from se_conformance import check
spec = SESpec(8, hidden=2)
def right(x, w):
    return se_numpy.squeeze_excitation(x, spec, w, data_format='channels_last').astype(x.dtype)
"""
EXTRAS = {
    NONE: Extra(
        "the specification, the oracle, the judge of functions, files in `.npz` and PyTorch's",
        f"{_BLOCK}{_RIGHT}check(right, spec).raise_if_failed()\n{_WRITE}"
        "se_port.save('x.pth', values, net, 'moskomule')\nassert se_port.inspect('x.pth').networks",
        small=True,
    ),
    "completion": Extra(
        "completion of the commands in a shell",
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'se_port', '--print-completion', 'bash'], check=True, stdout=-3)",
        small=True,
    ),
    "conformance": Extra(
        "the judge in bfloat16, and its frozen vectors",
        f"{_BLOCK}{_RIGHT}check(right, spec, dtype='bfloat16').raise_if_failed()\n"
        "from se_conformance import vectors\nassert vectors.load()",
        small=True,
    ),
    "port": Extra(
        "the porter: every format is read, and all but Orbax's checkpoints are written",
        f"{_WRITE}import tensorstore\nse_port.save('x.weights.h5', values, net, 'se_keras')\n"
        "assert (se_port.load('x.weights.h5', net)['classifier.bias'] == values['classifier.bias']).all()",
        small=True,
    ),
    "port-orbax": Extra(
        "the porter, and writing Orbax's checkpoints",
        f"{_WRITE}se_port.save('x', values, net, 'se_flax', format='orbax')\nassert se_port.load('x', net)",
    ),
    "parity": Extra(
        "`se-parity` and the demo",
        "from se_parity import datasets, parity, plots\nfrom pathlib import Path\nplots.save_gates(Path('gates.png'))\n"
        "assert datasets.load_digits().x.size",
        small=True,
    ),
    "onnx": Extra("the judge of ONNX files", "import onnx, onnxruntime, onnxscript", small=True),
    "torch": Extra(
        "PyTorch",
        f"{_BLOCK}import se_torch, torch\n"
        "assert se_torch.SqueezeExcitation(64)(torch.from_numpy(x).movedim(-1, 1)).shape == (2, 64, 5, 7)",
    ),
    "triton": Extra("PyTorch's kernels, by Triton's interpreter; comes with PyTorch for GPUs", "import triton"),
    "keras": Extra(
        "Keras on a backend that is there, of the extra `torch` or `flax`",
        "try:\n    import se_keras\nexcept ModuleNotFoundError as error:\n    assert 'keras-tf' in str(error)",
        small=True,
    ),
    "keras-tf": Extra(
        "Keras on TensorFlow",
        f"{_BLOCK}import keras, se_keras\n"
        "assert se_keras.SqueezeExcitation(64)(keras.ops.convert_to_tensor(x)).shape == x.shape",
    ),
    "flax": Extra(
        "Flax NNX and linen",
        f"{_BLOCK}import se_flax\nassert se_flax.SqueezeExcitation(64)(x).shape == x.shape",
    ),
    "all": Extra("everything but Triton", "import se_torch, se_keras, se_flax, se_parity.parity, orbax.checkpoint"),
}
"""Every extra, in the order of the page."""


class Installation(NamedTuple):
    """A measured environment.

    Args:
        extra: its name.
        packages: the number of distributions, with se-suite.
        size: bytes of all files.
        seconds: what pip took.
        largest: the names of the three largest distributions, and their bytes.
    """

    extra: str
    packages: int
    size: int
    seconds: float
    largest: tuple[tuple[str, int], ...]


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this working tree."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*command, "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, extra: str, environment: Path) -> Installation:
    """Install a wheel with an extra in an empty environment, and measure it.

    Raises:
        CalledProcessError: pip does not install it, or finds that packages do not fit each other.
    """
    venv.create(environment, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "--disable-pip-version-check"]
    name = f"se-suite[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
    start = time.monotonic()
    subprocess.run([*pip, "install", "--quiet", "-c", ROOT / "constraints.txt", name], check=True)
    seconds = time.monotonic() - start
    subprocess.run([*pip, "check"], check=True, stdout=subprocess.DEVNULL)
    (site,) = environment.glob("lib/python*/site-packages")
    sizes = {
        found.name: sum(file.stat().st_size for part in found.files or () if (file := site / part).is_file())
        for found in distributions(path=[str(site)])
    }
    size = sum(file.stat().st_size for file in environment.rglob("*") if file.is_file() and not file.is_symlink())
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    return Installation(extra, len(sizes), size, seconds, tuple(largest))


def use(extra: str, environment: Path) -> None:
    """Run an extra's program in its environment, and its commands with ``--version``.

    Raises:
        CalledProcessError: one of them fails.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KERAS_"))}
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            subprocess.run([environment / "bin" / command, "--version"], check=True, cwd=folder, env=environ, stdout=-3)
        python = environment / "bin" / "python"
        subprocess.run([python, "-c", EXTRAS[extra].program], check=True, cwd=folder, env=environ)


def format_page(rows: Iterable[Installation]) -> str:
    """Format docs/EXTRAS.md."""
    lines = [
        "# Extras",
        "",
        "`pip install '.[NAME]'` in a clone installs se-suite with an extra; several are separated by commas, as in",
        "`'.[torch,port]'`. `make extras` installs each in an empty environment, runs a short program that uses it,",
        "and writes this page. The versions are those of `constraints.txt`, PyTorch without CUDA; PyTorch for GPUs is",
        "some gigabytes larger. The size is that of all installed files, in 10^6 bytes. The time is that of pip with a",
        "package index on the same disk; elsewhere the download comes on top.",
        "",
        "| extra | for | packages | MB | s | largest |",
        "|---|---|---:|---:|---:|---|",
    ]
    for row in rows:
        name = f"`{row.extra}`" if row.extra else "none"
        largest = ", ".join(f"{package} {size / MEGABYTE:,.0f}" for package, size in row.largest)
        lines.append(
            f"| {name} | {EXTRAS[row.extra].purpose} | {row.packages} | {row.size / MEGABYTE:,.0f} | {row.seconds:.0f} "
            f"| {largest} |"
        )
    python = ".".join(platform.python_version_tuple()[:2])
    return "\n".join([*lines, "", f"Python {python}, {read_processor()}, {date.today().isoformat()}."]) + "\n"


def list_extras() -> list[str]:
    """List the names of pyproject.toml's extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the page is written if every extra is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=[*filter(None, EXTRAS)], help="print one; may be repeated")
    chosen = parser.parse_args(arguments).only
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        for extra in chosen or EXTRAS:
            with tempfile.TemporaryDirectory(dir=folder) as environment:
                rows.append(install(wheel, extra, Path(environment)))
                use(extra, Path(environment))
            print(f"{extra or 'none'}: {rows[-1].size / MEGABYTE:,.0f} MB, {rows[-1].seconds:.0f} s", flush=True)
    if chosen is None:
        with write_atomically(PAGE) as temporary:
            temporary.write_text(format_page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
