"""The command line: ``scaling`` and ``python -m scaling``, a thin layer over the library.

Exit codes: 0 done, 1 bad input, 2 fitted but with a finding of severity "error" (such as parameters
that are not identified), 3 the fit did not converge. Results go to stdout, doubts and progress to
stderr. A user's mistake is answered with one sentence, never with a traceback.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

BAD_INPUT, DOUBTFUL, NOT_CONVERGED = 1, 2, 3


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one sentence and exit code 1."""

    def error(self, message: str) -> NoReturn:
        """Prints the message with a way to help, and exits."""
        self.exit(BAD_INPUT, f"scaling: {message}; see `{self.prog} --help`.\n")


def build() -> Parser:
    """Returns the parser of all commands."""
    from scaling.cli import fitting, reference, using

    parser = Parser(
        prog="scaling",
        description="Fit scaling laws of precision to results tables, and plan with them.",
        epilog="exit codes: 0 done, 1 bad input, 2 fitted with errors among the findings, "
        "3 not converged",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for room in (reference, fitting, using):
        room.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the words after the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    try:
        options = build().parse_args(arguments)
        code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; keep the interpreter from complaining again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ImportError, OSError) as error:
        print(f"scaling: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("scaling: interrupted; nothing was written.", file=sys.stderr)
        return 130
