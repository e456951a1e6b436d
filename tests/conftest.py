"""Frameworks of a run, the processes of implementations, marks of slow tests, the order and the summary.

``SE_TARGETS`` is a comma-separated list of families; without it all run. numpy has no extra but conformance, torch,
flax, parity, onnx, port and port-orbax are the extras of those names, keras is keras-tf, peers are blocks of other
libraries, and site is the dependency group docs. A requested family that is not installed fails one test, and one
without a passed test fails the run. Families that are not requested do not run, and the summary counts their tests.

``SE_ORDER`` changes the order of the tests: ``reversed``, or the seed of a random order.
"""

import importlib
import importlib.util
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from se_conformance.cases import FACTORS, covering_array
from se_parity.implementations import IMPLEMENTATIONS, SHARED_GPU, Implementation, Worker, device

# LLVM ends the process that imports triton after TensorFlow.
if importlib.util.find_spec("triton") and importlib.util.find_spec("tensorflow"):
    importlib.import_module("triton")

FAMILIES = {
    "numpy": "numpy",
    "torch": "torch",
    "keras": "keras",
    "flax": "flax",
    "parity": "rich",
    "onnx": "onnx",
    "port": "h5py",
    "port-orbax": "orbax",
    "peers": "timm",
    "triton": "triton",
    "site": "zensical",
}
KERAS_BACKENDS = [
    name for name in ("keras tensorflow", "keras jax", "keras torch") if not IMPLEMENTATIONS[name].missing
]
_JAXLIB = tuple(map(int, version("jaxlib").split(".")[:2])) if importlib.util.find_spec("jaxlib") else ()
for _name, _value in SHARED_GPU.items():
    os.environ.setdefault(_name, _value)
# Here and in every process begun here JAX compiles in less time, to slower code.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# The judge would draw another seed for each call.
os.environ.setdefault("SE_CHECK_SEED", "0")
COMPILED_FULLY = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
"""The environment of a process whose compiled code is judged or runs for long: all optimizations of XLA."""
QUICKLY = {"xla_backend_optimization_level": 0, **({"xla_cpu_use_fusion_emitters": False} if _JAXLIB < (0, 11) else {})}
"""Options of XLA for the shortest compilation; jaxlib 0.11 refuses the second."""
COMPILED_QUICKLY = {
    "XLA_FLAGS": " ".join(
        [os.environ.get("XLA_FLAGS", ""), *(f"--{name}={value}".lower() for name, value in QUICKLY.items())]
    ).strip()
}
"""The environment of a process that compiles single operations, which cannot be fused, and runs them once."""
# Triton ends a process that has TensorFlow, and the site's builder is in an environment of its own.
USUAL = tuple(family for family in FAMILIES if family not in ("triton", "site"))
REQUESTED = tuple(os.environ.get("SE_TARGETS", ",".join(USUAL)).split(","))

Cells = dict[tuple[str, str, int, str], int]
"""Maps (implementation, dtype, rank, "output" or "gradient") to the number of cases that matched the oracle."""

_matched: Counter[tuple[str, str, int, str]] = Counter()
_passed: Counter[str] = Counter()
_left_out: Counter[str] = Counter()


class OnDemand:
    """A module that is imported when it is first used, so that a test file can be imported without its framework.

    If it is not installed, an attribute is another ``OnDemand``, and tests that would use it are not run.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        if importlib.util.find_spec(self._name.partition(".")[0]) is None:
            return OnDemand(f"{self._name}.{attribute}")
        return getattr(importlib.import_module(self._name), attribute)


def requested_targets(*, costly: bool | None = None) -> list[Implementation]:
    """List the installed implementations of the requested families."""
    chosen = [target for target in IMPLEMENTATIONS.values() if target.family in REQUESTED and not target.missing]
    return [target for target in chosen if costly is None or target.costly == costly]


def is_installed(family: str) -> bool:
    """Return whether the family's framework can be imported."""
    return importlib.util.find_spec(FAMILIES[family]) is not None


