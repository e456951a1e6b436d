"""What every command line of se-suite shares: help, version, completion, exit statuses, lines that fit a terminal."""

import argparse
import io
import os
import select
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TextIO, TypeVar

from . import __version__
from .errors import SEError
from .texts import escape

REFUSED, INTERRUPTED, CLOSED = 2, 130, 141
"""Exit statuses: a wrong command; SIGINT; the reader of the output has closed it, as a shell reports SIGPIPE."""
Option = TypeVar("Option", bound=argparse.Action)
SHELLS = ("bash", "zsh", "tcsh")
"""Shells that shtab writes a completion for."""


class _PrintCompletion(argparse.Action):
    """Print the script that completes the command's words in a shell, and end."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        try:
            import shtab
        except ModuleNotFoundError:
            parser.exit(REFUSED, f"{parser.prog}: {option_string} needs shtab: pip install 'se-suite[completion]'\n")
        _offer_words(parser)
        print(shtab.complete(parser, shell=str(values)))
        parser.exit()


def make_parser(program: str, description: str, **options: Any) -> argparse.ArgumentParser:
    """Make the parser of a command line, with ``--version`` and, for a command of one word, ``--print-completion``.

    Args:
        program: the name of the command, such as ``"se-port"``.
        description: one sentence for the help.
        options: further arguments of ``argparse.ArgumentParser``.

    Returns:
        The parser; the caller adds its own arguments.

    Example:
        >>> make_parser("se-port", "Move weights.").parse_args([])
        Namespace()
    """
    parser = argparse.ArgumentParser(program, description=description, **options)
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    if " " not in program:  # a shell completes the words of one command
        parser.add_argument(
            "--print-completion",
            action=_PrintCompletion,
            choices=SHELLS,
            default=argparse.SUPPRESS,
            help="print the completion script of a shell",
        )
    return parser


def complete_files(option: Option) -> Option:
    """Let a shell complete an argument by the names of files.

    Args:
        option: the argument, as ``add_argument`` returns it.

    Returns:
        The same.

    Example:
        >>> complete_files(argparse.ArgumentParser().add_argument("--file")).dest
        'file'
    """
    option.complete = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}  # type: ignore[attr-defined]
    return option


def complete_words(option: Option, words: Iterable[str]) -> Option:
    """Let a shell complete an argument by words; other words are refused by the command itself, with a hint.

    Args:
        option: the argument, as ``add_argument`` returns it.
        words: such as the names of layouts.

    Returns:
        The same.

    Example:
        >>> complete_words(argparse.ArgumentParser().add_argument("--to"), ["timm", "caffe"]).choices is None
        True
    """
    option.words = list(words)  # type: ignore[attr-defined]
    return option


def _offer_words(parser: argparse.ArgumentParser) -> None:
    """Make the words of ``complete_words`` the choices of their arguments, which shtab offers."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _offer_words(inner)
        elif hasattr(action, "words"):
            action.choices = action.words


def add_names(parser: argparse.ArgumentParser, title: str, names: Iterable[str]) -> None:
    """List names at the end of a command's help.

    Args:
        parser: of the command.
        title: what the names are.
        names: such as those of layouts.

    Example:
        >>> parser = argparse.ArgumentParser("se-port")
        >>> add_names(parser, "layouts", ["caffe", "timm"])
        >>> print(parser.format_help()[-23:])
        layouts:
          caffe, timm
        <BLANKLINE>
    """
    parser.add_argument_group(title, ", ".join(names))


