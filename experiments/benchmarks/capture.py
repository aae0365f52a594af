"""Capturing hidden states, against a bare forward pass and against `output_hidden_states=True`.

    python -m experiments.benchmarks.capture

A Llama of random weights on random tokens; its logits are kept at the last position only, as scoring does. Time
is taken side by side in one process. Memory is the peak of a process of its own for each way, over that of the
bare pass; the allocator is told to give memory back at once, so that the peak is what is in use. The last line is
JSON.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from jsonargparse import ArgumentParser

from experiments.benchmarks.side_by_side import alternate, report
from probes import HiddenStateCapture

GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc
WAYS = ("bare", "capture", "output_hidden_states")


def ways(layers: int, hidden: int, batch: int, time: int) -> dict[str, Callable[[], Any]]:
    """The three ways to run the same batch once; those that give states give the last token's, of every layer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=512, num_attention_heads=8, num_key_value_heads=4, **shape)).eval()
    ids = torch.randint(1, 512, (batch, time))
    inputs = {"input_ids": ids, "use_cache": False, "logits_to_keep": 1}
    last = torch.full((batch,), time - 1)

    @torch.inference_mode()
    def bare() -> Any:
        return model(**inputs).logits

    @torch.inference_mode()
    def capture() -> Any:
        with HiddenStateCapture(model) as captured:
            captured.arm(last)
            model(**inputs)
        return captured.states

    @torch.inference_mode()
    def output_hidden_states() -> Any:
        return [state[:, -1].clone() for state in model(**inputs, output_hidden_states=True).hidden_states]

    return dict(zip(WAYS, (bare, capture, output_hidden_states), strict=True))


def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.benchmarks.capture", description=__doc__)
    parser.add_argument("--layers", type=int, default=16, help="decoder blocks")
    parser.add_argument("--hidden", type=int, default=512, help="width of the states")
    parser.add_argument("--batch", type=int, default=16, help="prompts in a pass")
    parser.add_argument("--time", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--repeats", type=int, default=7, help="rounds; the median counts")
    parser.add_argument("--peak", choices=WAYS, help="only print the peak memory of one way, in KiB")
    values = parser.parse_args(args)
    shape = [values.layers, values.hidden, values.batch, values.time]
    if values.peak:
        run = ways(*shape)[values.peak]
        run()
        run()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    flags = [f"--{name}={number}" for name, number in zip(("layers", "hidden", "batch", "time"), shape, strict=True)]
    peaks = {}
    for way in WAYS:
        command = [sys.executable, "-m", "experiments.benchmarks.capture", f"--peak={way}", *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | GIVE_BACK)
        peaks[way] = int(done.stdout) / 1024
    seconds = alternate(ways(*shape), values.repeats)
    extra = {way: peaks[way] - peaks["bare"] for way in WAYS}
    print(f"Llama of {values.layers} layers × {values.hidden}, {values.batch} prompts of {values.time} tokens")
    for way in WAYS:
        over = seconds[way] / seconds["bare"] - 1
        print(f"{way:22} {seconds[way]:6.3f} s ({over:+6.1%})  peak {peaks[way]:7.1f} MiB ({extra[way]:+6.1f})")
    report(
        {
            **dict(zip(("layers", "hidden", "batch", "time"), shape, strict=True)),
            "seconds": {way: round(seconds[way], 4) for way in WAYS},
            "time_over_bare": {way: round(seconds[way] / seconds["bare"] - 1, 4) for way in WAYS},
            "extra_mib": {way: round(extra[way], 1) for way in WAYS},
        }
    )


if __name__ == "__main__":
    main()
