"""Which prompts share a forward pass."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

# Beyond 32 MiB glibc gives each activation back to the system and asks for it again, a page fault for every 4 KiB;
# half of that leaves room for what lies beside the widest one.
_CPU_BYTES = 16 * 2**20


def cpu_tokens(hidden_size: int) -> int:
    """Tokens, padding included, that a CPU is quick with in one forward pass.

    The widest activation of a block, ``tokens × 4 · hidden`` in float32, stays within 16 MiB. More tokens than that
    only wait for memory; `experiments.benchmarks.scoring` measures it.

    Args:
        hidden_size: Width of the states.
    """
    return max(1, _CPU_BYTES // (4 * hidden_size * 4))


def of_like_length(
    places: Iterable[int],
    lengths: Sequence[int],
    size: int,
    tokens: int | None = None,
    apart: Sequence[Hashable] | None = None,
) -> Iterator[list[int]]:
    """Places in batches of like length, the longest first so that memory runs out at once or never.

    A batch hangs on nothing but the arguments: whoever goes on with a run makes the same ones.

    Args:
        places: Of the prompts, none twice.
        lengths: Of every prompt, in tokens or what stands for them.
        size: The most prompts in a batch.
        tokens: The most in a batch, padding included; but one prompt is a batch however long it is.
        apart: Of every prompt, what those of a batch have in common.
    """
    groups: dict[Hashable, list[int]] = {}
    for place in sorted(places, key=lambda place: (-lengths[place], place)):
        groups.setdefault(None if apart is None else apart[place], []).append(place)
    for ordered in groups.values():
        start = 0
        while start < len(ordered):
            longest = max(1, lengths[ordered[start]])
            count = size if tokens is None else max(1, min(size, tokens // longest))
            yield ordered[start : start + count]
            start += count
