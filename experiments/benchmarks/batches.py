"""How many prompts one forward pass of a scoring run should take, on this machine.

    python -m experiments.benchmarks.batches --model FOLDER --task FILE.jsonl

Batches of some sizes, and those that scoring makes by itself (`own`), take the same questions by turns in one process:
answers, P(T) and every layer's state, as a scoring run does. The last line is JSON.
"""

from __future__ import annotations

from functools import partial

from jsonargparse import ArgumentParser

from cascade.engines.base import prompt_of
from cascade.engines.passes import of_like_length
from cascade.engines.settings import DecoderConfig
from cascade.tasks.load import load_task
from experiments.benchmarks.side_by_side import alternate, report


def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.benchmarks.batches", description=__doc__)
    parser.add_argument("--model", default="mini-llama-large", help="a decoder")
    parser.add_argument("--task", default="mini-mmlu", help="a task or a file of questions")
    parser.add_argument("--questions", type=int, default=96, help="how many of them")
    parser.add_argument("--sizes", type=list[int], default=[1, 4, 8, 16, 32, 96], help="prompts in a pass")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the median counts")
    values = parser.parse_args(args)
    engine, task = DecoderConfig(values.model).build(), load_task(values.task)
    prompts = [prompt_of(question, task) for question in task.questions[: values.questions]]
    lengths, layers = engine.lengths(prompts), engine.layers("all")

    def run(size: int, tokens: int | None) -> None:
        for batch in of_like_length(range(len(prompts)), lengths, size, tokens):
            engine.read([prompts[place] for place in batch], layers)

    rivals = {f"{size:,}": partial(run, size, None) for size in values.sizes} | {
        "own": partial(run, 128, engine.pass_tokens)
    }
    seconds = alternate(rivals, values.repeats)
    mean = sum(lengths) / len(lengths)
    print(f"{engine.name}: {len(prompts)} prompts of {mean:.0f} tokens, states {engine.hidden_size} wide")
    for name, taken in seconds.items():
        print(f"{name:>6} prompts a pass: {taken:7.2f} s, {taken / len(prompts):.3f} s a question")
    report(
        {
            "model": engine.name,
            "questions": len(prompts),
            "tokens": round(mean),
            "seconds": {name: round(taken, 3) for name, taken in seconds.items()},
        }
    )


if __name__ == "__main__":
    main()
