"""Checks that need a GPU run where ``DEVICE=cuda`` says that there is one; elsewhere the summary counts them."""

from typing import Any

import pytest

from se_parity.implementations import device

_NOT_RUN = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a GPU, and DEVICE=cuda; elsewhere the summary counts it")
    config.addinivalue_line("markers", "slow: asks of many values what a test beside it asks of fewer")
    config.addinivalue_line("markers", "xdist_group(name): runs in the same process as the others of its name")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if device() == "cuda":
        return
    need_gpu = [item for item in items if item.get_closest_marker("gpu")]
    config.stash[_NOT_RUN] = len(need_gpu)
    config.hook.pytest_deselected(items=need_gpu)
    items[:] = [item for item in items if item not in need_gpu]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if count := terminalreporter.config.stash.get(_NOT_RUN, 0):
        terminalreporter.write_line(f"not run: {count} checks that need a GPU (DEVICE=cuda)", yellow=True, bold=True)
