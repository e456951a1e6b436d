"""``se-port``: the command line of the porter."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from se_spec import LayoutError, SESpec
from se_spec.command_line import (
    REFUSED,
    add_names,
    complete_files,
    complete_words,
    fit_lines,
    make_parser,
    parse_or_help,
    run_program,
)
from se_spec.networks import NETWORKS
from se_spec.texts import escape

from .formats import WRITABLE
from .layouts import BLOCK_LAYOUTS, NETWORK_LAYOUTS

DONE, DIFFERENT = 0, 1


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0 done; 1 the port is not its source; 2 refused, with the reason on standard error; 130
        interrupted; 141 the reader of the output has gone.
    """
    return run_program("se-port", lambda: _run(parse_or_help(_make_parser(), arguments)))


def _run(options: argparse.Namespace) -> int:
    return int(options.run(options))


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser("se-port", "Move the weights of SE blocks and SENets.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    inspect = _add_command(commands, "inspect", "describe a file", _inspect)
    complete_files(inspect.add_argument("file", type=Path))
    _add_layout(inspect, "--layout", "layout", "layout to look for")
    inspect.add_argument(
        "--name",
        action="append",
        metavar="PARAMETER=NAME",
        help="a block's name in the file where no layout has it, as reduce.weight={path}.squeeze.weight; repeat it",
    )
    _add_source_arguments(inspect)

    convert = _add_command(commands, "convert", "convert a file to another layout or format", _convert)
    complete_files(convert.add_argument("source", type=Path))
    complete_files(
        convert.add_argument("target", type=Path, help="its ending chooses the format, unless --format does")
    )
    group = convert.add_mutually_exclusive_group()
    _add_network(group)
    group.add_argument("--spec", metavar="JSON", help='a block: \'{"channels": 64, "hidden": 4}\'')
    _add_layout(convert, "--from", "source_layout", "layout of the source")
    _add_layout(convert, "--to", "target_layout", "layout of the target", default=None)
    convert.add_argument("--format", choices=WRITABLE, metavar="FORMAT", help=f"one of {', '.join(WRITABLE)}")
    _add_source_arguments(convert)
    convert.add_argument("--block", metavar="PATH", help="the block to convert, where the source has several")
    convert.add_argument("--all-blocks", action="store_true", help="convert every block, each to a file of its own")
    convert.add_argument("--force", action="store_true", help="replace the target")
    _list_layouts(convert)

    replace = _add_command(commands, "replace", "copy a file, with other parameters in one block", _replace)
    complete_files(replace.add_argument("source", type=Path))
    complete_files(replace.add_argument("target", type=Path))
    replace.add_argument("--block", required=True, metavar="PATH", help="the block's path, as inspect shows it")
    complete_files(
        replace.add_argument(
            "--with", dest="values", type=Path, required=True, metavar="FILE", help="a file with canonical parameters"
        )
    )
    replace.add_argument("--force", action="store_true", help="replace the target")

    verify = _add_command(commands, "verify", "run both files of a network and compare", _verify)
    complete_files(verify.add_argument("source", type=Path))
    complete_files(verify.add_argument("target", type=Path))
    _add_network(verify)
    _add_layout(verify, "--from", "source_layout", "layout of the source")
    _add_layout(verify, "--to", "target_layout", "layout of the target")
    _list_layouts(verify, networks_only=True)

    layouts = _add_command(commands, "layouts", "list the layouts that are known", _print_layouts)
    layouts.add_argument("--markdown", action="store_true", help="print docs/PORTING.md")
    return parser


def _add_command(
    commands: Any, name: str, description: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=description, description=f"{description[0].upper()}{description[1:]}."
    )
    command.add_argument("--json", action="store_true", help="print data in place of text")
    command.set_defaults(run=run)
    return command


def _add_layout(
    command: argparse.ArgumentParser, flag: str, name: str, description: str, default: str | None = "auto"
) -> None:
    shown = "" if default is None else " (%(default)s)"
    option = command.add_argument(
        flag, dest=name, default=default, required=default is None, metavar="LAYOUT", help=description + shown
    )
    complete_words(option, dict.fromkeys((*NETWORK_LAYOUTS, *BLOCK_LAYOUTS)))


def _list_layouts(command: argparse.ArgumentParser, *, networks_only: bool = False) -> None:
    """List the layouts at the end of a command's help."""
    add_names(command, "layouts of networks", NETWORK_LAYOUTS)
    if not networks_only:
        add_names(command, "layouts of blocks", BLOCK_LAYOUTS)


def _add_network(command: Any) -> None:
    option = command.add_argument(
        "--network", metavar="NAME", help="the source's network, a name of se_spec.network such as se_resnet50"
    )
    complete_words(option, NETWORKS)


def _add_source_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--part", help="the mapping to take, where a checkpoint has several, as model_ema")
    command.add_argument("--prefix", help="take only names that begin so, without it")


def _inspect(options: argparse.Namespace) -> int:
    from .inspection import inspect

    names = None
    if options.name:
        wrong = [text for text in options.name if "=" not in text]
        if wrong:
            raise LayoutError(f"--name {wrong[0]!r} has no '='; expected as reduce.weight={{path}}.squeeze.weight")
        names = dict(text.split("=", 1) for text in options.name)
    found = inspect(options.file, options.layout, names, part=options.part, prefix=options.prefix)
    _print(found, found.to_dict, as_data=options.json)
    return DONE


def _convert(options: argparse.Namespace) -> int:
    from .api import convert
    from .preprocessing import preprocessing
    from .progress import progress_bar

    start = time.monotonic()
    spec = SESpec.from_json(options.spec) if options.spec else options.network
    layouts = (options.source_layout, options.target_layout)
    status, written = DONE, []
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
                format=options.format,
            )
        status = status if report.changes or not report.inexact else DIFFERENT
        written.append({"target": str(target), **report.to_dict()})
        if not options.json:
            lines = [str(report)]
            if options.network:
                lines.append(f"images for {options.network}: {preprocessing(options.network)}")
            print(fit_lines("\n".join([*lines, f"{escape(str(target))}: {time.monotonic() - start:.1f} s"])))
    if options.json:
        _print_data(written)
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
    _print(
        escape(f"{options.target}: {options.block} has the parameters of {options.values}"),
        lambda: {
            "source": str(options.source),
            "target": str(options.target),
            "block": options.block,
            "with": str(options.values),
        },
        as_data=options.json,
    )
    return DONE


def _verify(options: argparse.Namespace) -> int:
    from .verification import verify

    result = verify(options.source, options.target, options.network, options.source_layout, options.target_layout)
    _print(result, result.to_dict, as_data=options.json)
    return DONE if result.passed else DIFFERENT


def _print_layouts(options: argparse.Namespace) -> int:
    from .page import list_layouts, page

    if options.markdown and options.json:
        print("se-port layouts: --markdown and --json are two forms; name one", file=sys.stderr)
        return REFUSED
    if options.markdown:
        print(page(), end="")
    else:
        _print(
            page(markdown=False, in_columns=not sys.stdout.isatty()).rstrip("\n"), list_layouts, as_data=options.json
        )
    return DONE


def _print(text: object, describe: Callable[[], Any], *, as_data: bool) -> None:
    """Print a text, or the data that describe the same."""
    if as_data:
        _print_data(describe())
    else:
        print(fit_lines(str(text)))


def _print_data(data: dict[str, Any] | Iterable[Any]) -> None:
    print(json.dumps(data, indent=1))


if __name__ == "__main__":
    sys.exit(main())
