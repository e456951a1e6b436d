"""The structured fuzzer: files of every format are described or refused, within the limits of docs/LIMITS.md."""

import pytest

from evidence.fuzz.__main__ import run, write_page
from evidence.fuzz.generators import GENERATORS
from se_port.formats import FORMATS


def test_every_format_has_a_generator() -> None:
    assert GENERATORS.keys() == FORMATS.keys()


@pytest.mark.parametrize("format", GENERATORS)
@pytest.mark.parametrize("files", [12, pytest.param(500, marks=pytest.mark.slow)])
def test_structured_files_are_described_or_refused(format: str, files: int) -> None:
    result = run(format, files, seed=2)
    assert not result.faults
    assert result.files == files
    if files > 100:
        assert result.refused > files // 50 and result.read > files // 50
    assert f"| {format} | {files} |" in write_page([result], 2)
