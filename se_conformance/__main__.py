"""``se-check``: the command line of the judge."""

import argparse
import sys
from pathlib import Path

from .targets import device


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: all the same; 1: something differs; 2: nothing was compared, or the command was wrong."""
    parser = argparse.ArgumentParser(prog="se-check", description="Is this Squeeze-and-Excitation right?")
    commands = parser.add_subparsers(dest="command", required=True)
    parity = commands.add_parser("parity", help="compare every implementation on two photographs")
    parity.add_argument(
        "--picture", type=Path, default=Path("out/gates.png"), help="where the picture goes (%(default)s)"
    )
    parity.add_argument("--no-picture", action="store_const", dest="picture", const=None, help="draw none")
    options = parser.parse_args(arguments)
    try:
        from rich.console import Console

        from .parity import parity as run
    except ModuleNotFoundError as error:
        print(f"se-check parity needs {error.name}: pip install 'se-suite[conformance]'", file=sys.stderr)
        return 2
    if device() not in ("cpu", "cuda"):
        print(f"DEVICE={device()} is not known; it must be cpu or cuda", file=sys.stderr)
        return 2
    console = Console()
    return run(console if console.is_terminal else Console(width=132), options.picture)


if __name__ == "__main__":
    sys.exit(main())
