"""Times our blocks beside those that a user would use instead, and writes the page, the pictures and the numbers.

``make bench`` runs it, and ``DEVICE=cuda make bench`` runs the module ``cuda`` instead. Each framework runs in a
process of its own on one processor, and every timed block is verified.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from se_conformance.files import write_atomically
from se_parity.implementations import device

from .home import HOMES, make_environment

RESULTS = Path(__file__).parent / "results" / "latest.json"
PAGE = Path(__file__).parents[2] / "docs" / "PERFORMANCE.md"


def main() -> None:
    """Run the command line."""
    if device() == "cuda":
        importlib.import_module("evidence.bench.cuda").main()
        return
    from . import added_by_se, imports, report  # which draws, and so needs matplotlib

    parser = argparse.ArgumentParser(prog="python -m evidence.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=[*HOMES, "peaks", "imports", "networks"], metavar="PART")
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="seconds per task, in which at least five rounds run"
    )
    parser.add_argument("--report", action="store_true", help="write the page from the existing numbers")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"homes": {}}
    parts = [] if options.report else options.only or [*HOMES, "peaks", "imports", "networks"]
    if parts:
        results["machine"] = describe_machine()
    for part in parts:
        print(f"== {part}", file=sys.stderr)
        if part == "imports":
            results["imports"] = imports.measure()
        elif part == "networks":
            results["networks"] = added_by_se.measure()
        elif part == "peaks":
            results["peaks"] = {
                name: _run_home([name, "--peaks"], make_environment(home, keeps=False))
                for name, home in HOMES.items()
                if home.training
            }
        else:
            asked = [part, "--seconds", str(options.seconds)]
            results["homes"][part] = _run_home(asked, make_environment(HOMES[part]))
        write_text(RESULTS, json.dumps(results, separators=(",", ":")).replace('{"shape"', '\n{"shape"') + "\n")
    write_text(PAGE, report.format_page(results, PAGE.parent))
    print("the README's ranges:", *report.format_summary(results), sep="\n")


def describe_machine() -> dict[str, str]:
    """Describe the machine and the date."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())
    return {
        "processor": f"{model.strip()}, {os.cpu_count()} processors, {platform.machine()}",
        "system": f"Linux, glibc {platform.libc_ver()[1]}, Python {platform.python_version()}",
        "date": date.today().isoformat(),
    }


def _run_home(arguments: list[str], environment: dict[str, str]) -> Any:
    command = [sys.executable, "-m", "evidence.bench.home", *arguments]
    with tempfile.TemporaryFile("w+") as out:
        subprocess.run(command, env=environment, check=True, stdout=out)
        out.seek(0)
        return json.loads(out.read().splitlines()[-1])


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    main()
