"""Timing rivals in one process, in turn, so that a slow minute of the machine hits all of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
from tqdm import tqdm


def alternate(rivals: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each rival over ``repeats`` rounds, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    with tqdm(total=(repeats + 1) * len(rivals), unit="run", disable=None, leave=False) as bar:
        for turn in range(repeats + 1):
            for name, run in rivals.items():
                bar.set_description(name)
                start = time.perf_counter()
                run()
                if turn:
                    times[name].append(time.perf_counter() - start)
                bar.update()
    return {name: median(seconds) for name, seconds in times.items()}


def report(figures: Mapping[str, object]) -> None:
    """Prints the figures as one line of JSON, with what the machine was doing."""
    load = os.getloadavg()[0]
    print(json.dumps({**figures, "threads": torch.get_num_threads(), "load": round(load, 2)}))
