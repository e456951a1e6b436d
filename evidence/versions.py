"""Run each family's tests on the lowest or the newest versions that pyproject.toml admits; write docs/VERSIONS.md.

``python -m evidence.versions floors`` installs exactly the lower bound of every direct dependency; ``newest`` installs
what pip chooses without constraints. Each family has its own environment, ``.venv-floors-FAMILY-3.11``. This module
needs the standard library alone. pip's configuration, such as a cap on a package, applies here too; the page lists the
versions that were installed.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from se_conformance.files import write_atomically

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "VERSIONS.md"
RESULTS = Path(__file__).parent / "versions.json"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
RESOLUTIONS = ("floors", "newest")
MAX_FAILURES_SHOWN = 5
PYTEST_OPTIONS = ("--numprocesses=logical", "--dist=loadfile", "-m", "not slow", "--ignore=tests/cuda")
"""The options of pytest, unless others are given."""
FLOORS_OPTIONS = ("-Wdefault::DeprecationWarning", "-Wdefault::PendingDeprecationWarning")
"""Additional options for floors: old versions of dependencies use features that their newer dependencies deprecate."""


class Family(NamedTuple):
    """The extras that are installed together, and the tests that then run.

    Args:
        extras: names of extras in pyproject.toml.
        targets: the value of ``SE_TARGETS`` for the tests.
    """

    extras: tuple[str, ...]
    targets: str


FAMILIES = {
    "numpy": Family((), "numpy"),
    "torch": Family(("torch",), "torch"),
    "triton": Family(("torch", "triton"), "torch,triton"),
    "onnx": Family(("torch", "onnx"), "torch,onnx"),
    "keras": Family(("keras-tf",), "keras"),
    "flax": Family(("flax",), "flax"),
    "parity": Family(("parity",), "numpy,parity"),
    "port": Family(("port", "completion"), "numpy,port"),
    "port-orbax": Family(("port-orbax",), "numpy,port,port-orbax"),
    "all": Family(("all",), "numpy,torch,keras,flax,parity,onnx,port,port-orbax"),
}


@dataclass
class Run:
    """The result of one family on one set of versions.

    Args:
        resolution: a name in ``RESOLUTIONS``.
        family: a name in ``FAMILIES``.
        python: the version of Python.
        versions: the installed version of each direct dependency.
        passed: the number of tests that passed.
        failed: the number of tests that failed.
        failures: the names of the tests that failed.
        problem: the reason why no test ran; empty if tests ran.
        processor: the model of the processor.
        date: the day in ISO format.
    """

    resolution: str
    family: str
    python: str
    versions: dict[str, str] = field(default_factory=dict)
    passed: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    problem: str = ""
    processor: str = ""
    date: str = ""

    @property
    def key(self) -> str:
        """The key among the results; a later run with the same key replaces this one."""
        return f"{self.resolution} {self.family} {self.python}"

    @property
    def is_green(self) -> bool:
        """Whether tests ran and all passed."""
        return bool(self.passed) and not self.failed and not self.problem


def list_requirements(project: dict[str, Any], family: Family, python: str = PYTHONS[0]) -> list[str]:
    """List the direct dependencies of a family and of its tests on a version of Python, as pyproject.toml has them."""
    extras = project["project"]["optional-dependencies"]
    requirements = [*project["project"]["dependencies"]]
    requirements += [line for name in family.extras for line in list_extra(extras, name)]
    requirements += list_group(project, "test")
    return list(dict.fromkeys(requirement for requirement in requirements if is_for(requirement, python)))


def list_extra(extras: dict[str, list[str]], name: str) -> list[str]:
    """List the dependencies of an extra, with those of the extras that it includes.

    >>> list_extra({"all": ["se-suite[a,b-c]"], "a": ["x>=1"], "b-c": ["se-suite[a]", "y>=2"]}, "all")
    ['x>=1', 'y>=2']
    """
    found: list[str] = []
    for line in extras[name]:
        included = re.fullmatch(r"se-suite\[([\w,-]+)\]", line)
        found += (
            [inner for other in included[1].split(",") for inner in list_extra(extras, other)] if included else [line]
        )
    return list(dict.fromkeys(found))


def is_for(requirement: str, python: str) -> bool:
    """Whether a requirement counts on a version of Python.

    >>> is_for("tensorflow>=2.19; python_version < '3.14'", "3.14"), is_for("numpy>=2.0", "3.14")
    (False, True)
    """
    found = re.fullmatch(r"[^;]*(;\s*python_version\s*<\s*'3\.(\d+)')?", requirement)
    if not found:
        raise ValueError(
            f"the marker of {requirement!r} in pyproject.toml cannot be read, as in ; python_version < '3.14'"
        )
    return found[2] is None or int(python.partition(".")[2]) < int(found[2])


def list_group(project: dict[str, Any], name: str) -> list[str]:
    """List a dependency group, with the groups that it includes."""
    requirements: list[str] = []
    for entry in project["dependency-groups"][name]:
        requirements += [entry] if isinstance(entry, str) else list_group(project, entry["include-group"])
    return requirements


def pin_to_floor(requirement: str) -> str:
    """Pin a requirement to its lower bound.

    >>> pin_to_floor("torch>=2.8")
    'torch==2.8'
    """
    found = re.fullmatch(r"([\w.-]+)>=([\w.]+)([,;].*)?", requirement.replace(" ", ""))
    if not found:
        raise ValueError(f"{requirement!r} in pyproject.toml has no lower bound that can be read, as in 'torch>=2.8'")
    return f"{found[1]}=={found[2]}"


def normalize_name(requirement: str) -> str:
    """Extract the name of the distribution, in lower case with hyphens, as pip lists it.

    >>> normalize_name("ml_dtypes>=0.5.1")
    'ml-dtypes'
    """
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def find_python(version: str) -> str | None:
    """Find an interpreter of this version that starts and has ``venv``; return None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [sys.executable, shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python3"))]
    probe = ["-c", "import sys; print(*sys.version_info[:2], sep='.'); import venv"]
    for candidate in filter(None, candidates):
        done = subprocess.run([str(candidate), *probe], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip() == version:
            return str(candidate)
    return None


def run_family(resolution: str, name: str, python: str, pytest_options: list[str]) -> Run:
    """Install a family, run its tests and count them; an environment that cannot be made is the run's ``problem``."""
    run = Run(resolution, name, python, processor=read_processor(), date=date.today().isoformat())
    interpreter = find_python(python)
    if interpreter is None:
        run.problem = f"no Python {python} on this machine"
        return run
    family, project = FAMILIES[name], tomllib.loads((ROOT / "pyproject.toml").read_text())
    direct = list_requirements(project, family, python)
    environment = ROOT / f".venv-{resolution}-{name}-{python}"
    try:
        install(interpreter, environment, family, list(map(pin_to_floor, direct)) if resolution == "floors" else [])
        run.versions = list_versions(environment, direct)
        run.passed, run.failures = run_tests(environment, choose_targets(family, direct), pytest_options)
        run.failed = len(run.failures)
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
        run.problem = f"{errors[0] if errors else error}".removeprefix("ERROR: ")
    return run


def install(interpreter: str, environment: Path, family: Family, constraints: list[str]) -> None:
    """Make an environment with the project, its extras and the test tools; from wheels, so that nothing is compiled."""
    subprocess.run([interpreter, "-m", "venv", "--clear", environment], check=True, capture_output=True, text=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "pip>=25.1"], check=True, capture_output=True, text=True)
    extras = f"[{','.join(family.extras)}]" if family.extras else ""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(constraints) + "\n")
        file.flush()
        command = [*pip, "install", "--quiet", "--only-binary=:all:", "-c", file.name, "-e", f".{extras}"]
        subprocess.run([*command, "--group", "test"], cwd=ROOT, check=True, capture_output=True, text=True)