def pytest_configure(config: pytest.Config) -> None:
    unknown = set(REQUESTED) - set(FAMILIES)
    if unknown:
        raise pytest.UsageError(f"SE_TARGETS names {', '.join(unknown)}; it may name {', '.join(FAMILIES)}")


def pytest_report_header() -> str:
    return f"se-suite: frameworks asked for: {', '.join(REQUESTED)}"


LONGEST = (
    "se_parity/test_match",
    "se_keras/test_networks",
    "se_keras/test_tools",
    "se_flax/test_networks",
    "se_flax/test_tools",
    "repository/test_docs",
    "se_torch/test_networks",
    "se_conformance/test_judge",
    "se_conformance/test_faults",
    "se_keras/test_block",
    "se_flax/test_block",
    "se_conformance/test_adapters",
    "evidence/test_bench",
    "se_port/test_blocks",
)
"""The files that take longest. They run first, so that no process still has one when the others have finished."""
SLOW = (
    "se_torch/test_replace.py::test_every_block_of_a_library_network_is_replaced[timm.seresnet18]",
    "se_torch/test_replace.py::test_every_block_of_a_library_network_is_replaced[timm.seresnext50_32x4d]",
    "se_torch/test_replace.py::test_every_block_of_a_library_network_is_replaced[timm.efficientnet_b0]",
    "se_torch/test_replace.py::test_every_block_of_a_library_network_is_replaced[timm.regnety_002]",
    "se_torch/test_replace.py::test_every_block_of_a_library_network_is_replaced[timm.nf_seresnet26]",
    "se_torch/test_replace.py::test_every_block_of_a_library_network_is_replaced[timm.legacy_seresnet18]",
    "se_torch/test_replace.py::test_every_block_of_a_library_network_is_replaced[timm.ghostnet_100]",
    "se_torch/test_replace.py::test_every_block_of_a_library_network_is_replaced[timm.hgnetv2_b0]",
    "se_torch/test_replace.py::test_every_block_of_a_library_network_is_replaced[torchvision.efficientnet_b0]",
    "se_torch/test_replace.py::test_every_block_of_a_library_network_is_replaced[torchvision.regnet_y_400mf]",
    "se_keras/test_replace.py::test_every_block_of_keras_applications_is_replaced[EfficientNetB0-16]",
    "se_keras/test_replace.py::test_hand_written_layer_is_replaced_and_put_back[hard sigmoid of Keras 2]",
    "se_keras/test_replace.py::test_hand_written_layer_is_replaced_and_put_back[leaky]",
    "se_keras/test_replace.py::test_hand_written_layer_is_replaced_and_put_back[gain]",
    "se_keras/test_replace.py::test_operations_of_a_graph_are_replaced_and_put_back[maximum]",
    "se_keras/test_replace.py::test_operations_of_a_graph_are_replaced_and_put_back[rank 1]",
    "se_keras/test_replace.py::test_operations_of_a_graph_are_replaced_and_put_back[rank 3]",
    "se_flax/test_replace.py::test_hand_written_block_is_replaced_and_put_back[hard sigmoid of nobody]",
    "se_flax/test_replace.py::test_hand_written_block_is_replaced_and_put_back[leaky]",
    "se_flax/test_replace.py::test_hand_written_block_is_replaced_and_put_back[maximum]",
    "se_flax/test_replace.py::test_hand_written_block_is_replaced_and_put_back[residual]",
    "se_flax/test_replace.py::test_hand_written_block_is_replaced_and_put_back[relu6 gate]",
    "se_flax/test_replace.py::test_linen_block_is_replaced_and_put_back[dense, silu]",
    "se_flax/test_networks.py::test_m2_m3_m4_every_padding_place_and_shortcut_matches_the_oracle[size1-*",
    "se_keras/test_networks.py::test_k3_saved_loaded_and_cloned_models_are_the_same_on_every_backend[keras jax]",
    "se_keras/test_tools.py::test_quantize_acts_as_on_plain_layers[keras jax-int8]",
    "se_conformance/test_adapters.py::test_right_block_passes_and_cause_of_wrong_block_is_named[linen_block]",
    "se_conformance/test_faults.py::test_every_detectable_fault_is_detected[*float16]",
    "evidence/test_bench.py::test_every_block_is_verified_and_timed[keras tensorflow-one dtype]",
    "repository/test_run.py::*[several]",
    "se_torch/test_networks.py::*[senet154]",
    "se_torch/test_networks.py::test_m7_timms_own_models_give_the_same_logits[legacy_senet154]",
    "se_torch/test_networks.py::test_m7_timms_own_models_give_the_same_logits[legacy_seresnext50_32x4d]",
    "se_keras/test_networks.py::test_m1_m7_families_match_the_oracle[se_resnext50_32x4d]",
    "se_keras/test_networks.py::test_every_parameter_has_a_gradient[bottlenecks, SE identity]",
    "se_keras/test_networks.py::test_every_parameter_has_a_gradient[bottlenecks, SE post]",
    "se_keras/test_networks.py::test_every_parameter_has_a_gradient[bottlenecks, SE standard]",
    "se_keras/test_networks.py::test_compiled_and_exported_models_accept_every_size[saved_model-Inception]",
    "se_keras/test_networks.py::test_compiled_and_exported_models_accept_every_size[saved_model-zeros]",
    "se_keras/test_networks.py::test_compiled_and_exported_models_accept_every_size[xla-zeros]",
    "se_flax/test_networks.py::*[senet154]",
    "se_flax/test_networks.py::test_m1_m7_every_family_matches_the_oracle[*resnet18]",
    "se_flax/test_networks.py::test_m1_m7_every_family_matches_the_oracle[se_resnet20]",
    "se_flax/test_networks.py::test_m1_m7_every_family_matches_the_oracle[*resnet50]",
    "se_flax/test_networks.py::test_m1_m7_every_family_matches_the_oracle[*resnet50_se]",
    "se_flax/test_networks.py::test_m1_m7_every_family_matches_the_oracle[mxnet.se_resnext50_*]",
    "se_flax/test_networks.py::test_m1_m7_every_family_matches_the_oracle[timm.seresnext50_32x4d]",
    "se_flax/test_networks.py::test_m1_m7_every_family_matches_the_oracle[chainer.se_resnet_n18_r8]",
    "se_keras/test_tools.py::test_n3_nan_is_kept_on_every_path_of_tensorflow[0-*",
    "se_keras/test_tools.py::test_n3_nan_is_kept_on_every_path_of_tensorflow[1-float32-eager]",
    "se_keras/test_tools.py::test_n3_nan_is_kept_on_every_path_of_tensorflow[1-float32-saved model]",
    "se_keras/test_tools.py::test_n3_nan_is_kept_on_every_path_of_tensorflow[1-float32-tflite float16]",
    "se_keras/test_tools.py::test_n3_nan_is_kept_on_every_path_of_tensorflow[1-mixed_bfloat16-*]",
    "se_keras/test_tools.py::test_quantize_acts_as_on_plain_layers[*int4]",
    "se_keras/test_networks.py::test_compiled_and_exported_models_accept_every_size[saved_model-*]",
    "se_port/test_references.py::test_m7_in_every_implementation[keras *-moskomule-se_resnet20]",
    "se_port/test_references.py::test_m7_in_every_implementation[keras jax-*]",
    "se_port/test_references.py::test_m7_in_every_implementation[nnx-nutszebra-N2_r16]",
    "evidence/test_bench.py::test_memory_of_a_training_step[flax]",
    "evidence/test_bench.py::test_memory_of_a_training_step[keras tensorflow]",
    "se_torch/test_block.py::test_block_exported_at_one_size_runs_at_others[onnxruntime-[13]-*]",
    "se_torch/test_block.py::test_n4_autocast_changes_nothing[compiled-float32-*]",
    "se_torch/test_block.py::test_n4_autocast_changes_nothing[compiled-bfloat16-bfloat16]",
    "se_torch/test_block.py::test_n4_autocast_changes_nothing[compiled-bfloat16-float32]",
    "se_torch/test_networks.py::test_network_is_compiled_and_exported_as_one_graph[Inception]",
    "se_parity/test_match.py::test_matches_the_oracle_for_every_value[keras jax-pairs-*",
    "se_parity/test_match.py::test_v5_matches_the_oracle_at_the_edges[keras jax]",
    "se_keras/test_tools.py::test_lora_acts_as_on_plain_layers[keras jax]",
    "se_conformance/test_faults.py::test_mistakes_of_independent_blocks_are_found_and_named[a quarter-jax]",
    "se_conformance/test_independent.py::test_*[jax]",
    "se_conformance/test_independent.py::test_judge_fails_and_names_wrong_blocks_and_passes_right_ones[jax-a ninth]",
    "se_flax/test_networks.py::test_m1_m7_every_family_matches_the_oracle[se_resnext50_32x4d]",
    "se_port/test_references.py::test_m7_in_every_implementation[keras torch-nutszebra-N2_r16]",
    "evidence/test_bench.py::test_networks_are_timed_with_and_without",
    "se_port/formats/test_targets.py::test_after_every_fault_the_old_or_the_new_file_is_whole_and_alone[*many]",
    "se_port/formats/test_targets.py::test_after_every_fault_the_old_or_the_new_file_is_whole_and_alone[orbax*]",
    "se_parity/test_match.py::test_compiled_and_exported_match_the_oracle[keras jax jit-some]",
    "se_parity/test_match.py::test_jitted_cases_are_compiled_with_users_settings[keras jax jit]",
    "se_parity/test_training.py::*[keras-post-activation]",
    "se_parity/test_training.py::*[linen-post-activation]",
    "se_conformance/test_faults.py::test_mistakes_of_independent_blocks_are_found_and_named[a quarter-keras]",
    "se_flax/test_networks.py::test_m1_m7_every_family_matches_the_oracle[se_bn_inception]",
    "se_flax/test_networks.py::test_m1_m7_every_family_matches_the_oracle[chainer.se_resnet_n18_r16]",
    "se_flax/test_networks.py::test_every_parameter_has_a_gradient[zeros-*]",
    "se_flax/test_networks.py::test_every_parameter_has_a_gradient[Inception-*]",
    "se_keras/test_networks.py::test_m1_m7_families_match_the_oracle[se_bn_inception]",
    "se_keras/test_networks.py::test_m1_m7_families_match_the_oracle[timm.seresnet50]",
    "se_keras/test_networks.py::*[bottlenecks, SE post]",
    "se_keras/test_networks.py::*[bottlenecks, SE identity]",
    "se_keras/test_networks.py::*[keras jax-bottlenecks, SE *]",
    "se_keras/test_networks.py::*[keras jax-*SAME*]",
    "se_keras/test_networks.py::test_compiled_and_exported_models_accept_every_size[graph-bottlenecks]",
    "se_keras/test_networks.py::test_k3_round_trip_of_parameters_is_exact[*SE p*]",
    "se_keras/test_networks.py::test_k3_round_trip_of_parameters_is_exact[*SE identity]",
    "se_keras/test_block.py::test_n2_n5_n7_weights_result_and_gate_have_the_specified_dtypes[keras jax-*]",
    "se_keras/test_tools.py::test_tflite_models_that_are_quantized_are_within_two_percent[dynamic range-avg]",
    "se_keras/test_tools.py::test_tflite_models_that_are_quantized_are_within_two_percent[dynamic range-max]",
    "se_keras/test_tools.py::test_tflite_models_that_are_quantized_are_within_two_percent[float16-avg]",
    "se_keras/test_tools.py::test_tflite_models_that_are_quantized_are_within_two_percent[float16-max]",
    "se_flax/test_networks.py::*[*SE post*]",
    "se_flax/test_networks.py::*[*SE identity*]",
    "se_flax/test_networks.py::test_k3_round_trip_of_parameters_is_exact[*SE pre*]",
    "se_conformance/test_adapters.py::test_square_weights_are_matched_by_order_or_names[nnx_block]",
    "se_parity/test_match.py::test_v5_matches_the_oracle_at_the_edges[linen]",
    "se_parity/test_match.py::test_implementations_agree_with_each_other_in_float64[keras jax-*pairs]",
    "se_parity/test_match.py::test_implementations_agree_with_each_other_in_float64[*-keras jax-pairs]",
    "se_conformance/test_faults.py::test_every_detectable_fault_is_detected[float64]",
    "se_keras/test_networks.py::test_m2_m3_m4_*_any_size[bottlenecks, SE pre]",
    "se_flax/test_tools.py::test_a_network_is_exported_for_any_batch_height_and_width[zeros-*]",
    "se_keras/test_networks.py::test_every_parameter_has_a_gradient[bottlenecks, SE pre]",
    "se_keras/test_networks.py::test_compiled_and_exported_models_accept_every_size[xla-*]",
    "se_keras/test_networks.py::test_saved_loaded_and_cloned_models_are_the_same[bottlenecks]",
    "se_keras/test_tools.py::test_v5_an_empty_batch_gives_an_empty_result_on_every_path_of_tensorflow[0]",
    "se_keras/test_tools.py::test_n3_v5_networks_keep_nan_and_empty_batches_on_every_path_of_tensorflow[0]",
    "se_keras/test_tools.py::test_n3_nan_is_kept_on_every_path_of_tensorflow[1-mixed_float16-xla]",
    "se_keras/test_tools.py::test_time_distributed_applies_the_block_to_every_step[keras jax-*]",
    "se_keras/test_block.py::test_n3_model_of_unknown_extents_matches_the_oracle_on_every_map[keras jax-[12]]",
    "se_keras/test_block.py::test_saved_models_and_weights_are_restored_exactly[keras jax-*]",
    "se_port/graphs/test_keras_networks.py::*[MobileNetV3Small-exported]",
    "se_port/graphs/test_keras_networks.py::*[MobileNetV3Small-frozen]",
    "se_port/test_references.py::test_m7_in_every_implementation[linen-*]",
    "se_port/test_api.py::test_keras_loads_every_weight_by_position[se_bn_inception]",
    "se_torch/test_networks.py::test_m7_timms_own_models_give_the_same_logits[seresnet50]",
    "se_torch/test_networks.py::test_network_is_compiled_and_exported_as_one_graph[bottlenecks]",
    "evidence/test_bench.py::test_every_block_is_verified_and_timed[onnxruntime-one dtype]",
    "evidence/test_accuracy.py::test_no_backend_exceeds_the_errors_of_the_table[float64]",
    "se_keras/test_networks.py::test_momentum_is_the_specs_and_the_variance_is_divided_by_n[keras jax]",
    "se_keras/test_networks.py::test_m1_m2_m3_m4_m7_other_backends_match_the_oracle[keras torch-senet154]",
    "se_keras/test_networks.py::test_m1_m2_m3_m4_m7_other_backends_match_the_oracle[keras torch-*resnext50_*]",
    "se_keras/test_networks.py::test_m1_m2_m3_m4_m7_other_backends_match_the_oracle[keras torch-m*.se_resnet50]",
    "se_keras/test_networks.py::test_m1_m2_m3_m4_m7_other_backends_match_the_oracle[keras jax-pre-activation, zeros]",
    "se_keras/test_tools.py::test_n3_nan_is_kept_on_other_backends[keras jax]",
    "se_torch/test_block.py::test_first_and_second_derivatives_of_both_modes_pass_gradcheck[avg]",
    "se_torch/test_block.py::test_first_and_second_derivatives_of_both_modes_pass_gradcheck[max]",
    "se_port/attacks/test_time.py::test_search_of_blocks_is_linear[blocks in one place]",
    "se_port/attacks/test_time.py::test_search_of_blocks_is_linear[blocks below each other]",
    "se_port/graphs/test_keras_networks.py::*[MobileNetV3Small-checkpoint]",
    "se_port/test_references.py::test_m7_in_every_implementation[nnx-moskomule-se_resnet20]",
    "se_port/graphs/test_torchscript.py::test_blocks_of_networks_are_found[*-traced]",
    "se_port/graphs/test_torch_export.py::test_our_own_blocks_are_found[2]",
    "se_conformance/test_adapters.py::test_square_weights_are_matched_by_order_or_names[linen_block]",
    "se_conformance/test_independent.py::test_judge_fails_and_names_wrong_blocks_and_passes_right_ones[keras-a ninth]",
    "evidence/test_peer_blocks.py::test_verdict_on_a_peer_matches_the_page[timm* bfloat16]",
)
"""Slow values of parametrized tests, whose other values test the same claim on other networks, sizes or dtypes."""
ON_THE_PROCESSOR = ("se_parity/test_match", "se_keras/test_block", "se_flax/test_block", "evidence/test_peer_blocks")
"""Files all of whose tests compare numbers that a framework computes; other files mark such tests."""


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        place = place_of(item)
        if place in ON_THE_PROCESSOR:
            item.add_marker("processor")
        if any(fnmatchcase(f"{place}.py::{item.name}", pattern.replace("[", "[[]", 1)) for pattern in SLOW):
            item.add_marker("slow")
    put_in_order(items, os.environ.get("SE_ORDER", ""))
    kept, dropped = [], []
    for item in items:
        missing = [family for family in _families(item) if family not in REQUESTED or not is_installed(family)]
        (dropped if missing else kept).append(item)
        _left_out.update(missing)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


