"""``se-parity``: runs every implementation on two photographs and prints how far their answers are apart."""

import argparse
import sys
from pathlib import Path

from se_spec.command_line import complete_files, make_parser, parse_or_help, run_program

from .implementations import device

NOTHING = 2
EXTRAS = dict.fromkeys(("ml_dtypes", "rich", "sklearn"), "parity")
"""The modules that the harness needs, and the extra that has them."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 if all implementations agree, 1 if one differs, 2 if nothing was compared or the command was
        wrong; 130 interrupted; 141 the reader of the output has gone.
    """
    parser = make_parser("se-parity", "Run every implementation on two photographs and print how far they are apart.")
    complete_files(
        parser.add_argument(
            "--picture", type=Path, default=Path("out/gates.png"), help="the file for the picture (%(default)s)"
        )
    )
    parser.add_argument("--no-picture", action="store_const", dest="picture", const=None, help="draw no picture")
    return run_program("se-parity", lambda: _run(parse_or_help(parser, arguments)), EXTRAS)


def _run(options: argparse.Namespace) -> int:
    if device() not in ("cpu", "cuda"):
        print(f"DEVICE={device()} is not known; it must be cpu or cuda", file=sys.stderr)
        return NOTHING
    from rich.console import Console

    from .parity import parity

    console = Console()
    return parity(console if console.is_terminal else Console(width=132), options.picture)


if __name__ == "__main__":
    sys.exit(main())
