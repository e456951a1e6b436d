"""The bench: its parts on small maps, its arithmetic on made-up numbers, and its page."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evidence.bench import added_by_se, imports
from evidence.bench.blocks import SHAPES, Run, Task, compute_oracle_answer, verify
from evidence.bench.goals import GOALS, iterate_lines, make_ratio_function
from evidence.bench.home import HOMES, make_environment, make_tasks, measure
from evidence.bench.rounds import Timing, compute_ratio, time_side_by_side
from evidence.peer_blocks import import_object
from se_parity.implementations import IMPLEMENTATIONS

from ..conftest import OnDemand

ROOT = Path(__file__).parents[2]
TINY = (2, 32, 5, 3)
report, torch, se_torch = OnDemand("evidence.bench.report"), OnDemand("torch"), OnDemand("se_torch")


def with_framework(name):
    home = HOMES[name]
    family = home.module.partition("_")[0]
    families = {"onnx": ("torch", "parity")}.get(family, () if family == "numpy" else (family,))
    peers = ("peers",) if family == "torch" else ()
    return pytest.param(name, marks=pytest.mark.framework(*families, *peers), id=name)


RUN_HERE = ["torch", "flax", "keras tensorflow", "numpy"]
if not IMPLEMENTATIONS["onnxruntime"].missing:
    RUN_HERE.append("onnxruntime")


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")  # PyTorch's exporter's own
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one dtype", "all"])
@pytest.mark.parametrize("name", [with_framework(name) for name in RUN_HERE])
def test_every_block_is_verified_and_timed(name, every, monkeypatch):
    monkeypatch.setattr("evidence.bench.rounds.TURN_SECONDS", 0.0)
    home = HOMES[name]
    todo = [Task(TINY, dtype, home.training and dtype == "float32") for dtype in home.dtypes]
    todo = todo if every else todo[:1]
    for task, found in zip(todo, measure(home, todo, 0.0), strict=True):
        assert (tuple(found["shape"]), found["dtype"], found["training"]) == task
        assert all(len(timing[kind]) == 5 for timing in found["times"].values() for kind in ("processor", "wall"))
        every = list(iterate_lines(name, [found]))
        assert every and all(one.peers for one in every)
        assert all((one.floor is None) == (name != "torch" and task.dtype == "bfloat16") for one in every)
    if name == "keras tensorflow":
        assert importlib.import_module("keras").config.dtype_policy().name == "float32"  # as it was


def run_in_process(code, environment=None):
    """Run code in a fresh process; in another one an array may reuse memory that was not returned."""
    return json.loads(subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT, env=environment))


def test_memory_of_a_call_is_measured():
    code = (
        "import numpy; from evidence.bench.memory import measure_peak; print(measure_peak(lambda: numpy.ones(1 << 24)))"
    )
    assert 0.9 < run_in_process(code) / (8 << 24) < 1.3


STEPS = {
    "torch": {"ours, NCHW": 2, "ours, channels_last": 2, "tutorial, NCHW": 3},
    "flax": {"ours NNX, jax.jit": 2, "ours linen, jax.jit": 2},
    "keras tensorflow": {"ours layer, eager": 4, "ours layer, tf.function": 3, "ours layer, XLA": 2},
}
"""The arrays of x's size that a training step in float32 adds; y and dx are two."""


@pytest.mark.processor
@pytest.mark.parametrize("name", [with_framework(name) for name in STEPS])
def test_memory_of_a_training_step(name):
    shape = (8, 64, 128, 160)  # 40 MiB, more than malloc keeps, so that the system counts each array
    asked = f"HOMES[{name!r}]._replace(dtypes=('float32',)), {shape}, {tuple(STEPS[name])}"
    code = f"import json; from evidence.bench.home import *; print(json.dumps(measure_peaks({asked})))"
    found = run_in_process(code, make_environment(HOMES[name], keeps=False))
    assert found == {"float32": pytest.approx(STEPS[name], abs=0.25)}


def test_wrong_block_is_not_timed():
    task = Task(TINY, "float64")
    want = compute_oracle_answer(task)
    y = want["y"]
    verify("right", task, Run(lambda: None, lambda: (y,)), want)
    with pytest.raises(AssertionError, match=r"wrong, 2x32x5x3 float64 forward: y is 1\.0e-03 off"):
        verify("wrong", task, Run(lambda: None, lambda: (y * 1.001,)), want)
    with pytest.raises(AssertionError, match="y is nan off"):
        verify("wrong", task, Run(lambda: None, lambda: (y * np.nan,)), want)


