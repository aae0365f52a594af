"""The command `cascade VERB`, which is `python -m cascade.VERB`.

Loads nothing of a verb that is not asked for.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from cascade import __version__

VERBS = {
    "train": "train P(IK) heads on a model's hidden states",
    "score": "ask a model a task: hidden states, answers, P(T), other confidences",
    "simulate": "from scores to a recommendation: accuracy, three ledgers, thresholds",
    "run": "answer questions with a live cascade",
    "serve": "put a live cascade behind an OpenAI-compatible server",
    "judge": "judge open-ended answers by a language model or by exact match",
    "export": "write scores or answers as CSV, Parquet, JSON lines, or for lm-evaluation-harness",
    "plan": "say what a verb would cost, before anything is loaded",
}


def build_parser() -> argparse.ArgumentParser:
    """The command line above the verbs; each verb has a parser of its own."""
    listed = "\n".join(f"  {name:<10}{meaning}" for name, meaning in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="cascade",
        description="Confidence-driven model cascades: P(IK) probes, P(T), and honest cost.",
        epilog=f"verbs:\n{listed}\n\n`cascade VERB --help` says more, and `python -m cascade.VERB` is the same.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"confidence-cascade {__version__}")
    shells = ("bash", "zsh", "tcsh")
    parser.add_argument(
        "--completion", choices=shells, metavar="SHELL", help=f"print completion for {', '.join(shells)}"
    )
    parser.add_argument("verb", metavar="VERB", nargs="?", help="one of those below")
    parser.add_argument("args", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def completion(shell: str) -> str:
    """A script that completes verbs and their flags in a shell, made of the verbs' own parsers.

    Args:
        shell: bash, zsh or tcsh.
    """
    import shtab

    parser = argparse.ArgumentParser(prog="cascade")
    verbs = parser.add_subparsers()
    for name, meaning in VERBS.items():
        verb = verbs.add_parser(name, help=meaning, add_help=False)
        for action in importlib.import_module(f"cascade.{name}").build_parser()._actions:
            if flags := [flag for flag in action.option_strings if flag not in verb._option_string_actions]:
                text = action.help if isinstance(action.help, str) else ""
                verb.add_argument(*flags, help=text.split("(default")[0].replace("%", "%%").strip())
    return str(shtab.complete(parser, shell))


def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = build_parser()
    values = parser.parse_args(args)
    if values.completion:
        print(completion(values.completion))
    elif values.verb is None:
        parser.print_help()
    elif values.verb not in VERBS:
        parser.error(f"Expected a verb ({', '.join(VERBS)}), but got {values.verb!r}")
    else:
        importlib.import_module(f"cascade.{values.verb}").main(values.args)


if __name__ == "__main__":
    main(sys.argv[1:])