def place_of(item: pytest.Item) -> str:
    """Return the file below tests/, as in ``se_torch/test_block``."""
    return item.path.relative_to(Path(__file__).parent).with_suffix("").as_posix()


def put_in_order(items: list[pytest.Item], order: str) -> None:
    """Sort tests, and keep the tests of a file together, since they share its fixtures."""
    ranks = {place: rank for rank, place in enumerate(LONGEST)}
    if not order:
        items.sort(key=lambda item: ranks.get(place_of(item), len(ranks)))
    elif order == "reversed":
        items.reverse()
    else:
        draw = random.Random(int(order))
        files = {item.path: draw.random() for item in items}
        items.sort(key=lambda item: (files[item.path], draw.random()))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect the properties that a test recorded, also in another process, for the summary."""
    if report.when == "call":
        noted = dict(report.user_properties)
        _matched.update(noted.get("cells", {}))
        _passed.update(noted.get("families", ()) if report.passed else ())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the deselected tests of another process; each process collects all tests and deselects the same."""
    ended_well = getattr(node, "workeroutput", {})
    if "left_out" in ended_well:
        _left_out.clear()
        _left_out.update(ended_well["left_out"])


@pytest.fixture(autouse=True)
def _note_families(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    record_property("families", (*_families(request.node), "numpy"))


@pytest.fixture
def cells(record_property: Callable[[str, object], None]) -> Cells:
    """Count a test's matched cases, which the summary adds up."""
    counted: Cells = {}
    record_property("cells", counted)
    return counted


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several processes, which saw but its own tests
        session.config.workeroutput["left_out"] = dict(_left_out)
    elif exitstatus == pytest.ExitCode.OK and _ran_nothing(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    write = terminalreporter.write_line
    if _matched:
        write("")
        write(f"covering array: {len(covering_array())} cases hold every triple of values of {len(FACTORS)} factors")
        write("cases that matched the oracle, output/gradient per number of spatial axes", bold=True)
        write(f"{'implementation':<22}{'dtype':<10}" + "".join(f"{f'{rank}-D':>12}" for rank in (1, 2, 3)))
        for name, dtype in dict.fromkeys(key[:2] for key in _matched):
            counts = (
                f"{_matched[name, dtype, rank, 'output']}/{_matched[name, dtype, rank, 'gradient']}"
                for rank in (1, 2, 3)
            )
            write(f"{name:<22}{dtype:<10}" + "".join(f"{count:>12}" for count in counts))
    for target in IMPLEMENTATIONS.values():
        if target.family in REQUESTED and target.missing:
            write(f"not run: {target.name}, which needs {', '.join(target.missing)}", yellow=True, bold=True)
    for family in _ran_nothing(terminalreporter.config):
        write(f"NOTHING RAN for {family}", red=True, bold=True)
    for family, count in _left_out.items():
        write(f"not run: {count} tests that need {family}", yellow=True, bold=True)


@pytest.fixture(scope="session")
def workers() -> Iterator[Callable[[str], Worker]]:
    """Return an implementation's process by name; it starts on demand and lives for the session."""
    started: dict[tuple[str, ...], Worker] = {}

    def get(name: str, **environment: str) -> Worker:
        key = name, *environment.values()
        if key not in started:
            target = IMPLEMENTATIONS[name]
            target = replace(target, environment={**target.environment, **environment})
            started[key] = Worker.share(started.values(), target)
        return started[key]

    yield get
    processes = {worker.implementation.process_key: worker for worker in started.values()}  # some are in one
    with ThreadPoolExecutor() as ends:  # each takes a second or two to end
        list(ends.map(Worker.close, processes.values()))


def read_exporters_operators_once() -> None:
    """Let PyTorch's exporter to ONNX parse the source of its operators once in this process, not at each export.

    These are 500 and take 2 s. Only a translation table of a user, which no test has, adds to what was read.
    """
    registry = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
    if not isinstance(vars(registry)["from_torchlib"], staticmethod):
        registry.from_torchlib = staticmethod(cache(registry.from_torchlib))


class GuestWorker(Worker):
    """A worker in a process of the session, which it leaves open."""

    def close(self) -> None:
        pass


@pytest.fixture
def guest_workers(workers: Callable[[str], Worker]) -> Callable[[Implementation], Worker]:
    """Return a replacement for ``Worker`` whose processes are the session's, so that none imports a framework again."""
    return lambda target: GuestWorker.share([workers(target.name)], target)


@pytest.fixture(params=[200, pytest.param(2000, marks=pytest.mark.slow)])
def mutations(request: pytest.FixtureRequest) -> int:
    """Return the number of mutations of a file to read."""
    count: int = request.param
    return count


@pytest.fixture(scope="session")
def tf() -> Iterator[Any]:
    """Import TensorFlow, and Keras on it, in this process."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    tensorflow = importlib.import_module("tensorflow")
    assert importlib.import_module("keras").backend.backend() == "tensorflow"
    with tensorflow.device("CPU" if device() == "cpu" else "GPU"):
        yield tensorflow


@pytest.fixture(params=KERAS_BACKENDS)
def on(request: pytest.FixtureRequest, workers: Callable[[str], Worker]) -> Callable[..., Any]:
    """Return a function that runs an importable function on a backend of Keras; TensorFlow runs in this process."""
    if request.param == "keras tensorflow":
        request.getfixturevalue("tf")
        return lambda function, *arguments: function(*arguments)
    return workers(request.param).call


def _families(item: pytest.Item) -> list[str]:
    return [family for mark in item.iter_markers("framework") for family in mark.args]


def _ran_nothing(config: pytest.Config) -> list[str]:
    """List requested families of which no test passed; none in a run of selected tests."""
    is_part = config.option.markexpr not in ("", "not slow")
    chosen = config.args != config.getini("testpaths") or config.option.keyword or is_part
    return [] if chosen else [family for family in REQUESTED if not _passed[family]]
