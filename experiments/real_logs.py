"""Turns published records of real models on MMLU into score tables for `cascade.simulate`.

A pattern to copy for logs of your own: all the simulator needs is question_id, model, correct and p_t. FOLDER
holds any of

- `mmlu_option_logits`: option logits of Llama-2 and Qwen models on 10,000 questions, five-shot with six options,
  from LLM-Uncertainty-Bench (Ye et al., 2024; github.com/smartyfh/LLM-Uncertainty-Bench, MIT);
- `qwen3_mmlu_logits`: option logits of Qwen3 4B, 8B, 14B at three precisions on 2,280 questions, five-shot
  (github.com/pjmalandrino/llvq, MIT or Apache-2.0);
- `mmlu_letters`, with `mmlu`: answers of large models without probabilities, which can only be the last of a chain
  (HELM by way of aryopg/mmlu-redux, CC-BY-4.0; questions: MMLU, MIT).

    python -m experiments.real_logs FOLDER --out runs/real
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jsonargparse import ArgumentParser

from cascade.errors import CascadeError, one_line_errors
from cascade.scores.schema import validate_scores, write_scores
from probes.files import file_name

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
QWEN3_PARAMETERS = {"Qwen3-4B": 4_022_468_096, "Qwen3-8B": 8_190_735_360, "Qwen3-14B": 14_768_307_200}
# The in-context examples of the five-shot prompt are among the questions.
IN_CONTEXT_IDS = (1, 3, 5, 7, 9)
LETTERS = np.array(["A", "B", "C", "D"])
# MMLU's prompts have about this many characters a token; the records hold no counts of tokens.
CHARACTERS_A_TOKEN = 4


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis, float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def scores(columns: dict[str, object], model: str, question_ids: list[str]) -> pa.Table:
    """A validated score table of one model."""
    named = {"question_id": question_ids, "model": [model] * len(question_ids)}
    return validate_scores(pa.table(named | columns), f"the records of {model}")


def prompt_tokens(folder: Path, qids: np.ndarray) -> np.ndarray:
    """About how many tokens each question and its choices have, from their characters."""
    wanted = [("split", "=", "test")]
    columns = ["qid", "question", "A", "B", "C", "D"]
    table = pq.read_table(folder / "mmlu" / "questions.parquet", filters=wanted, columns=columns)
    lengths = sum(pc.utf8_length(table[name]).to_numpy() for name in columns[1:])
    by_qid = dict(zip(table["qid"].to_pylist(), lengths, strict=True))
    return np.array([-(-int(by_qid[q]) // CHARACTERS_A_TOKEN) for q in qids], dtype=np.int64)


def option_logits(folder: Path, model: str) -> pa.Table:
    """One model of LLM-Uncertainty-Bench.

    The prompt offers six options, E = "I don't know" and F = "None of the above", neither ever right. The
    answer is the best of A to D, and P(T) its probability among all six, so that a model inclined to E or F
    is unsure. The mass outside of the six options is not in the data.

    Args:
        folder: Holds `mmlu_option_logits`.
        model: One of `PARAMETERS`.
    """
    here = folder / "mmlu_option_logits"
    wanted = [("model", "=", model), ("variant", "=", "base"), ("prompt", "=", "base")]
    rows = pq.read_table(here / "logits.parquet", filters=wanted).sort_by("id")
    index = pq.read_table(here / "index.parquet").sort_by("id")
    if rows["id"].to_pylist() != index["id"].to_pylist():
        raise CascadeError(f"Expected the logits of {model} to have the ids of index.parquet, but they differ")
    keep = pc.and_(pc.greater_equal(index["answer"], 0), pc.invert(pc.is_in(index["id"], pa.array(IN_CONTEXT_IDS))))
    rows, index = rows.filter(keep), index.filter(keep)
    probabilities = softmax(np.stack([rows[f"logit_{letter}"].to_numpy() for letter in "ABCDEF"], axis=1))
    best = probabilities[:, :4].argmax(axis=1)
    p_t, mass = probabilities[np.arange(len(best)), best], probabilities[:, :4].sum(axis=1)
    columns = {
        "correct": best == index["answer"].to_numpy(),
        "p_t": p_t,
        "p_t_normalized": np.minimum(p_t / mass, 1),
        "option_mass": np.minimum(mass, 1),
        "p_right": np.minimum(probabilities[np.arange(len(best)), index["answer"].to_numpy()] / mass, 1),
        "answer": LETTERS[index["answer"].to_numpy()],
        "prediction": LETTERS[best],
        "parameters": [PARAMETERS[model]] * len(best),
    }
    return scores(columns, model, [f"mmlu-10k/{i:05d}" for i in index["id"].to_pylist()])


def qwen3_logits(folder: Path, model: str, precision: str) -> pa.Table:
    """One Qwen3 model at one precision. P(T) is the answer's probability among the four letters."""
    wanted = [("model", "=", model), ("precision", "=", precision)]
    rows = pq.read_table(folder / "qwen3_mmlu_logits" / "logits.parquet", filters=wanted).sort_by("qid")
    probabilities = softmax(np.stack([rows[f"logit_{letter}"].to_numpy() for letter in "ABCD"], axis=1))
    columns = {
        "correct": rows["correct"].to_numpy() == 1,
        "p_t": probabilities[np.arange(rows.num_rows), rows["pick"].to_numpy()],
        "p_right": probabilities[np.arange(rows.num_rows), rows["answer"].to_numpy()],
        "subject": rows["subject"],
        "answer": LETTERS[rows["answer"].to_numpy()],
        "prediction": LETTERS[rows["pick"].to_numpy()],
        "parameters": [QWEN3_PARAMETERS[model]] * rows.num_rows,
    }
    return scores(columns, f"{model}-{precision}", [f"mmlu/{q:05d}" for q in rows["qid"].to_pylist()])


