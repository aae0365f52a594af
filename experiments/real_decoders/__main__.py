"""Whether P(IK) pays on real decoders: `python -m experiments.real_decoders` writes `docs/results-real.md`.

It is made of the records in `experiments/records`. With `--models` it measures first, and writes the records:

    python -m experiments.real_decoders --models qwen2.5-coder-0.5b,qwen2.5-coder-1.5b --data FOLDER

What is scored already is not asked again, so that a run can be stopped and gone on with.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from cascade.errors import CascadeError, one_line_errors
from experiments.pages import ROOT
from probes.errors import ProbeError

RECORDS = ROOT / "experiments" / "records"


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.real_decoders", description=__doc__, exit_on_error=False)
    parser.add_argument("--models", type=str, help="folders, Hub ids or GGUF files, separated by commas")
    parser.add_argument("--data", type=Path, help="folder of mmlu/, arc_challenge/ and popqa/, with their questions")
    parser.add_argument("--tasks", type=str, help="some of mmlu,arc,popqa; by default all")
    parser.add_argument("--runs", type=Path, default=Path("runs/real_decoders"), help="folder of questions and stores")
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of records")
    values = parser.parse_args(args)
    if values.models is not None:
        if values.data is None:
            raise CascadeError("Expected `data`, a folder of questions, where there are `models`, but got none")
        from experiments.real_decoders.measure import measure, write_questions

        questions = write_questions(values.data, values.runs)
        if values.tasks is not None:
            if unknown := sorted(set(asked := values.tasks.split(",")) - set(questions)):
                raise CascadeError(f"Expected `tasks` to be some of {', '.join(questions)}, but got {unknown[0]!r}")
            questions = {task: path for task, path in questions.items() if task in asked}
        values.records.mkdir(parents=True, exist_ok=True)
        for model in values.models.split(","):
            measure(model, questions, values.runs, values.records)
    from experiments.real_decoders.evidence import read_records
    from experiments.real_decoders.page import write

    for page in write(read_records(values.records)):
        print(f"Wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
