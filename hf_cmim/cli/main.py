"""Entry point of `hf-cmim`: reads the command line and runs the command, importing only what it needs."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from hf_cmim.cli.printing import say
from hf_cmim.cli.words import refuse_unknown
from hf_cmim.errors import HfCmimError

COMMANDS = {
    "harden": "train the strongest hardened model within an accuracy budget, and audit it",
    "audit": "test if a classifier can be distilled, by which attacks, by how much and how certainly",
    "report": "show an audit again, or compare several in one page",
    "certify": "bind a model's files to its audit: write certificate and card",
    "verify": "check that a certificate matches the weights, and its verdicts match its results",
    "card": "write a model's card again from its certificate",
    "push": "upload a model to the Hub with certificate and card",
    "attacks": "list all attacks with source and settings, or show one",
}
"""Descriptions of the commands.

Each command is a module of this folder with `add_arguments(parser)` and `run(options)`, which returns the exit
status, or None for 0.
"""

EXAMPLES = """\
examples:
  hf-cmim harden --help                   a hardened model within an accuracy budget
  hf-cmim audit --help                    flags of an audit, with examples and costs
  hf-cmim attacks dkd                     one attack: formula, settings, source
  hf-cmim report outputs/ce outputs/cmim  two finished audits in one page
  hf-cmim push outputs/cmim user/name     upload a model with certificate and card
  hf-cmim verify user/name                check that a certificate matches the weights
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command in `words` and return the exit status.

    Args:
        words: words of the command line; None for those of this process.
    """
    words = sys.argv[1:] if words is None else list(words)
    parser = argparse.ArgumentParser(
        prog="hf-cmim",
        description="Harden classifiers against distillation, attack them, prove the result, publish it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    parsers = {name: _add_command(commands, name, is_requested=name in words[:1]) for name in COMMANDS}
    options, unknown = parser.parse_known_args(words)
    if options.version:
        print(import_module("importlib.metadata").version("hf_cmim"))
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    status = None
    try:
        refuse_unknown(unknown, parsers[options.command])
        status = import_module(f"hf_cmim.cli.{options.command}").run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output, `head` for instance, has ended. Python flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # Any other error is a bug and keeps its traceback.
    except HfCmimError as error:
        if not import_module("hf_cmim.cli.processes").hand_over(error):
            say(f"hf-cmim {options.command}: {error}", file=sys.stderr)
        return 2
    return int(status or 0)


def _add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, *, is_requested: bool
) -> argparse.ArgumentParser:
    """Add a command; its module is imported only if the command is requested."""
    parser = commands.add_parser(
        name,
        help=COMMANDS[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if is_requested:
        module = import_module(f"hf_cmim.cli.{name}")
        parser.description, parser.epilog = module.__doc__, module.EXAMPLES
        module.add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
