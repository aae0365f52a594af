"""Turns option logits of real models on MMLU into score tables for `cascade.simulate`.

The input is the folder `mmlu_option_logits` (`logits.parquet`, `index.parquet`): raw logits of six options
from LLM-Uncertainty-Bench (Ye et al., 2024; github.com/smartyfh/LLM-Uncertainty-Bench, MIT). A pattern to copy
for logs of your own: all the simulator needs is question_id, model, correct and p_t.

    python -m experiments.convert_option_logits FOLDER --out runs/qwen --models Qwen-1_8B,Qwen-7B,Qwen-14B,Qwen-72B
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jsonargparse import ArgumentParser

from cascade.errors import CascadeError, one_line_errors
from cascade.simulation.schema import validate_scores, write_scores

# From the models' published configurations, embeddings included.
PARAMETERS = {
    "Qwen-1_8B": 1_836_828_672,
    "Qwen-7B": 7_721_324_544,
    "Qwen-14B": 14_167_290_880,
    "Qwen-72B": 72_287_920_128,
    "Llama-2-7b": 6_738_415_616,
    "Llama-2-13b": 13_015_864_320,
    "Llama-2-70b": 68_976_648_192,
}
# The in-context examples of the five-shot prompt are among the questions.
IN_CONTEXT_IDS = (1, 3, 5, 7, 9)
LETTERS = np.array(["A", "B", "C", "D"])


def convert(folder: Path, model: str, parameters: int) -> pa.Table:
    """One model's score table.

    The prompt offers six options, E = "I don't know" and F = "None of the above", neither ever right. The
    answer is the best of A to D, and P(T) its probability among all six, so that a model inclined to E or F
    is unsure. The mass outside of the six options is not in the data.

    Args:
        folder: Holds `logits.parquet` and `index.parquet`.
        model: A name in the data.
        parameters: N of eq. 5.
    """
    wanted = [("model", "=", model), ("variant", "=", "base"), ("prompt", "=", "base")]
    rows = pq.read_table(folder / "logits.parquet", filters=wanted).sort_by("id")
    if rows.num_rows == 0:
        known = sorted(set(pq.read_table(folder / "logits.parquet", columns=["model"])["model"].to_pylist()))
        raise CascadeError(f"Expected `models` to be among {', '.join(known)}, but got {model!r}")
    index = pq.read_table(folder / "index.parquet").sort_by("id")
    if rows["id"].to_pylist() != index["id"].to_pylist():
        raise CascadeError(f"Expected the logits of {model} to have the ids of index.parquet, but they differ")
    keep = pc.and_(pc.greater_equal(index["answer"], 0), pc.invert(pc.is_in(index["id"], pa.array(IN_CONTEXT_IDS))))
    rows, index = rows.filter(keep), index.filter(keep)
    logits = np.stack([rows[f"logit_{letter}"].to_numpy() for letter in "ABCDEF"], axis=1).astype(np.float64)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    best = probabilities[:, :4].argmax(axis=1)
    p_t, mass = probabilities[np.arange(len(best)), best], probabilities[:, :4].sum(axis=1)
    table = pa.table(
        {
            "question_id": [f"mmlu-10k/{i:05d}" for i in index["id"].to_pylist()],
            "model": [model] * len(best),
            "correct": best == index["answer"].to_numpy(),
            "p_t": p_t,
            "p_t_normalized": np.minimum(p_t / mass, 1),
            "option_mass": np.minimum(mass, 1),
            "answer": LETTERS[index["answer"].to_numpy()],
            "prediction": LETTERS[best],
            "parameters": [parameters] * len(best),
        }
    )
    return validate_scores(table, f"the converted logits of {model}")


@one_line_errors()
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(
        prog="python -m experiments.convert_option_logits", description=__doc__, exit_on_error=False
    )
    parser.add_argument("folder", type=Path, help="holds logits.parquet and index.parquet")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="one Parquet file a model goes here")
    parser.add_argument("--models", type=str, default=",".join(PARAMETERS), help="names, separated by commas")
    values = parser.parse_args(args)
    for name in values.models.split(","):
        if name not in PARAMETERS:
            raise CascadeError(f"Expected `models` to be among {', '.join(PARAMETERS)}, but got {name!r}")
        path = values.out / f"{name}.parquet"
        table = convert(values.folder, name, PARAMETERS[name])
        write_scores(table, name, path)
        print(f"{path}: {table.num_rows:,} questions, accuracy {100 * np.mean(table['correct'].to_numpy()):.2f}%")


if __name__ == "__main__":
    main()