def list_versions(environment: Path, direct: Iterable[str]) -> dict[str, str]:
    """List the installed version of each direct dependency."""
    command = [str(environment / "bin" / "python"), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    packages = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    versions = {normalize_name(package["name"]): package["version"] for package in packages}
    return {name: versions[name] for name in map(normalize_name, direct)}


def choose_targets(family: Family, direct: Iterable[str]) -> str:
    """Choose the families whose tests run: without TensorFlow, as on Python 3.14, Keras is not tested."""
    has_tensorflow = "tensorflow" in map(normalize_name, direct)
    return ",".join(name for name in family.targets.split(",") if name != "keras" or has_tensorflow)


def run_tests(environment: Path, targets: str, options: list[str]) -> tuple[int, list[str]]:
    """Run the tests; return how many passed and the names of those that failed.

    Raises:
        CalledProcessError: pytest collected no test, or did not end normally.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [str(environment / "bin" / "python"), "-m", "pytest", "-q", f"--junitxml={report}", *options]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
        environ = {**os.environ, **threads, "SE_TARGETS": targets}
        done = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
        print(*done.stdout.splitlines()[-40:], sep="\n")
        if done.returncode not in (0, 1) or not report.exists():
            last = done.stdout.strip().splitlines()[-1:]
            raise subprocess.CalledProcessError(done.returncode, command, output=f"pytest: {''.join(last)}")
        return read_report(report.read_text())


def read_report(xml: str) -> tuple[int, list[str]]:
    """Read a JUnit report: the number of passed tests, and the failed ones; an error in a fixture is a failure."""
    passed, failures = 0, []
    for case in ET.fromstring(xml).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failures.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" not in kinds:
            passed += 1
    return passed, list(dict.fromkeys(failures))


def read_processor() -> str:
    """Read the model of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def format_page(runs: Iterable[Run]) -> str:
    """Format docs/VERSIONS.md; a family without a run has the row *not run*."""
    by_key = {run.key: run for run in runs}
    lines = [
        "# Versions that the tests were run on",
        "",
        "Each row has the tests of one family in an environment with its extra alone. `make test-floors` installs",
        "exactly the lower bound of every direct dependency in `pyproject.toml`; `make test-newest` installs what pip",
        "chooses without constraints. Both run the tests of `make test` and write this page. `onnx` is PyTorch's",
        "family with ONNX, `keras` is the extra `keras-tf`, `port` has `completion` too; `numpy` has what the extra",
        "`conformance` brings. `all` has every extra and runs on every supported Python.",
    ]
    for resolution, title in zip(RESOLUTIONS, ("Lowest versions", "Newest versions"), strict=True):
        lines += ["", f"## {title}", "", "| family | Python | versions | passed | failed | processor, date |"]
        lines += ["|---|---|---|---|---|---|"]
        failures: list[str] = []
        for name in FAMILIES:
            expected = PYTHONS if (resolution, name) == ("newest", "all") else PYTHONS[:1]
            for python in PYTHONS:
                not_run = Run(resolution, name, python, problem="not run")
                if not_run.key not in by_key and python not in expected:
                    continue
                run = by_key.get(not_run.key, not_run)
                versions = ", ".join(f"{package} {version}" for package, version in run.versions.items())
                if run.problem:
                    cells = [versions or "–", run.problem.replace("|", "/"), "–"]
                else:
                    cells = [versions, f"{run.passed:,}", str(run.failed)]
                when = ", ".join(filter(None, (run.processor, run.date))) or "–"
                lines.append(f"| {name} | {python} | {' | '.join(cells)} | {when} |")
                failures += [f"- {name}, Python {python}: `{test}`" for test in run.failures[:MAX_FAILURES_SHOWN]]
                if len(run.failures) > MAX_FAILURES_SHOWN:
                    failures.append(f"- {name}, Python {python}: {len(run.failures) - MAX_FAILURES_SHOWN} more")
        lines += ["", "Failed:", "", *failures] if failures else []
    return "\n".join(lines) + "\n"


def load_runs() -> dict[str, Run]:
    """Load the results of earlier commands, by ``Run.key``."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return {run.key: run for run in (Run(**result) for result in results)}


def save_runs(runs: dict[str, Run]) -> None:
    """Write the results, and the page that shows them."""
    for path, text in (
        (RESULTS, json.dumps([asdict(runs[key]) for key in sorted(runs)], indent=1) + "\n"),
        (PAGE, format_page(runs.values())),
    ):
        with write_atomically(path) as temporary:
            temporary.write_text(text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0 if every run was green, else 1."""
    given = sys.argv[1:] if arguments is None else arguments
    given, options = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Arguments after -- go to pytest.")
    parser.add_argument("resolution", choices=(*RESOLUTIONS, "page"), help="page: write the page from earlier results")
    parser.add_argument("--only", action="append", choices=FAMILIES, help="a family; may be repeated (default: all)")
    parser.add_argument("--python", action="append", choices=PYTHONS, help="may be repeated (default: the lowest)")
    chosen = parser.parse_args(given)
    runs = load_runs()
    green = True
    for name in () if chosen.resolution == "page" else chosen.only or FAMILIES:
        for python in chosen.python or PYTHONS[:1]:
            print(f"== {chosen.resolution}: {name} on Python {python}", flush=True)
            more = FLOORS_OPTIONS if chosen.resolution == "floors" else ()
            run = run_family(chosen.resolution, name, python, [*(options or PYTEST_OPTIONS), *more])
            print(f"== {name}: {run.problem or f'{run.passed} passed, {run.failed} failed'}", flush=True)
            runs = {**load_runs(), run.key: run}
            green &= run.is_green
            save_runs(runs)
    save_runs(runs)
    return 0 if green else 1


if __name__ == "__main__":
    sys.exit(main())
