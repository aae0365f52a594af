"""Reading one layer of a hidden-state store, against `numpy.fromfile` of the same bytes in one file.

    python -m experiments.benchmarks.store

All files are in the page cache. "checked" is the first reading of a layer, which holds it against its checksums;
"again" is every later one. The last line is JSON.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser

from experiments.benchmarks.side_by_side import alternate, report
from probes import HiddenStateStore, StoreKey, StoreWriter


def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.benchmarks.store", description=__doc__)
    parser.add_argument("--rows", type=int, default=14_042, help="questions (MMLU's test set has 14,042)")
    parser.add_argument("--hidden", type=int, default=2048, help="width of the states")
    parser.add_argument("--layers", type=int, default=4, help="layers in the store; one is read")
    parser.add_argument("--repeats", type=int, default=15, help="rounds; the median counts")
    values = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as folder:
        key = StoreKey("model", "", "", "", "task", "", "float32", tuple(range(values.layers)), "last_prompt_token", {})
        writer = StoreWriter(folder, key, values.rows, values.hidden)
        for number, rows in enumerate(writer.shards):
            writer.write(number, {layer: torch.randn(len(rows), values.hidden) for layer in key.layers})
        store = writer.finish()
        plain = Path(folder) / "plain.bin"
        store.layer(1).numpy().tofile(plain)
        seconds = alternate(
            {
                "fromfile": lambda: np.fromfile(plain, np.float32).reshape(values.rows, values.hidden),
                "again": lambda: store.layer(1),
                "checked": lambda: HiddenStateStore(store.folder).layer(1),
            },
            values.repeats,
        )
        size = plain.stat().st_size
    print(
        f"one layer of {values.rows:,} × {values.hidden} float32, {size / 2**20:.0f} MiB, {len(writer.shards)} shards"
    )
    for name, median in seconds.items():
        speed = size / median / 2**30
        print(f"{name:10} {1e3 * median:7.1f} ms  {speed:5.2f} GiB/s  {median / seconds['fromfile']:5.2f} × fromfile")
    report(
        {
            **{k: values[k] for k in ("rows", "hidden")},
            "milliseconds": {name: round(1e3 * median, 2) for name, median in seconds.items()},
            "ratio": {name: round(median / seconds["fromfile"], 3) for name, median in seconds.items()},
        }
    )


if __name__ == "__main__":
    main()
