"""Check what would be released: metadata, the two distributions, and the wheel with each small extra alone.

``python -m evidence.release`` builds both distributions in dist/, renders the README as an index would, and installs
the wheel in an empty environment for each extra of some tens of megabytes; ``--extra torch`` adds a large one.
"""

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import se_spec

from .extras import EXTRAS, MEGABYTE, ROOT, install, use

TWINE = ("twine==7.0.0", "readme_renderer[md]==46.0")
MAX_WHEEL_BYTES, MAX_SDIST_BYTES = 1 * MEGABYTE, 1 * MEGABYTE
LEFT_OUT = re.compile(r"/(tests|\.ci|\.github)(/|$)|\.png$")
"""Names that the source distribution does not have."""
LINK = re.compile(r"\]\((?!https?://)[^)\s]+\)")
"""A link of Markdown that leads into the repository."""


class ReleaseError(Exception):
    """Something about the distributions is wrong."""


def build(folder: Path) -> tuple[Path, Path]:
    """Build the source distribution, and from it the wheel; nothing older stays in the folder.

    Returns:
        The paths of the wheel and of the source distribution.
    """
    for old in folder.glob("se_suite-*"):
        old.unlink()
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def read_metadata(wheel: Path) -> Message:
    """Read a wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def check_metadata(metadata: Message) -> None:
    """Check what an index shows.

    Raises:
        ReleaseError: a field is missing, is not pyproject.toml's, or the description has a link that leads nowhere.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    expected = {
        "Name": project["name"],
        "Version": se_spec.__version__,
        "Summary": project["description"],
        "Author": project["authors"][0]["name"],
        "License-Expression": project["license"],
        "Requires-Python": project["requires-python"],
        "Description-Content-Type": "text/markdown",
    }
    for field, value in expected.items():
        if metadata[field] != value:
            raise ReleaseError(f"the metadata's {field} is {metadata[field]!r}; expected {value!r}")
    for field, wanted in (
        ("Classifier", project["classifiers"]),
        ("Provides-Extra", project["optional-dependencies"]),
        ("Project-URL", [f"{name}, {address}" for name, address in project["urls"].items()]),
    ):
        if set(metadata.get_all(field, [])) != set(wanted):
            raise ReleaseError(f"the metadata's {field} are {metadata.get_all(field)}; expected {list(wanted)}")
    if found := LINK.findall(str(metadata.get_payload())):
        raise ReleaseError(f"the description has links into the repository: {', '.join(found)}")


def check_files(wheel: Path, sdist: Path) -> None:
    """Check the sizes of both distributions, and the files of the second.

    Raises:
        ReleaseError: one is too large, or the source distribution has tests or pictures, or lacks a file.
    """
    for path, most in ((wheel, MAX_WHEEL_BYTES), (sdist, MAX_SDIST_BYTES)):
        if path.stat().st_size > most:
            raise ReleaseError(f"{path.name} has {path.stat().st_size:,} bytes; expected at most {most:,}")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    if wrong := [name for name in names if LEFT_OUT.search(name)]:
        raise ReleaseError(f"{sdist.name} has {len(wrong)} files that it should not have, such as {wrong[0]}")
    top = sdist.name.removesuffix(".tar.gz")
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "docs/SPEC.md"):
        if f"{top}/{name}" not in names:
            raise ReleaseError(f"{sdist.name} has no {name}")


def check_as_index(wheel: Path, sdist: Path, folder: Path) -> None:
    """Check both distributions by twine, which renders the README as an index does; it has its own environment."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *TWINE], check=True)
    subprocess.run([python, "-m", "twine", "check", "--strict", wheel, sdist], check=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0 if everything is right, 1 if something is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    large = [name for name, extra in EXTRAS.items() if not extra.small]
    parser.add_argument("--extra", action="append", choices=large, default=[], help="a large extra; may be repeated")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder of the distributions (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        wheel, sdist = build(options.out)
        print(f"built: {wheel.name}, {wheel.stat().st_size:,} bytes; {sdist.name}, {sdist.stat().st_size:,} bytes")
        check_metadata(read_metadata(wheel))
        check_files(wheel, sdist)
        print("metadata and files: right", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            check_as_index(wheel, sdist, Path(folder))
        for name in [name for name, extra in EXTRAS.items() if extra.small] + options.extra:
            with tempfile.TemporaryDirectory() as folder:
                found = install(wheel, name, Path(folder))
                use(name, Path(folder))
            print(f"extra {name or '(none)'}: works, {found.size / MEGABYTE:,.0f} MB", flush=True)
    except (ReleaseError, subprocess.CalledProcessError) as error:
        print(f"NOT ready: {error}", file=sys.stderr)
        return 1
    left = [name for name in large if name not in options.extra]
    print(f"not installed, since they are large: {', '.join(left)} (make extras installs all)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
