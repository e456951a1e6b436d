"""``python -m evidence.fuzz``: generate files of every format, inspect each, and compare memory and time with the caps.

A file may be described or refused by an ``SEError``. Any other error is a fault, and so are an error that a reader does
not foresee, a message that is long or not printable, more memory than the declared tensors and 256 MiB, and more time
than the cap. A file is determined by the seed and its number, so that a fault can be reproduced with ``--first``.
"""

import argparse
import json
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from se_port import formats, inspect
from se_port.formats._base import UNFORESEEN
from se_spec import SEError

from .generators import GENERATORS
from .grammar import Chance

SPARE_BYTES = 256 << 20
MAX_SECONDS, SECONDS_PER_MEGABYTE = 2.0, 5.0
"""Of the processor's time, for a file; files of the generators have some kilobytes."""
MAX_CHARACTERS = 4000


class Result(NamedTuple):
    """What the files of one format gave; seconds of the slowest, and bytes of memory beyond the declared tensors."""

    format: str
    files: int
    refused: int
    read: int
    slowest: float
    most: int
    faults: list[str]


def run(format: str, files: int, seed: int, first: int = 0) -> Result:
    """Generate and inspect the files of a format, in this process."""
    refused = read = 0
    slowest, most, faults = 0.0, 0, []
    with _handle_alarm(), tempfile.TemporaryDirectory() as name:
        folder = Path(name, "files")
        for number in range(first, first + files):
            folder.mkdir()
            path = GENERATORS[format](Chance(f"{seed} {format} {number}"), folder)
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            before, begun, declared, is_read = _peak(), time.process_time(), 0, False
            signal.alarm(60)
            try:
                for array in formats.read(path).values():
                    declared += array.nbytes
                is_read = True
                str(inspect(path))
            except SEError as error:
                message = str(error)
                if (
                    UNFORESEEN in message
                    or len(message) > MAX_CHARACTERS
                    or not message.replace("\n", "").isprintable()
                ):
                    faults.append(f"file {number}: {message}")
            except BaseException as error:
                faults.append(f"file {number}: {type(error).__name__}: {error}")
            signal.alarm(0)
            read, refused = read + is_read, refused + (not is_read)
            seconds, memory = time.process_time() - begun, max(0, _peak() - before - declared)
            if memory > SPARE_BYTES or seconds > MAX_SECONDS + SECONDS_PER_MEGABYTE * (size >> 20):
                faults.append(f"file {number}: {size:,} bytes took {seconds:.1f} s and {memory >> 20} MiB")
            slowest, most = max(slowest, seconds), max(most, memory)
            shutil.rmtree(folder)
    return Result(format, files, refused, read, slowest, most, faults)


def _peak() -> int:
    """Return the most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextmanager
def _handle_alarm() -> Iterator[None]:
    """Let the alarm raise a ``TimeoutError``, and put the earlier handler back."""
    earlier = signal.signal(signal.SIGALRM, _time_out)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, earlier)


def _time_out(*_: object) -> None:
    raise TimeoutError("not read in 60 seconds")


def write_page(results: list[Result], seed: int) -> str:
    """Write the page."""
    lines = [
        "# Structured fuzzing of the readers",
        "",
        "`make fuzz` wrote this page. Generators make files with right lengths, checksums and directories that combine",
        "recursion, duplication, overlap, expansion, and oddities of dtype, name and order. Each file is read and",
        "inspected; it is described, or refused by one `SEError`. *Slowest* is the processor's time of one file, and",
        "*memory* the most beyond the declared tensors that any file added to the process, in MiB;",
        "[the limits](LIMITS.md) are 256 MiB, and 2 s with 5 s for each megabyte. *Faults* counts files beyond a",
        "limit, and any other error.",
        "",
        f"Seed {seed}; {platform.machine()}, Python {platform.python_version()}.",
        "",
        "| format | files | refused | read | slowest, s | memory, MiB | faults |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {one.format} | {one.files:,} | {one.refused:,} | {one.read:,} | {one.slowest:.2f} | {one.most >> 20} "
        f"| {len(one.faults)} |"
        for one in results
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run every format in a process of its own, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m evidence.fuzz")
    parser.add_argument("--runs", type=int, default=20_000, help="files of each format (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--format", action="append", choices=GENERATORS, help="a format; may be repeated")
    parser.add_argument("--processes", type=int, default=2, help="formats at once (%(default)s)")
    parser.add_argument("--out", type=Path, help="the page to write")
    options = parser.parse_args()
    names = options.format or list(GENERATORS)
    if len(names) == 1:
        result = run(names[0], options.runs, options.seed, options.first)
        print(json.dumps(result._asdict()))
        return bool(result.faults)
    with ThreadPoolExecutor(options.processes) as pool:
        results = list(pool.map(lambda name: _run_alone(name, options), names))
    if options.out:
        options.out.write_text(write_page(results, options.seed))
    return any(one.faults for one in results)


def _run_alone(name: str, options: argparse.Namespace) -> Result:
    """Run a format in a process of its own, which may crash."""
    command = [sys.executable, "-m", "evidence.fuzz", "--format", name, "--runs", str(options.runs)]
    command += ["--seed", str(options.seed), "--first", str(options.first)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        result = Result(**json.loads(done.stdout))
    except ValueError:
        fault = f"the process ended with {done.returncode}: {done.stderr[-2000:]}"
        result = Result(name, options.runs, 0, 0, 0.0, 0, [fault])
    print(f"{name}: {result.refused:,} refused, {result.read:,} read, {len(result.faults)} faults", flush=True)
    print("\n".join(result.faults[:20]), end="\n" if result.faults else "", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
