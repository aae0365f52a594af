"""Writes scores and answers for other tools: `python -m cascade.export`.

Takes score tables and logs of any format, the folder of a hidden-state store, or that of a live run, whose answers are
written. `--out` says the form by its ending: `.csv`, `.parquet` or `.jsonl`; a folder gets samples as
lm-evaluation-harness writes them, which are read back like any other.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from jsonargparse import ArgumentParser

from cascade.commands import verb_parser
from cascade.errors import CascadeError, one_line_errors
from probes.errors import ProbeError

ANSWERS = "answers.parquet"


def export(sources: list[Path], out: Path, columns: dict[str, str] | None = None) -> list[Path]:
    """Writes scores or answers, and gives the files.

    Args:
        sources: Score tables, logs of any format and folders of them; one store; or one run.
        out: A file (.csv, .parquet, .jsonl), or a folder, for samples as lm-evaluation-harness writes them.
        columns: From the schema's names to the sources', where they differ.

    Raises:
        CascadeError, ProbeError: If a source holds neither scores nor answers, or ``out`` has another ending.
    """
    from cascade.scores.writing import write_samples, write_table

    table, judged = _table(sources, columns)
    if out.suffix:
        write_table(table, out)
        return [out]
    if not judged:
        raise CascadeError(f"Expected `out` to be a file where answers are written, but got the folder {out}")
    return write_samples(table, out)


def _table(sources: list[Path], columns: dict[str, str] | None) -> tuple[pa.Table, bool]:
    """What is to be written, and whether it is scores."""
    import pyarrow.parquet as pq

    from cascade.scores.reading import read_scores
    from cascade.scores.schema import join_scores
    from probes.store import MANIFEST

    for source in sources:
        answers = source / ANSWERS if source.is_dir() else source
        stored = (source / MANIFEST).is_file()
        if len(sources) > 1 and (stored or (answers.name == ANSWERS and answers.is_file())):
            raise CascadeError(f"Expected one store or run to export, but got {', '.join(map(str, sources))}")
        if stored:
            from cascade.scoring.scored import stored_scores  # loads torch
            from probes.store import HiddenStateStore

            return join_scores([(str(source), stored_scores(HiddenStateStore(source)))], columns), True
        if answers.name == ANSWERS and answers.is_file():
            return pq.read_table(answers), False
    return read_scores(sources, columns), True


def build_parser() -> ArgumentParser:
    """The command line: the signature of `export`."""
    parser = verb_parser("export", __doc__)
    parser.add_argument("sources", nargs="+", type=Path, help="score tables, logs, a store's folder or a run's")
    parser.add_function_arguments(export, skip={"sources"})
    return parser


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    for path in export(**build_parser().parse_args(args).as_dict()):
        print(f"Wrote {path}")


if __name__ == "__main__":
    main()
