"""Run each family's tests on the lowest or the newest versions that pyproject.toml admits; write docs/VERSIONS.md.

``python -m evidence.versions floors`` installs exactly the lower bound of every direct dependency, ``newest`` what pip
finds with no constraint; each family has an environment of its own, ``.venv-floors-FAMILY-3.11``. Needs the standard
library alone. What pip is configured to, as a cap on a package, holds here too, and shows in the versions.
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

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "VERSIONS.md"
RESULTS = Path(__file__).parent / "versions.json"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
RESOLUTIONS = ("floors", "newest")
SHOWN_FAILURES = 5
OPTIONS = ("--numprocesses=logical", "--dist=loadfile", "-m", "not slow", "--ignore=tests/cuda")
"""Of pytest, unless others are given."""
OLD_DEPENDENCIES = ("-Wdefault::DeprecationWarning", "-Wdefault::PendingDeprecationWarning")
"""Old versions of our dependencies use what their own, newer dependencies deprecate."""


class Family(NamedTuple):
    """What is installed together, and which tests then run: ``targets`` is their ``SE_TARGETS``."""

    extras: tuple[str, ...]
    targets: str


FAMILIES = {
    "numpy": Family((), "numpy"),
    "torch": Family(("torch",), "torch"),
    "triton": Family(("torch", "triton"), "torch,triton"),
    "onnx": Family(("torch", "onnx"), "torch,onnx"),
    "keras": Family(("keras",), "keras"),
    "flax": Family(("flax",), "flax"),
    "conformance": Family(("conformance",), "numpy,conformance"),
    "port": Family(("port",), "numpy,port"),
    "all": Family(("all",), "numpy,torch,keras,flax,conformance,onnx,port"),
}


@dataclass
class Run:
    """One family on one set of versions; ``problem`` says why no test ran."""

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
        """Its place among the results; a later run takes it."""
        return f"{self.resolution} {self.family} {self.python}"

    @property
    def is_green(self) -> bool:
        """Whether tests ran and all passed."""
        return bool(self.passed) and not self.failed and not self.problem


def requirements(project: dict[str, Any], family: Family) -> list[str]:
    """The direct dependencies of a family and of its tests, as pyproject.toml has them."""
    extras = project["project"]["optional-dependencies"]
    names = list(family.extras)
    if names == ["all"]:
        names = re.findall(r"[\w-]+", extras["all"][0].partition("[")[2])
    listed = [*project["project"]["dependencies"], *(one for name in names for one in extras[name])]
    return list(dict.fromkeys([*listed, *read_group(project, "test")]))


def read_group(project: dict[str, Any], name: str) -> list[str]:
    """A dependency group, with the groups that it includes."""
    found: list[str] = []
    for entry in project["dependency-groups"][name]:
        found += [entry] if isinstance(entry, str) else read_group(project, entry["include-group"])
    return found


def floor_of(requirement: str) -> str:
    """A requirement pinned to its lower bound.

    >>> floor_of("torch>=2.8")
    'torch==2.8'
    """
    found = re.fullmatch(r"([\w.-]+)>=([\w.]+)(,.*)?", requirement.replace(" ", ""))
    if not found:
        raise ValueError(f"{requirement!r} in pyproject.toml has no lower bound that can be read, as in 'torch>=2.8'")
    return f"{found[1]}=={found[2]}"


def name_of(requirement: str) -> str:
    """The distribution, as pip lists it in lower case with hyphens."""
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def find_python(version: str) -> str | None:
    """An interpreter of this version that starts; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [sys.executable, shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python3"))]
    question = [
        "-c",
        "import sys; print(*sys.version_info[:2], sep='.'); import venv",
    ]
    for candidate in filter(None, candidates):
        answer = subprocess.run([str(candidate), *question], capture_output=True, text=True)
        if answer.returncode == 0 and answer.stdout.strip() == version:
            return str(candidate)
    return None


def run_family(resolution: str, name: str, python: str, pytest_options: list[str]) -> Run:
    """Install, test and count; an environment that cannot be made is a problem that the result names."""
    run = Run(resolution, name, python, processor=processor(), date=date.today().isoformat())
    interpreter = find_python(python)
    if interpreter is None:
        run.problem = f"no Python {python} on this machine"
        return run
    family, project = FAMILIES[name], tomllib.loads((ROOT / "pyproject.toml").read_text())
    direct = requirements(project, family)
    environment = ROOT / f".venv-{resolution}-{name}-{python}"
    try:
        install(interpreter, environment, family, [floor_of(one) for one in direct] if resolution == "floors" else [])
        run.versions = installed_versions(environment, direct)
        run.passed, run.failures = run_tests(environment, family, pytest_options)
        run.failed = len(run.failures)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "").strip().splitlines()
        errors = [line for line in said if line.startswith("ERROR:")] or said[-1:]
        run.problem = f"{errors[0] if errors else error}".removeprefix("ERROR: ")
    return run


