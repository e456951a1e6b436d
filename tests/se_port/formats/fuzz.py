"""Fuzzing of readers: mutated files are read in a process with limits on memory and time.

``python -m tests.se_port.formats.fuzz FORMAT PATH COUNT COMPANION ...`` runs that process.

A reader may return arrays or raise a ``FileFormatError``. Anything else is a fault, and so are a crash, a hang and more
memory than the limit. A mutation is determined by its number, so that a fault can be reproduced.
"""

import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from se_port import formats
from se_port.formats import _base
from se_spec import FileFormatError

MAX_SECONDS = 5
MEMORY_BYTES = 512 << 20
"""Memory that reading a small file may take, beyond the process's own."""
UNPACKED_BYTES = 64 << 20
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def mutate(data: bytes, number: int) -> bytes:
    """Mutate a file: change, cut or double bytes, make a length absurd, or drop the end."""
    chance = random.Random(number)
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        if not changed:
            break
        # Headers matter more than payloads: half of the places are near the beginning or the end.
        near = min(len(changed), 512)
        place = chance.choice(
            (chance.randrange(len(changed)), chance.randrange(near), len(changed) - 1 - chance.randrange(near))
        )
        length = chance.choice((1, 2, 4, 8, 64))
        match chance.randrange(6):
            case 0:
                changed[place] ^= 1 << chance.randrange(8)
            case 1:
                changed[place : place + length] = bytes([chance.choice(INTERESTING)]) * length
            case 2:
                changed[place : place + length] = chance.randbytes(length)
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place:place] = changed[place : place + length]
            case 5:
                del changed[place:]
    return bytes(changed)


def read_mutations(format: str, whole: bytes, path: Path, count: int) -> Iterator[tuple[bytes, dict[str, np.ndarray]]]:
    """Write each mutation of a file to ``path``; yield the bytes and the tensors of those that the reader accepts."""
    for number in range(count):
        path.write_bytes(data := mutate(whole, number))
        try:
            tensors = dict(formats.read(path, format))
        except FileFormatError:
            continue
        yield data, tensors


def check_mutations(format: str, path: Path, count: int, companions: tuple[str, ...] = ()) -> None:
    """Read ``count`` mutations of a file, or of the files of a folder; some must be refused and some read.

    Args:
        format: of the file.
        path: of the file or folder.
        count: of mutations.
        companions: names of files beside it that the reader also reads; they stay as they are.
    """
    command = [sys.executable, "-m", "tests.se_port.formats.fuzz", format, str(path), str(count), *companions]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert " 0 refused" not in done.stdout and " 0 read" not in done.stdout, done.stdout


def iterate_variants(path: Path, folder: Path, count: int) -> Iterator[tuple[int, Path]]:
    """Yield each mutation under the path's own name in ``folder``; in a folder, one file at a time is mutated."""
    target = folder / path.name
    if path.is_file():
        data = path.read_bytes()
        for number in range(count):
            target.write_bytes(mutate(data, number))
            yield number, target
        return
    members = sorted(member for member in path.rglob("*") if member.is_file())
    shutil.copytree(path, target)
    for number in range(count):
        member = members[number % len(members)]
        changed, whole = target / member.relative_to(path), member.read_bytes()
        changed.write_bytes(mutate(whole, number))
        yield number, target
        changed.write_bytes(whole)


def main(format: str, path: str, count: str, *companions: str) -> int:
    """Read all mutations; raises at the first fault, which is printed with its number."""
    whole = {
        name: np.asarray(array) for name, array in formats.read(path, format).items()
    }  # imports what reading needs, before the limit on memory
    assert whole
    _base.MAX_BYTES = UNPACKED_BYTES
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _time_out)
    refused = read = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in companions:
            shutil.copy(Path(path).with_name(name), folder)
        for number, variant in iterate_variants(Path(path), Path(folder), int(count)):
            print(number, file=sys.stderr, flush=True)
            signal.alarm(MAX_SECONDS)
            try:
                for array in formats.read(variant, format).values():
                    np.asarray(array).tobytes()
                read += 1
            except FileFormatError as error:
                refused += 1
                if str(variant) not in str(error):
                    raise AssertionError(f"the error does not name the file: {error}") from error
            except BaseException as error:
                print(f"mutation {number}: {type(error).__name__}: {error}")
                raise
            finally:
                signal.alarm(0)
    print(f"{format}: {count} mutations, {refused} refused, {read} read")
    return 0


def _time_out(*_: object) -> None:
    raise TimeoutError(f"not read in {MAX_SECONDS} seconds")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
