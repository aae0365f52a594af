"""Scoring a task with examples in its prompts: read once for all that share them, beside read in every prompt.

    python -m experiments.benchmarks.few_shot --model FOLDER --task FILE.jsonl

Both ways score the same questions by turns in one process, into stores of their own: answers, P(T) and every layer's
state. The last line is JSON.
"""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import count
from pathlib import Path

from jsonargparse import ArgumentParser

from cascade.engines.base import prompt_of
from cascade.engines.settings import DecoderConfig
from cascade.scoring.scored import score
from cascade.tasks.load import load_task
from experiments.benchmarks.side_by_side import alternate, report


def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.benchmarks.few_shot", description=__doc__)
    parser.add_argument("--model", default="mini-llama-large", help="a decoder")
    parser.add_argument("--task", default="mini-mmlu", help="a task or a file of questions")
    parser.add_argument("--shots", type=int, default=5, help="examples in a prompt")
    parser.add_argument("--questions", type=int, default=60, help="how many, the first ones")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the median counts")
    values = parser.parse_args(args)
    engine, task = DecoderConfig(values.model).build(), load_task(values.task, values.shots)
    task = task.take(range(min(values.questions, len(task.questions))))
    prompts = [prompt_of(question, task) for question in task.questions]
    counted = (engine.count_tokens(texts) or [] for texts in ([p.text for p in prompts], [p.shared for p in prompts]))
    with tempfile.TemporaryDirectory() as folder:
        runs = count()

        def run(once: bool) -> None:
            engine.reads_shared_once = once
            score(engine, task, Path(folder) / str(next(runs)))

        seconds = alternate({"once": partial(run, True), "each time": partial(run, False)}, values.repeats)
    tokens, shared = (sum(counts) / len(prompts) for counts in counted)
    kinds = len({prompt.shared for prompt in prompts})
    print(f"{engine.name}: {len(prompts)} prompts of {tokens:.0f} tokens, {shared:.0f} of them examples ({kinds} sets)")
    for name, taken in seconds.items():
        print(f"{name:>9}: {taken:7.2f} s, {taken / len(prompts):.3f} s a question")
    print(f"{seconds['each time'] / seconds['once']:.2f} times as quick")
    report(
        {
            "model": engine.name,
            "questions": len(prompts),
            "tokens": round(tokens),
            "shared": round(shared),
            "seconds": {name: round(taken, 3) for name, taken in seconds.items()},
        }
    )


if __name__ == "__main__":
    main()