def letters(folder: Path, small: tuple[str, ...] = ("Llama-2-70b", "Qwen-72B")) -> Iterator[tuple[str, pa.Table]]:
    """Models with probabilities, and large ones without, over the questions that all of them answered.

    Tokens are estimated from the characters of the question, and one is written, so that prices give dollars.
    The names of the former end in ``--mmlu``: their question ids are others here.
    """
    table = pq.read_table(folder / "mmlu_letters" / "letters.parquet").sort_by("qid")
    names = [name for name in table.column_names if name not in ("qid", "answer") and "correct_" not in name]
    index = pq.read_table(folder / "mmlu_option_logits" / "index.parquet")
    ids = dict(zip((f"mmlu-10k/{i:05d}" for i in index["id"].to_pylist()), index["qid"].to_pylist(), strict=True))
    answered = pc.is_valid(table[names[0]])
    for name in names[1:]:
        answered = pc.and_(answered, pc.is_valid(table[name]))
    places = {q: i for i, (q, ok) in enumerate(zip(table["qid"].to_pylist(), answered.to_pylist(), strict=True)) if ok}
    logits = {name: option_logits(folder, name) for name in small}
    # A question that stands in the records twice counts once.
    qids = [ids[name] for name in logits[small[0]]["question_id"].to_pylist()]
    first = {q: row for row, q in reversed(list(enumerate(qids))) if q in places}
    kept = sorted(first)
    tokens = {"prompt_tokens": prompt_tokens(folder, np.array(kept)), "completion_tokens": [1] * len(kept)}
    question_ids = [f"mmlu/{q:05d}" for q in kept]
    for name, whole in logits.items():
        rows = whole.take([first[q] for q in kept])
        columns = {column: rows[column] for column in ("correct", "p_t", "answer", "prediction")}
        yield f"{name}--mmlu", scores(columns | tokens, f"{name}--mmlu", question_ids)
    large = table.take([places[q] for q in kept])
    for name in names:
        columns = {"correct": pc.equal(large[name], large["answer"]), "prediction": large[name]}
        yield name, scores(columns | {"answer": large["answer"]} | tokens, name, question_ids)


def every_table(folder: Path) -> Iterator[tuple[str, pa.Table]]:
    """Each score table that the data in a folder gives, by its model's name."""
    found = False
    if (folder / "mmlu_option_logits").exists():
        found = True
        for model in PARAMETERS:
            yield model, option_logits(folder, model)
        if (folder / "mmlu_letters").exists():
            yield from letters(folder)
    if (folder / "qwen3_mmlu_logits").exists():
        found = True
        for model in QWEN3_PARAMETERS:
            for precision in ("f16", "awq", "llvq"):
                yield f"{model}-{precision}", qwen3_logits(folder, model, precision)
    if not found:
        raise CascadeError(f"Expected {folder} to hold mmlu_option_logits or qwen3_mmlu_logits, but it holds neither")


@one_line_errors()
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.real_logs", description=__doc__, exit_on_error=False)
    parser.add_argument("folder", type=Path, help="holds the folders named above")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="one Parquet file a model goes here")
    values = parser.parse_args(args)
    for name, table in every_table(values.folder):
        path = values.out / f"{file_name(name)}.parquet"
        write_scores(table, name, path)
        print(f"{path}: {table.num_rows:,} questions, accuracy {100 * np.mean(table['correct'].to_numpy()):.2f}%")


if __name__ == "__main__":
    main()
