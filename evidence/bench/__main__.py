"""Time ours beside what a user would take instead: ``make bench``; writes the table, the pictures and every number.

Each framework has a process of its own, on one processor, and nothing is timed whose answer is wrong.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from . import added_by_se, imports, report
from .home import HOMES, environment

RESULTS = Path(__file__).parent / "results" / "latest.json"
PAGE = Path(__file__).parents[2] / "docs" / "PERFORMANCE.md"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m evidence.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=[*HOMES, "peaks", "imports", "networks"], metavar="PART")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each task, if five rounds fit into them")
    parser.add_argument("--report", action="store_true", help="write the page from the numbers that are there")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"homes": {}}
    parts = [] if options.report else options.only or [*HOMES, "peaks", "imports", "networks"]
    if parts:
        results["machine"] = machine()
    for part in parts:
        print(f"== {part}", file=sys.stderr)
        if part == "imports":
            results["imports"] = imports.measure()
        elif part == "networks":
            results["networks"] = added_by_se.measure()
        elif part == "peaks":
            results["peaks"] = {
                name: _ask([name, "--peaks"], environment(home, keeps=False))
                for name, home in HOMES.items()
                if home.training
            }
        else:
            asked = [part, "--seconds", str(options.seconds)]
            results["homes"][part] = _ask(asked, environment(HOMES[part]))
        _write(RESULTS, json.dumps(results, separators=(",", ":")).replace('{"shape"', '\n{"shape"') + "\n")
    _write(PAGE, report.page(results, PAGE.parent))
    print("the README's table:", report.summary(results), sep="\n\n")


def machine() -> dict[str, str]:
    """Where and when."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())
    return {
        "processor": f"{model.strip()}, {os.cpu_count()} processors, {platform.machine()}",
        "system": f"Linux, glibc {platform.libc_ver()[1]}, Python {platform.python_version()}",
        "date": date.today().isoformat(),
    }


def _ask(arguments: list[str], environment: dict[str, str]) -> Any:
    command = [sys.executable, "-m", "evidence.bench.home", *arguments]
    with tempfile.TemporaryFile("w+") as out:
        subprocess.run(command, env=environment, check=True, stdout=out)
        out.seek(0)
        return json.loads(out.read().splitlines()[-1])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    whole = path.with_suffix(".part")
    whole.write_text(text)
    whole.replace(path)


if __name__ == "__main__":
    main()
