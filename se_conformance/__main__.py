"""``se-check``: the command line of the judge."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from se_spec import PRESETS, SEError, SESpec
from se_spec.command_line import (
    add_names,
    complete_files,
    complete_words,
    fit_lines,
    line_width,
    make_parser,
    parse_or_help,
    run_program,
)
from se_spec.texts import MAX_QUOTED, escape, shorten

from .cases import DTYPES
from .files import MODEL_ENDINGS, SCRIPT_ENDINGS, write_atomically

if TYPE_CHECKING:
    from .vectors import Vector
    from .verdict import Verdict

PASS, FAIL, NOTHING = 0, 1, 2
Colour = Callable[[str, str], str]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 if the block is right, 1 if something is wrong, 2 if nothing was judged or the command was
        wrong; 130 interrupted; 141 the reader of the output has gone.
    """
    return run_program("se-check", lambda: _run_command(parse_or_help(_make_parser(), arguments)), _EXTRAS)


def _run_command(options: argparse.Namespace) -> int:
    return int(options.run(options))


_EXTRAS = (
    {"torch": "torch", "keras": "keras", "tensorflow": "keras-tf", "jax": "flax", "flax": "flax"}
    | dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx")
    | dict.fromkeys(("ml_dtypes", "safetensors"), "conformance")
)


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser("se-check", "Judge a Squeeze-and-Excitation block.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="judge a block", description="Judge module:name, a function or a block.")
    complete_files(
        run.add_argument("target", help="module:name of function(x, parameters) -> y, or of a block; or a file")
    )
    run.add_argument("--trust", action="store_true", help="load a TorchScript file, which runs the file's code")
    run.add_argument("--block", metavar="PATH", help="the block of a file with several, as se-port inspect shows it")
    which = run.add_mutually_exclusive_group()
    preset = which.add_argument(
        "--preset", metavar="NAME", help="the block that it should be: a name that is listed below; needs --channels"
    )
    complete_words(preset, PRESETS)
    which.add_argument("--spec", metavar="JSON", help='the block that it should be: \'{"channels": 64, "hidden": 4}\'')
    run.add_argument("--channels", type=int, help="channels of the preset")
    run.add_argument("--hidden", type=int, help="hidden width in place of the preset's")
    run.add_argument("--basis", type=int, help="the number that the preset divides for its width, if not channels")
    run.add_argument("--vjp", metavar="MODULE:NAME", help="vjp(x, dy, parameters) -> (dx, dparameters)")
    run.add_argument("--excitation", metavar="MODULE:NAME", help="excitation(x, parameters) -> g")
    dtype = run.add_argument(
        "--dtype", action="append", help="float64, float32, bfloat16, float16; may be repeated (float32)"
    )
    complete_words(dtype, DTYPES)
    run.add_argument("--data-format", choices=("channels_last", "channels_first"))
    run.add_argument("--ranks", default="2", help="numbers of spatial axes, as in 1,2,3 (%(default)s)")
    run.add_argument("--products", default="dtype", help="dtype, tf32 or bfloat16 (%(default)s)")
    run.add_argument("--intermediates", default="storage", help="storage or float32 (%(default)s)")
    run.add_argument("--seed", type=int, help="of the inputs; drawn and printed by default")
    run.add_argument("--timeout", type=float, default=60.0, help="seconds that one call may take (%(default)s)")
    run.add_argument("--known", "--deviations", type=Path, metavar="FILE", help="known deviations, a trial per line")
    run.add_argument("--json", type=Path, metavar="FILE", help="a file for the verdicts")
    run.add_argument("--junit", type=Path, metavar="FILE", help="a file of XML for CI, a test case for each trial")
    run.add_argument("--html", type=Path, metavar="FOLDER", help="a folder for index.html, one page with drawings")
    add_names(run, "presets", PRESETS)
    run.set_defaults(run=_run)

    faults = commands.add_parser("faults", help="print the catalogue of known mistakes")
    faults.add_argument("--list", action="store_true", help="print the catalogue, as without it")
    faults.set_defaults(run=_faults)

    vectors = commands.add_parser("vectors", help="write the frozen vectors, or judge answers by them")
    vectors.add_argument("folder", type=Path, nargs="?", help="the folder to write to; with --judge, to read from")
    vectors.add_argument("--format", choices=("safetensors", "json", "c"), help="what is written (safetensors)")
    vectors.add_argument(
        "--judge",
        metavar="TARGET",
        help="module:name of function(x, parameters, spec) -> y; or a file of answers, - for the standard input",
    )
    vectors.add_argument("--spec", metavar="JSON", help="keep the vectors of this block, whatever their widths")
    vectors.add_argument("--only", default="*", metavar="PATTERN", help="keep the vectors of such names: '*float32'")
    vectors.set_defaults(run=_vectors)
    return parser


def _run(options: argparse.Namespace) -> int:
    from .outputs import Outputs
    from .verdict import LINE_CHARACTERS

    sys.path.insert(0, os.getcwd())
    outputs = Outputs(options.json, options.junit, options.html)
    outputs.check()
    verdicts, colour = _judge(options), _choose_colour()
    for verdict in verdicts:
        first, *rest = (_fit_line(escape(line, keep_lines=True)) for line in verdict.lines(line_width(LINE_CHARACTERS)))
        print("\n".join([colour(first, "green" if verdict.passed else "red"), *rest]))
    outputs.write(verdicts, options.target + (f" {options.block}" if options.block else ""))
    if not any(verdict.conclusive or verdict.failures for verdict in verdicts):
        return NOTHING
    return PASS if all(verdict.passed for verdict in verdicts) else FAIL


def _fit_line(line: str) -> str:
    """Break a line of a verdict for the terminal, unless it is Python that a person copies."""
    if line.startswith("  again "):
        return line
    return fit_lines(line, hanging=0 if line.startswith(" " * 11) else 9)


def _judge(options: argparse.Namespace) -> "list[Verdict]":
    """Judge the target in each dtype; a line of the known deviations is stale only if no dtype needs it."""
    from .judge import check

    target, spec = _resolve_target(options)
    verdicts = [
        check(
            target,
            spec,
            vjp=options.vjp and _import_target(options.vjp),
            excitation=options.excitation and _import_target(options.excitation),
            dtype=dtype,
            data_format=options.data_format,
            ranks=_parse_ranks(options.ranks),
            products=options.products,
            intermediates=options.intermediates,
            seed=options.seed,
            timeout=options.timeout,
            deviations=options.known,
        )
        for dtype in options.dtype or ["float32"]
    ]
    excused = [key for verdict in verdicts for key in verdict.known]
    for verdict in verdicts:
        stale = verdict.stale_deviations
        verdict.stale_deviations = [line for line in stale if not any(line.covers(*key) for key in excused)]
    return verdicts


def _faults(options: argparse.Namespace) -> int:
    from .faults import CATALOGUE, EQUIVALENT

    for fault in CATALOGUE.values():
        print(fit_lines(f"{fault.stage:11}{fault.name}: {fault.sentence} [{fault.source}]", hanging=11))
    for name, reason in EQUIVALENT.items():
        print(fit_lines(f"equivalent {name}: {reason}", hanging=11))
    return PASS


def _vectors(options: argparse.Namespace) -> int:
    if options.judge is None:
        return _write_vectors(options)
    if options.format is not None:
        raise SEError("--format is for writing; leave it out with --judge")
    sys.path.insert(0, os.getcwd())
    from . import vectors
    from .vectors.answers import STANDARD_INPUT, choose_answer, read_answers
    from .vectors.judge import call_with_spec, judge_answers

    function = None
    if options.judge == STANDARD_INPUT or Path(options.judge).is_file():
        answer = partial(choose_answer, read_answers(options.judge))
    else:
        function = _import_target(options.judge)
        answer = partial(call_with_spec, function)
    every = vectors.load(options.folder)
    chosen = _select_vectors(options, every)
    wrong = judge_answers(answer, chosen, function)
    for entry in wrong:
        print(_choose_colour()(f"{shorten(entry.vector.name)}: {shorten(entry, 2 * MAX_QUOTED)}", "red"))
    if len(chosen) < len(every):
        print(f"skipped {len(every) - len(chosen)} vectors, which are of other blocks or have other names")
    print(f"{len(chosen) - len(wrong)} of {len(chosen)}")
    return FAIL if wrong else PASS


def _write_vectors(options: argparse.Namespace) -> int:
    """Write the frozen vectors; as JSON or C those that are selected."""
    from . import vectors

    if options.folder is None:
        raise SEError("name a folder to write to, or a block with --judge")
    if options.format in (None, "safetensors"):
        if options.spec or options.only != "*":
            raise SEError("--spec and --only select vectors for --judge, --format json and --format c")
        print("\n".join(vectors.write(options.folder)))
        return PASS
    chosen = _select_vectors(options, vectors.load())
    if options.format == "c":
        chosen = [vector for vector in chosen if vector.dtype == "float32"]
        if not chosen:
            raise SEError("no vector in float32 is selected; the header holds no others")
    name, form = (
        (vectors.HEADER, vectors.format_header) if options.format == "c" else (vectors.JSON, vectors.format_json)
    )
    with write_atomically(options.folder / name) as temporary:
        temporary.write_text(form(chosen), encoding="utf-8")
    print("\n".join(vector.name for vector in chosen))
    return PASS


def _select_vectors(options: argparse.Namespace, every: "list[Vector]") -> "list[Vector]":
    from .vectors.judge import select_vectors

    chosen = select_vectors(every, SESpec.from_json(options.spec) if options.spec else None, options.only)
    if not chosen:
        raise SEError("no vector is selected: --spec or --only fits none")
    return chosen


def _resolve_spec(options: argparse.Namespace) -> SESpec:
    if options.spec:
        return SESpec.from_json(options.spec)
    if not options.preset:
        raise SEError("one of the arguments --preset --spec is required, or --block of a file")
    if options.channels is None:
        raise SEError("--preset needs --channels")
    given = {"hidden": options.hidden, "basis": options.basis}
    width = {name: value for name, value in given.items() if value is not None}
    return SESpec.preset(options.preset, options.channels, **width)


def _resolve_target(options: argparse.Namespace) -> tuple[Any, SESpec]:
    """Find what is judged, and the spec; without one given, a block of a file should be what its graph says."""
    from .block_files import cut_block, load_script

    if options.target.endswith(SCRIPT_ENDINGS):
        spec = _resolve_spec(options)
        return load_script(options.target, options.block, trusted=options.trust), spec
    if options.block is None:
        return _import_target(options.target), _resolve_spec(options)

    block, spec = cut_block(options.target, options.block)
    return block, _resolve_spec(options) if options.preset or options.spec else spec


def _import_target(target: str) -> Any:
    """Import ``module:name``; the path of a file that ``adapt`` reads stays a path."""
    if target.endswith(tuple(MODEL_ENDINGS)):
        return Path(target)
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise SEError(f"{target!r} is not module:name")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise SEError(f"there is no module {module!r} on the path") from None
        raise
    for part in name.split("."):
        if not hasattr(found, part):
            raise SEError(f"{module!r} has no {name!r}")
        found = getattr(found, part)
    return found


def _parse_ranks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SEError(f"--ranks={text} is not a list such as 1,2,3") from None


def _choose_colour() -> Colour:
    """Colours text in a terminal; leaves it plain in a pipe, and where NO_COLOR is set."""
    codes = {"green": "32", "red": "31", "yellow": "33"}
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return lambda text, name: text
    return lambda text, name: f"\x1b[{codes[name]}m{text}\x1b[0m"


if __name__ == "__main__":
    sys.exit(main())
