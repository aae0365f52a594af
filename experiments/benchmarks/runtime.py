"""A live chain against its largest model alone, with and without early exit, beside what the ledgers predict.

    python -m experiments.benchmarks.runtime
    python -m experiments.benchmarks.runtime --models "[FOLDER,FOLDER]"

Two Llamas of random weights, large enough that arithmetic outweighs overhead, or two models that are given; random
prompts, and a random probe half way up the first one. Thresholds are quantiles, so that a wanted share of the questions
fails at P(IK), and of the others at P(T). *without exit* runs the same policy on whole passes. Timed in turn in one
process; the last line is JSON.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser

from cascade.engines.base import OPEN, Failure, Gate, Prompt, Reply, keep_all
from cascade.engines.huggingface import HuggingFaceModel
from cascade.engines.local import LocalModel
from cascade.engines.settings import DecoderConfig
from cascade.miniature.families import ASSETS
from cascade.policies.base import Thresholds
from cascade.policies.thresholds import ThresholdPolicy
from cascade.runtime.costs import answer_costs, last_model_alone
from cascade.runtime.engine import Cascade
from experiments.benchmarks.side_by_side import alternate, report
from probes import Probe, ProbeConfig
from probes.heads import HeadConfig


class WholePasses(LocalModel):
    """Decides as any other, and computes everything all the same."""

    def answer(
        self, prompts: Sequence[Prompt], gate: Gate = OPEN, on_token: Callable[[int, str], None] | None = None
    ) -> list[Reply | Failure]:
        """With a gate that lets everything through; the cascade decides afterwards."""
        return super().answer(prompts, Gate(None if gate.p_ik is None else keep_all), on_token)


def random_llama(folder: Path, layers: int, hidden: int, seed: int, batch: int) -> HuggingFaceModel:
    """A Llama of random weights with the miniature's tokenizer, saved and loaded like any other."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "mini-llama-small", trust_remote_code=False)
    shape = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers}
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_attention_heads=hidden // 64, max_position_embeddings=512, **shape
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return HuggingFaceModel(DecoderConfig(str(folder), batch_size=batch))


def random_probe(model: HuggingFaceModel, layer: int) -> Probe:
    """A linear head of random weights on one layer, which reads whatever it finds."""
    torch.manual_seed(0)
    config = ProbeConfig(model.hidden_size, layer, model.name, model.revision, model.depth, HeadConfig(depth=0))
    return Probe(config).eval()


def random_prompts(model: HuggingFaceModel, count: int, words: int) -> list[Prompt]:
    """Words of the tokenizer's by lot, asked as multiple choice."""
    rng = np.random.default_rng(0)
    known = [t for t in model.tokenizer.get_vocab() if t[1:].isalpha() and len(t) > 3]
    texts = ["".join(rng.choice(sorted(known), words)).replace("Ġ", " ") + "\nAnswer:" for _ in range(count)]
    return [Prompt(f"q{i}", text, tuple("ABCD")) for i, text in enumerate(texts)]


def chosen_thresholds(small: LocalModel, prompts: Sequence[Prompt], low_p_ik: float, low_p_t: float) -> Thresholds:
    """Thresholds that a share of the questions fails at P(IK), and a share of the others at P(T)."""
    replies = [reply for reply in small.answer(prompts) if isinstance(reply, Reply)]
    p_ik, p_t = np.array([reply.p_ik for reply in replies]), np.array([reply.p_t for reply in replies])
    first = float(np.quantile(p_ik, low_p_ik))
    return Thresholds(float(np.quantile(p_t[p_ik >= first], low_p_t)), first)


