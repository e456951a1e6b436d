"""``se-port``: the command line of the porter."""

import argparse
import sys
import time
from pathlib import Path

from se_spec import LayoutError, SEError, SESpec

DONE, DIFFERENT, REFUSED = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0 done; 1 the port is not its source; 2 refused, with the reason on standard error.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except SEError as error:
        print(f"se-port: {error}", file=sys.stderr)
        return REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="se-port", description="Move the weights of SE blocks and SENets.")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="describe a file")
    inspect.add_argument("file", type=Path)
    inspect.add_argument("--layout", default="auto", help="layout to look for (%(default)s)")
    inspect.add_argument(
        "--name",
        action="append",
        metavar="PARAMETER=NAME",
        help="a block's name in the file where no layout has it, as reduce.weight={path}.squeeze.weight; repeat it",
    )
    inspect.set_defaults(run=_inspect)

    convert = commands.add_parser("convert", help="convert a file to another layout or format")
    convert.add_argument("source", type=Path)
    convert.add_argument("target", type=Path, help="its ending chooses the format")
    _add_spec_arguments(convert)
    convert.add_argument("--from", dest="source_layout", default="auto", help="layout of the source (%(default)s)")
    convert.add_argument("--to", dest="target_layout", required=True, help="layout of the target")
    convert.add_argument("--force", action="store_true", help="replace the target")
    convert.set_defaults(run=_convert)

    verify = commands.add_parser("verify", help="run both files of a network and compare")
    verify.add_argument("source", type=Path)
    verify.add_argument("target", type=Path)
    verify.add_argument("--network", help="the source's network, a name of se_spec.network")
    verify.add_argument("--from", dest="source_layout", default="auto", help="layout of the source (%(default)s)")
    verify.add_argument("--to", dest="target_layout", default="auto", help="layout of the target (%(default)s)")
    verify.set_defaults(run=_verify)

    layouts = commands.add_parser("layouts", help="list the layouts that are known")
    layouts.add_argument("--markdown", action="store_true", help="print docs/PORTING.md")
    layouts.set_defaults(run=_layouts)
    return parser


def _add_spec_arguments(command: argparse.ArgumentParser) -> None:
    group = command.add_mutually_exclusive_group()
    group.add_argument("--network", help="the source's network, a name of se_spec.network")
    group.add_argument("--spec", help='a block as JSON: \'{"channels": 64, "hidden": 4}\'')


def _inspect(options: argparse.Namespace) -> int:
    from .inspection import inspect

    names = None
    if options.name:
        wrong = [text for text in options.name if "=" not in text]
        if wrong:
            raise LayoutError(f"--name {wrong[0]!r} has no '='; expected as reduce.weight={{path}}.squeeze.weight")
        names = dict(text.split("=", 1) for text in options.name)
    print(inspect(options.file, options.layout, names))
    return DONE


def _convert(options: argparse.Namespace) -> int:
    from .api import convert
    from .preprocessing import preprocessing
    from .progress import progress_bar

    start = time.monotonic()
    spec = SESpec.from_json(options.spec) if options.spec else options.network
    layouts = (options.source_layout, options.target_layout)
    with progress_bar() as progress:
        report = convert(options.source, options.target, spec, *layouts, force=options.force, progress=progress)
    print(report)
    if options.network:
        print(f"images for {options.network}: {preprocessing(options.network)}")
    print(f"{options.target}: {time.monotonic() - start:.1f} s")
    return DONE if report.changes or not report.inexact else DIFFERENT


def _verify(options: argparse.Namespace) -> int:
    from .verification import verify

    result = verify(options.source, options.target, options.network, options.source_layout, options.target_layout)
    print(result)
    return DONE if result.passed else DIFFERENT


def _layouts(options: argparse.Namespace) -> int:
    from .page import page

    print(page() if options.markdown else page(markdown=False), end="")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
