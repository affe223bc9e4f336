"""`hf-cmim`: finds the command and reads its words. Nothing heavy is imported before a command runs."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from hf_cmim.cli.printing import say
from hf_cmim.cli.words import refuse_unknown
from hf_cmim.errors import HfCmimError

COMMANDS = {
    "audit": "find out whether a classifier can be distilled, by which attack, by how much, and how sure that is",
    "report": "show an audit again, or compare several in one page",
    "certify": "bind a model's files to its audit: write its certificate and its card",
    "verify": "check that a certificate belongs to the weights, and its verdicts to its results",
    "card": "write a model's card anew from its certificate",
    "push": "put a model on the Hub with its certificate and its card",
    "attacks": "list every attack with its source and settings, or show one",
    "demo": "audit two small models on real digits, in a few minutes",
}
"""What each command does. Each is a module of this folder with `add_arguments(parser)` and `run(options)`, which
returns the exit status, or None for 0."""

EXAMPLES = """\
examples:
  hf-cmim audit --help                    what an audit needs, and what it costs
  hf-cmim attacks dkd                     one attack: formula, settings, source
  hf-cmim report outputs/ce outputs/cmim  two finished audits in one page
  hf-cmim push outputs/cmim user/name     the model on the Hub, with certificate and card
  hf-cmim verify user/name                does its certificate belong to its weights?
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the words name, and return the exit status.

    Args:
        words: of the command line; None for those of this process.
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
    parsers = {name: _add_command(commands, name, asked=name in words[:1]) for name in COMMANDS}
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
    except BrokenPipeError:  # whoever read the output, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except HfCmimError as error:  # any other error keeps its traceback: somebody has to find the fault
        say(f"hf-cmim {options.command}: {error}", file=sys.stderr)
        return 2
    return int(status or 0)


def _add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, *, asked: bool
) -> argparse.ArgumentParser:
    """Add a command; only the one that is asked for is imported."""
    parser = commands.add_parser(
        name,
        help=COMMANDS[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if asked:
        module = import_module(f"hf_cmim.cli.{name}")
        parser.description, parser.epilog = module.__doc__, module.EXAMPLES
        module.add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