def install(interpreter: str, environment: Path, family: Family, constraints: list[str]) -> None:
    """A new environment with the project, its extras and the test tools; wheels alone, so that nothing is compiled."""
    subprocess.run([interpreter, "-m", "venv", "--clear", environment], check=True, capture_output=True, text=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "pip>=25.1"], check=True, capture_output=True, text=True)
    extras = f"[{','.join(family.extras)}]" if family.extras else ""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(constraints) + "\n")
        file.flush()
        command = [*pip, "install", "--quiet", "--only-binary=:all:", "-c", file.name, "-e", f".{extras}"]
        subprocess.run([*command, "--group", "test"], cwd=ROOT, check=True, capture_output=True, text=True)


def installed_versions(environment: Path, direct: Iterable[str]) -> dict[str, str]:
    """The version of each direct dependency."""
    command = [str(environment / "bin" / "python"), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    versions = {name_of(one["name"]): one["version"] for one in listed}
    return {name_of(one): versions[name_of(one)] for one in direct}


def run_tests(environment: Path, family: Family, options: list[str]) -> tuple[int, list[str]]:
    """How many tests passed, and the names of those that failed; a run that collects nothing is an error."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [str(environment / "bin" / "python"), "-m", "pytest", "-q", f"--junitxml={report}", *options]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
        targets = {"SE_TARGETS": family.targets}
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **threads, **targets}, stdout=subprocess.PIPE, text=True
        )
        print(*done.stdout.splitlines()[-40:], sep="\n")
        if done.returncode not in (0, 1) or not report.exists():
            last = done.stdout.strip().splitlines()[-1:]
            raise subprocess.CalledProcessError(done.returncode, command, output=f"pytest: {''.join(last)}")
        return read_report(report.read_text())


def read_report(xml: str) -> tuple[int, list[str]]:
    """The passed and the failed of a JUnit report; an error outside a test's body is a failure."""
    passed, failures = 0, []
    for case in ET.fromstring(xml).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failures.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" not in kinds:
            passed += 1
    return passed, list(dict.fromkeys(failures))


def processor() -> str:
    """The model of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def page(runs: Iterable[Run]) -> str:
    """docs/VERSIONS.md; a family that no run tested is said to be that."""
    by_key = {run.key: run for run in runs}
    lines = [
        "# Versions that the tests were run on",
        "",
        "Each row is a family's tests in an environment that holds its extra alone. `make test-floors` installs",
        "exactly the lower bound of every direct dependency in `pyproject.toml`, `make test-newest` what pip finds",
        "with no constraint. Both run the tests of `make test`, and write this page. `onnx` is PyTorch's family with",
        "ONNX; `all` is every extra, and is tried on every Python there is.",
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
                versions = ", ".join(f"{one} {version}" for one, version in run.versions.items())
                if run.problem:
                    cells = [versions or "–", run.problem.replace("|", "/"), "–"]
                else:
                    cells = [versions, f"{run.passed:,}", str(run.failed)]
                when = ", ".join(filter(None, (run.processor, run.date))) or "–"
                lines.append(f"| {name} | {python} | {' | '.join(cells)} | {when} |")
                failures += [f"- {name}, Python {python}: `{one}`" for one in run.failures[:SHOWN_FAILURES]]
                if len(run.failures) > SHOWN_FAILURES:
                    failures.append(f"- {name}, Python {python}: {len(run.failures) - SHOWN_FAILURES} more")
        lines += ["", "Failed:", "", *failures] if failures else []
    return "\n".join(lines) + "\n"


def load_runs() -> dict[str, Run]:
    """What earlier commands found."""
    listed = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return {run.key: run for run in (Run(**one) for one in listed)}


def save_runs(runs: dict[str, Run]) -> None:
    """The numbers, and the page that is made of them."""
    for path, text in (
        (RESULTS, json.dumps([asdict(runs[key]) for key in sorted(runs)], indent=1) + "\n"),
        (PAGE, page(runs.values())),
    ):
        whole = path.with_suffix(".part")
        whole.write_text(text)
        whole.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 if every run was green, 1 if not."""
    given = sys.argv[1:] if arguments is None else arguments
    given, options = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="What follows -- is given to pytest.")
    parser.add_argument("resolution", choices=(*RESOLUTIONS, "page"), help="page: write it from the numbers there are")
    parser.add_argument("--only", action="append", choices=FAMILIES, help="may be repeated (all families)")
    parser.add_argument("--python", action="append", choices=PYTHONS, help="may be repeated (the lowest)")
    chosen = parser.parse_args(given)
    runs = load_runs()
    green = True
    for name in () if chosen.resolution == "page" else chosen.only or FAMILIES:
        for python in chosen.python or PYTHONS[:1]:
            print(f"== {chosen.resolution}: {name} on Python {python}", flush=True)
            told = [*(options or OPTIONS), *(OLD_DEPENDENCIES if chosen.resolution == "floors" else ())]
            run = run_family(chosen.resolution, name, python, told)
            print(f"== {name}: {run.problem or f'{run.passed} passed, {run.failed} failed'}", flush=True)
            runs = {**load_runs(), run.key: run}
            green &= run.is_green
            save_runs(runs)
    save_runs(runs)
    return 0 if green else 1


if __name__ == "__main__":
    sys.exit(main())
