"""``python -m se_spec`` prints docs/PRESETS.md."""

import argparse
import sys

from .command_line import make_parser, parse_or_help, run_program
from .presets import table


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 the page was printed; 2 the command was wrong; 141 the reader of the output has gone.
    """
    parser = make_parser("python -m se_spec", "Print docs/PRESETS.md: the block of every system.")
    return run_program("python -m se_spec", lambda: _print_page(parse_or_help(parser, arguments)))


def _print_page(options: argparse.Namespace) -> int:
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