def test_rounds_time_every_callable_equally_often(monkeypatch):
    monkeypatch.setattr("evidence.bench.rounds.TURN_SECONDS", 0.0)
    visits = []
    timings = time_side_by_side({name: lambda name=name: visits.append(name) for name in "abc"}, seconds=0.0)
    assert all(len(timing.processor) == len(timing.wall) == 5 for timing in timings.values())
    in_rounds = visits[6:]  # after two calls of each that measure its duration
    assert all(sorted(in_rounds[start : start + 6]) == list("aabbcc") for start in range(0, 30, 6))
    assert len({tuple(in_rounds[start : start + 6]) for start in range(0, 30, 6)}) > 1


def test_ratio_is_the_median_over_the_rounds():
    assert compute_ratio(Timing([10, 30, 90], []), Timing([20, 20, 30], [])) == 1.5


def made_up(shape=SHAPES[0], **times):
    task = {"shape": list(shape), "dtype": "float32", "training": False}
    return task | {"times": {name.replace("_", ", "): {"processor": own, "wall": own} for name, own in times.items()}}


def test_lines_compare_with_the_fastest_peer_of_the_same_way():
    one = made_up(ours_NCHW=[10, 12, 14], tutorial_NCHW=[20, 20, 20], timm_NCHW=[16, 16, 16], timm_last=[1, 1, 1])
    (line,) = iterate_lines("torch", [one])
    assert (line.best, line.ratio, line.over("tutorial"), line.floor) == ("timm", 0.75, 0.6, None)
    one["times"] |= {f"{what}, floor": {"processor": [4, 4, 4], "wall": []} for what in ("sum", "scale")}
    (line,) = iterate_lines("torch", [one])
    assert line.floor == 8
    results = {"homes": {"torch": {"tasks": [one, made_up(SHAPES[1], ours_NCHW=[1], a_NCHW=[1])]}}}
    assert make_ratio_function("torch", ("float32", False), SHAPES[:1])(results) == {"1x64x56x56 NCHW": 0.75}
    assert make_ratio_function("torch", ("float32", False), SHAPES[:1], "NCHW", peer="tutorial")(results) == {
        "1x64x56x56": 0.6
    }


def test_time_added_by_se_is_the_median_over_the_rounds():
    own = {"without": [100_000, 200_000, 100_000], "with": [110_000, 210_000, 120_000]}
    times = {key: {"processor": each, "wall": [1, 1, 1]} for key, each in own.items()}
    assert added_by_se.format_cells(times) == ["100 ms", "120 ms", "+10.0%", "+5.0% to +20.0%"]


@pytest.mark.framework("torch", "parity")
def test_networks_are_timed_with_and_without():
    names = {"without": "resnet18", "with": "se_resnet18"}
    found = added_by_se.measure(("torch", "torch, a step of training"), rounds=3, size=32, names=names)
    counts = [{key: len(each["processor"]) for key, each in times.items()} for times in found.values()]
    assert counts == [{"with": 3, "without": 3}, {"with": 2, "without": 2}]
    assert all(min(each["processor"]) > 1000 for times in found.values() for each in times.values())  # a millisecond


def test_a_training_whose_loss_is_not_the_others_is_not_reported(monkeypatch):
    class Worker:
        def __init__(self, target):
            self.losses = {"torch": [7.0, 6.9], "keras tensorflow": [7.0, 6.93]}[target.name]

        def call(self, *arguments):
            timing = {"processor": [1, 1], "wall": [1, 1]}
            return {"with": timing, "without": timing}, self.losses

        def close(self):
            pass

    monkeypatch.setattr(added_by_se, "Worker", Worker)
    with pytest.raises(AssertionError, match=r"keras, .* losses of \[7\.0, 6\.93\], and \[7\.0, 6\.9\] of"):
        added_by_se.measure(("torch, a step of training", "keras, a step of training"))


TINY_CASES = [
    ((2, 32, 5, 3), "float32", "NCHW", True),
    ((2, 32, 5, 3), "bfloat16", "channels_last", False),
    ((2, 32, 5, 3), "float16", "NCHW", False),
]