def measure(values: Any, folder: Path) -> dict[str, Any]:
    """Medians of the three ways, and what the ledgers say of the same decisions."""
    if values.models is None:
        decoder = random_llama(folder / "small", values.layers, values.hidden, 0, values.batch)
        big = random_llama(folder / "large", values.layers, 2 * values.hidden, 1, values.batch)
    else:
        first, last = values.models
        decoder = HuggingFaceModel(DecoderConfig(first, batch_size=values.batch))
        big = HuggingFaceModel(DecoderConfig(last, batch_size=values.batch))
    probe = random_probe(decoder, decoder.depth // 2)
    small, whole = (kind(decoder, probe) for kind in (LocalModel, WholePasses))
    large = LocalModel(big)
    prompts = random_prompts(decoder, values.questions, values.words)
    policy = ThresholdPolicy.whole([chosen_thresholds(small, prompts, values.low_p_ik, values.low_p_t)])
    with_exit, without_exit = Cascade([small, large], policy), Cascade([whole, large], policy)
    answers = with_exit.answer_many(prompts, progress=False)
    again = without_exit.answer_many(prompts, progress=False)
    if [answer.model for answer in answers] != [answer.model for answer in again]:
        raise AssertionError("Expected the same decisions with and without early exit, but they differ")
    seconds = alternate(
        {
            "large alone": lambda: large.answer(prompts),
            "without exit": lambda: without_exit.answer_many(prompts, progress=False),
            "with exit": lambda: with_exit.answer_many(prompts, progress=False),
        },
        values.repeats,
    )
    alone = last_model_alone(with_exit)
    assert alone is not None
    predicted = {
        ledger: float(costs.mean() / alone) for ledger, costs in answer_costs(with_exit, answers)["flops"].items()
    }
    share = {name: seconds[name] / seconds["large alone"] for name in ("without exit", "with exit")}
    by_p_ik = sum(step.outcome.name == "REJECTED_BY_P_IK" for answer in answers for step in answer.steps)
    by_p_t = sum(step.outcome.name == "REJECTED_BY_P_T" for answer in answers for step in answer.steps)
    return {
        "parameters": [small.parameters, large.parameters],
        "questions": len(prompts),
        "rejected_by_p_ik": by_p_ik,
        "rejected_by_p_t": by_p_t,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "measured": {name: round(value, 4) for name, value in share.items()},
        "predicted": {name: round(value, 4) for name, value in predicted.items()},
        "measured_saving": round(1 - share["with exit"], 4),
        "predicted_saving": round(1 - predicted["early-exit"], 4),
        "saving_measured_over_predicted": round((1 - share["with exit"]) / (1 - predicted["early-exit"]), 4),
    }


def main(args: list[str] | None = None) -> dict[str, Any]:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.benchmarks.runtime", description=__doc__)
    parser.add_argument("--layers", type=int, default=12, help="decoder blocks of both models")
    parser.add_argument("--hidden", type=int, default=576, help="width of the small one; the large one's is twice that")
    parser.add_argument("--models", type=list[str], help="two folders or Hub ids in brackets, instead of the Llamas")
    parser.add_argument("--questions", type=int, default=64, help="prompts")
    parser.add_argument("--words", type=int, default=48, help="length of a prompt")
    parser.add_argument("--batch", type=int, default=32, help="prompts in a pass")
    parser.add_argument("--low_p_ik", type=float, default=0.4, help="share that fails at P(IK)")
    parser.add_argument("--low_p_t", type=float, default=0.25, help="share of the others that fails at P(T)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the median counts")
    values = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(values, Path(folder))
    size = " and ".join(f"{n / 1e6:.0f} M" for n in found["parameters"])
    print(f"{size} parameters, {found['questions']} questions; {found['rejected_by_p_ik']} left at P(IK)")
    for name, ledger in (("without exit", "full-path"), ("with exit", "early-exit")):
        took, said = found["measured"][name], found["predicted"][ledger]
        print(
            f"{name:13} {found['seconds'][name]:7.2f} s = {took:.1%} of the large one alone; {ledger} says {said:.1%}"
        )
    print(f"answered-only, the paper's ledger, says {found['predicted']['answered-only']:.1%}")
    report(found)
    return found


if __name__ == "__main__":
    main()
