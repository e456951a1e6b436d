"""``versions`` reads pyproject.toml, counts the tests that ran, and writes a page with all failures and problems."""

import subprocess
import sys
import tomllib

import pytest

from evidence import versions

PROJECT = tomllib.loads((versions.ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="good"/><testcase classname="tests.a" name="bad"><failure/></testcase>
<testcase classname="tests.a" name="bad"><error/></testcase>
<testcase classname="tests.a" name="left"><skipped/></testcase>
<testcase classname="tests.b" name="broken"><error/></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize("extra", [extra for extra in EXTRAS if extra != "all"])
def test_every_extra_is_tested_in_a_family_at_its_floors(extra: str) -> None:
    wanted = set(map(versions.pin_to_floor, versions.list_extra(EXTRAS, extra)))
    found = False
    for family in versions.FAMILIES.values():
        floors = set(map(versions.pin_to_floor, versions.list_requirements(PROJECT, family)))
        assert {"numpy", "pytest"} <= {floor.partition("==")[0] for floor in floors}
        assert wanted <= floors or extra not in family.extras
        found = found or wanted <= floors
    assert found


def test_family_all_has_every_extra() -> None:
    direct = versions.list_requirements(PROJECT, versions.FAMILIES["all"])
    together = [extra for extra in EXTRAS if extra not in ("all", "triton")]
    assert {line for extra in together for line in versions.list_extra(EXTRAS, extra)} <= set(direct)


def test_module_needs_the_standard_library_alone() -> None:
    subprocess.run([sys.executable, "-S", "-c", "import evidence.versions"], cwd=versions.ROOT, check=True)


@pytest.mark.parametrize(
    ("requirement", "floor"),
    [
        ("torch>=2.8", "torch==2.8"),
        ("a-b_c >= 1.2.3", "a-b_c==1.2.3"),
        ("numpy>=2.0,<3", "numpy==2.0"),
        ("a>=1; python_version < '3.14'", "a==1"),
    ],
)
def test_floor_is_the_lower_bound(requirement: str, floor: str) -> None:
    assert versions.pin_to_floor(requirement) == floor


def test_a_requirement_of_other_versions_of_python_does_not_count() -> None:
    python = {
        version: versions.list_requirements(PROJECT, versions.FAMILIES["keras"], version)
        for version in ("3.13", "3.14")
    }
    assert [any(line.startswith("tensorflow") for line in lines) for lines in python.values()] == [True, False]
    targets = [versions.choose_targets(versions.FAMILIES["all"], lines) for lines in python.values()]
    assert ["keras" in names.split(",") for names in targets] == [True, False]
    with pytest.raises(ValueError, match="marker"):
        versions.is_for("a>=1; sys_platform == 'linux'", "3.11")


@pytest.mark.parametrize("requirement", ["torch", "torch==2.8", "torch<3", "torch~=2.8"])
def test_requirement_without_a_lower_bound_is_refused(requirement: str) -> None:
    with pytest.raises(ValueError, match="lower bound"):
        versions.pin_to_floor(requirement)


def test_junit_report_is_counted_and_errors_are_failures() -> None:
    assert versions.read_report(REPORT) == (1, ["tests.a::bad", "tests.b::broken"])


def test_missing_python_is_a_problem_on_the_page() -> None:
    run = versions.run_family("newest", "numpy", "3.99", [])
    assert run.problem == "no Python 3.99 on this machine"
    assert not run.is_green
    run.python = "3.14"
    assert "| numpy | 3.14 | – | no Python 3.99 on this machine |" in versions.format_page([run])


def test_floor_that_cannot_be_installed_is_a_problem_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise subprocess.CalledProcessError(
            1, "pip", stderr="WARNING: x\nERROR: No matching distribution for numpy==2.0"
        )

    monkeypatch.setattr(versions, "install", refuse)
    python = ".".join(map(str, versions.sys.version_info[:2]))
    run = versions.run_family("floors", "numpy", python, [])
    assert run.problem == "No matching distribution for numpy==2.0"
    assert not run.is_green


def test_page_has_counts_failures_and_families_that_were_not_run() -> None:
    failures = [f"tests.a::{index}" for index in range(7)]
    run = versions.Run("floors", "flax", "3.11", {"flax": "0.12.1"}, 1234, 7, failures, "", "A processor", "2026-01-02")
    text = versions.format_page([run])
    assert "| flax | 3.11 | flax 0.12.1 | 1,234 | 7 | A processor, 2026-01-02 |" in text
    assert "- flax, Python 3.11: `tests.a::4`" in text and "flax, Python 3.11: 2 more" in text
    assert "| torch | 3.11 | – | not run | – | – |" in text
    assert text.count("| not run |") == 2 * len(versions.FAMILIES) + len(versions.PYTHONS) - 1 - 1


def test_page_in_docs_shows_the_saved_results() -> None:
    assert versions.format_page(versions.load_runs().values()) == versions.PAGE.read_text()