@pytest.mark.framework("torch", "peers", "parity")
def test_section_about_a_gpu_is_made_of_verified_blocks(monkeypatch, tmp_path):
    """All but the clock of the device, which is not here."""
    cuda = importlib.import_module("evidence.bench.cuda")
    lines = list(cuda.measure_blocks([cuda.Case(*case) for case in TINY_CASES], "cpu", compiled=()))
    assert all({"ours", "tutorial", "timm", "torchvision", "copy"} == set(line["times"]) for line in lines)
    lines[0]["memory"] = {"ours": 2.0, "tutorial": 3.0, "timm": 3.1}
    times = {"none": (1000.0, 0.0), "timm": (3000.0, 0.0), "ours": (1500.0, 0.0)}
    results = json.loads(json.dumps({"device": "a GPU", "lines": lines, "networks": {"ResNet-50, training": times}}))
    page = tmp_path / "PERFORMANCE.md"
    page.write_text("# How fast\n")
    monkeypatch.setattr(cuda.cuda_report, "PAGE", page)
    for _ in range(2):  # the second replaces the first
        cuda.cuda_report.write_section(results)
    text = page.read_text()
    assert text.count("## On a GPU") == 1 and "| 2.00 / 3.00 |" in text
    assert "| ResNet-50, training | 1.0 | 2.00 | 0.50 | **0.25** |" in text
    assert (tmp_path / "performance_cuda.png").exists()


@pytest.mark.framework("torch", "peers")
def test_wrong_block_is_not_timed_on_a_gpu(monkeypatch):
    cuda = importlib.import_module("evidence.bench.cuda")
    monkeypatch.setattr(cuda.torch.nn.Sigmoid, "forward", lambda self, v: v)
    with pytest.raises(AssertionError, match=r"tutorial, Case.*: y is .* off"):
        list(cuda.measure_blocks([cuda.Case(*TINY_CASES[0])], "cpu", compiled=()))


@pytest.mark.slow
@pytest.mark.framework("torch", "peers")
def test_blocks_of_timms_networks_are_replaced(monkeypatch):
    cuda = importlib.import_module("evidence.bench.cuda")
    monkeypatch.setattr(cuda, "NETWORKS", {"EfficientNet-B0": "efficientnet_b0", "ResNet-50": "seresnet50"})
    create_model = import_object("timm.create_model")
    for name, blocks in (("efficientnet_b0", 16), ("seresnet50", 16)):
        model = cuda._replace_blocks(create_model(name), "ours")
        assert sum(type(module).__name__ == "SqueezeExcitation" for module in model.modules()) == blocks
        without = cuda._replace_blocks(create_model(name), "none")
        assert not se_torch.find_blocks(without) and without(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_imports_are_measured(monkeypatch):
    monkeypatch.setattr(imports, "STATEMENTS", ("pass", "import numpy"))
    found = imports.measure(1)
    assert found["import numpy"][2] > found["pass"][2] > 1
    monkeypatch.setattr(imports, "STATEMENTS", ("import no_such_module",))
    with pytest.raises(subprocess.CalledProcessError, match="no_such_module"):
        imports.measure(1)


@pytest.mark.framework("parity")
def test_page_is_generated_from_the_results(tmp_path):
    results = json.loads((ROOT / "evidence" / "bench" / "results" / "latest.json").read_text())
    assert report.format_page(results, tmp_path) == (ROOT / "docs" / "PERFORMANCE.md").read_text()
    english, chinese = ((ROOT / name).read_text().replace("\n", " ") for name in ("README.md", "README.zh-CN.md"))
    for extent in report.format_summary(results):
        assert extent in english and extent.replace("to", "到") in chinese
    pictures = {f"performance_{which}.png" for which in ("ratios", "peers_float32", "peers_bfloat16", "floor")}
    assert {path.name for path in tmp_path.iterdir()} == pictures


@pytest.mark.framework("parity")
def test_everything_is_measured_and_every_missed_goal_has_a_reason():
    results = json.loads((ROOT / "evidence" / "bench" / "results" / "latest.json").read_text())
    for name, home in HOMES.items():
        done = [Task(tuple(one["shape"]), one["dtype"], one["training"]) for one in results["homes"][name]["tasks"]]
        assert done == make_tasks(home)
    assert set(results["networks"]) == {*added_by_se.WAYS, *added_by_se.TRAINING}
    assert set(results["peaks"]) == {name for name, home in HOMES.items() if home.training}
    page = (ROOT / "docs" / "PERFORMANCE.md").read_text()
    for goal in GOALS:
        reached, asked = map(int, re.search(rf"\| {re.escape(goal.what)} \|.*\| (\d+) of (\d+) \|", page).groups())
        assert reached == asked or goal.limited_by, goal.what
