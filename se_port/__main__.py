"""``se-port``: the command line of the porter."""

import argparse
import io
import sys
import time
from pathlib import Path

from se_spec import LayoutError, SEError, SESpec
from se_spec.texts import escape

DONE, DIFFERENT, REFUSED, INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0 done; 1 the port is not its source; 2 refused, with the reason on standard error; 130
        interrupted.
    """
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a file's names have, and a terminal's encoding has not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return int(options.run(options))
    except SEError as error:
        reason, status = str(error), REFUSED
    except OSError as error:  # such as standard output that is full, or closed
        reason, status = f"{escape(str(error.filename or 'the output'))}: {error.strerror or error}", REFUSED
    except MemoryError:
        reason, status = "the file needs more memory than there is", REFUSED
    except KeyboardInterrupt:
        reason, status = "interrupted; nothing was written", INTERRUPTED
    print(f"se-port: {reason}", file=sys.stderr)
    return status


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
    _add_source_arguments(inspect)
    inspect.set_defaults(run=_inspect)

    convert = commands.add_parser("convert", help="convert a file to another layout or format")
    convert.add_argument("source", type=Path)
    convert.add_argument("target", type=Path, help="its ending chooses the format")
    _add_spec_arguments(convert)
    convert.add_argument("--from", dest="source_layout", default="auto", help="layout of the source (%(default)s)")
    convert.add_argument("--to", dest="target_layout", required=True, help="layout of the target")
    _add_source_arguments(convert)
    convert.add_argument("--block", metavar="PATH", help="the block to convert, where the source has several")
    convert.add_argument("--all-blocks", action="store_true", help="convert every block, each to a file of its own")
    convert.add_argument("--force", action="store_true", help="replace the target")
    convert.set_defaults(run=_convert)

    replace = commands.add_parser("replace", help="copy a file, with other parameters in one block")
    replace.add_argument("source", type=Path)
    replace.add_argument("target", type=Path)
    replace.add_argument("--block", required=True, metavar="PATH", help="the block's path, as inspect shows it")
    replace.add_argument("--with", dest="values", type=Path, required=True, help="a file with canonical parameters")
    replace.add_argument("--force", action="store_true", help="replace the target")
    replace.set_defaults(run=_replace)

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


def _add_source_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--part", help="the mapping to take, where a checkpoint has several, as model_ema")
    command.add_argument("--prefix", help="take only names that begin so, without it")


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
    print(inspect(options.file, options.layout, names, part=options.part, prefix=options.prefix))
    return DONE


def _convert(options: argparse.Namespace) -> int:
    from .api import convert
    from .preprocessing import preprocessing
    from .progress import progress_bar

    start = time.monotonic()
    spec = SESpec.from_json(options.spec) if options.spec else options.network
    layouts = (options.source_layout, options.target_layout)
    status = DONE
    for block, target in _list_targets(options).items():
        with progress_bar() as progress:
            report = convert(
                options.source,
                target,
                spec,
                *layouts,
                force=options.force,
                progress=progress,
                part=options.part,
                prefix=options.prefix,
                block=block,
            )
        print(report)
        status = status if report.changes or not report.inexact else DIFFERENT
        if options.network:
            print(f"images for {options.network}: {preprocessing(options.network)}")
        print(f"{escape(str(target))}: {time.monotonic() - start:.1f} s")
    return status


def _list_targets(options: argparse.Namespace) -> dict[str | None, Path]:
    """List the blocks to convert, each with its file: with ``--all-blocks`` the path is before the target's ending."""
    if not options.all_blocks:
        return {options.block: options.target}
    from .api import find_blocks

    name, target = options.target.name, options.target
    ending = ".weights.h5" if name.endswith(".weights.h5") else target.suffix
    found = find_blocks(options.source, options.source_layout, part=options.part, prefix=options.prefix)
    stem = name.removesuffix(ending)
    return {path: target.with_name(f"{stem}.{escape(path.replace('/', '.'))}{ending}") for path in found}


def _replace(options: argparse.Namespace) -> int:
    from .patching import replace_block
    from .sources import open_source

    values = dict(open_source(options.values))
    replace_block(options.source, options.target, options.block, values, force=options.force)
    print(escape(f"{options.target}: {options.block} has the parameters of {options.values}"))
    return DONE


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
