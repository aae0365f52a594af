"""Prompts a second of vLLM and of transformers, with every layer's state, on this machine.

    python -m experiments.benchmarks.engines --model FOLDER --task FILE.jsonl

Needs vLLM (`make test-vllm` makes an environment that has it on a CPU). Both engines are asked the same questions by
turns in one run: answers, P(T) and states. vLLM's prefix cache is off, since every round asks the same. The last line
is JSON.
"""

from __future__ import annotations

from functools import partial

from jsonargparse import ArgumentParser

from cascade.engines.base import prompt_of
from cascade.engines.passes import of_like_length
from cascade.engines.settings import DecoderConfig
from cascade.engines.states import StatesEngine
from cascade.engines.vllm import VllmConfig
from cascade.errors import one_line_errors
from cascade.tasks.load import load_task
from experiments.benchmarks.side_by_side import alternate, report


@one_line_errors()
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.benchmarks.engines", description=__doc__, exit_on_error=False)
    parser.add_argument("--model", default="mini-llama-large", help="a decoder")
    parser.add_argument("--task", default="mini-mmlu", help="a task or a file of questions")
    parser.add_argument("--questions", type=int, default=256, help="how many of them")
    parser.add_argument("--dtype", default="float32", help="of both")
    parser.add_argument("--batch", type=int, default=128, help="prompts in a call; transformers may take fewer a pass")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the median counts")
    values = parser.parse_args(args)
    engines: dict[str, StatesEngine] = {
        "transformers": DecoderConfig(values.model, dtype=values.dtype).build(),
        "vllm": VllmConfig(values.model, dtype=values.dtype, enable_prefix_caching=False).build(),
    }
    prompts = [prompt_of(question) for question in load_task(values.task).questions[: values.questions]]

    def run(engine: StatesEngine, layers: tuple[int, ...]) -> None:
        lengths = engine.lengths(prompts)
        for batch in of_like_length(range(len(prompts)), lengths, values.batch, engine.pass_tokens):
            engine.read([prompts[place] for place in batch], layers)

    rivals = {name: partial(run, engine, engine.layers("all")) for name, engine in engines.items()}
    rivals["vllm, no states"] = partial(run, engines["vllm"], ())
    seconds = alternate(rivals, values.repeats)
    engines["vllm"].release()
    speeds = {name: len(prompts) / taken for name, taken in seconds.items()}
    for name, speed in speeds.items():
        print(f"{name:>16}: {speed:8.2f} prompts a second, {speed / speeds['transformers']:.2f} times transformers")
    report({"model": values.model, "questions": len(prompts), "speeds": {n: round(s, 3) for n, s in speeds.items()}})


if __name__ == "__main__":
    main()