def parse_or_help(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse arguments; a command without any is answered with its help, on standard error.

    Args:
        parser: of ``make_parser``; its commands, if any, are subparsers.
        arguments: the words after the program's name; None takes those of this process.

    Returns:
        The parsed options.

    Raises:
        SystemExit: help, the version or a completion was printed, or the arguments are wrong (status 2).

    Example:
        >>> parser = make_parser("se-port", "Move weights.")
        >>> _ = parser.add_subparsers(dest="command").add_parser("layouts")
        >>> parse_or_help(parser, ["layouts"]).command
        'layouts'
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    asked = parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and len(words) == 1:
            asked = action.choices.get(words[0], parser)
    if words == ([] if asked is parser else words[:1]) and _needs_more(asked):
        asked.print_help(sys.stderr)
        raise SystemExit(REFUSED)
    return parser.parse_args(words)


def _needs_more(parser: argparse.ArgumentParser) -> bool:
    """Whether a parser has a required argument."""
    return any(action.required for action in parser._actions)


def run_program(program: str, run: Callable[[], int], extras: Mapping[str, str] = MappingProxyType({})) -> int:
    """Run a command line, and turn the errors of its caller and of the system into one line and an exit status.

    Args:
        program: the name of the command, which begins the line.
        run: parses, works, prints, and returns the exit status.
        extras: names of modules that may be missing, and of the extras that have them.

    Returns:
        The exit status of ``run``; 2 for an ``SEError``, a missing extra, an error of the system or a lack of memory;
        130 if it was interrupted; 141, without a message, if the reader of its output has gone, as ``head`` does.

    Raises:
        ModuleNotFoundError: a module is missing that no extra has.

    Example:
        >>> run_program("se-port", lambda: 0)
        0
    """
    if sys.stdout is None:  # it was closed before the program began
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a file's names have, and a terminal's encoding has not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()
    except SEError as error:
        reason, status = str(error), REFUSED
    except BrokenPipeError:
        if not _is_closed():  # the pipe is another than the output's
            raise
        _discard_output()
        return CLOSED
    except OSError as error:  # such as standard output that is full
        if _is_full():
            _discard_output()
        reason, status = f"{escape(str(error.filename or 'the output'))}: {error.strerror or error}", REFUSED
    except ModuleNotFoundError as error:
        module = str(error.name).partition(".")[0]  # Python may name a module inside, as rich.console
        if module not in extras:
            raise
        reason, status = f"{module} is missing: pip install 'se-suite[{extras[module]}]'", REFUSED
    except MemoryError:
        reason, status = "this needs more memory than there is", REFUSED
    except KeyboardInterrupt:
        reason, status = "interrupted", INTERRUPTED
    print(fit_lines(f"{program}: {reason}", stream=sys.stderr), file=sys.stderr)
    return status


def _is_closed() -> bool:
    """Whether nobody reads the pipe that is the standard output."""
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _is_full() -> bool:
    """Whether what was printed cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _discard_output() -> None:
    """Point standard output to nothing, so that the end of the process, which writes what is left, has no error."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def line_width(most: int) -> int:
    """Return the characters of a line: those of the terminal, and at most some number, which a pipe has.

    Args:
        most: the largest width, at least 1.

    Returns:
        The width, at least 40 unless ``most`` is less.

    Example:
        >>> line_width(30)
        30
    """
    return min(most, max(40, shutil.get_terminal_size().columns)) if sys.stdout.isatty() else most


def fit_lines(text: str, hanging: int = 4, stream: TextIO | None = None) -> str:
    r"""Break the lines of a text that are longer than the terminal; the output of a pipe stays as it is.

    Args:
        text: of one or several lines.
        hanging: further spaces before what is left of a line that was broken.
        stream: where the text is printed; None is the standard output.

    Returns:
        The text; a word that is longer than a line is not broken, so that it can be copied.

    Example:
        >>> fit_lines("one\ntwo")
        'one\ntwo'
    """
    if not (stream or sys.stdout).isatty():
        return text
    return break_lines(text, shutil.get_terminal_size().columns, hanging)


def break_lines(text: str, width: int, hanging: int = 4) -> str:
    r"""Break the lines of a text that are longer than a width.

    Args:
        text: of one or several lines.
        width: characters of a line.
        hanging: further spaces before what is left of a line that was broken.

    Returns:
        The text.

    Example:
        >>> print(break_lines("  a line of many words", 14, 2))
          a line of
            many words
    """
    lines = []
    for line in text.split("\n"):
        begin = line[: len(line) - len(line.lstrip(" "))]
        wrapped = textwrap.wrap(
            line.lstrip(" "),
            max(width, len(begin) + hanging + 20),
            initial_indent=begin,
            subsequent_indent=begin + " " * hanging,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [line] if len(line) <= width else wrapped
    return "\n".join(lines)
