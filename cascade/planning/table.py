"""A plan in a terminal: the models, the passes over questions, and what the disk has to hold."""

from __future__ import annotations

from cascade.planning.costs import CHARACTERS_A_TOKEN, GPU, PEAK_FLOPS, UTILISATION, Plan
from cascade.report.table import Column, Table
from cascade.report.tables import print_table, wide_console


def weights_table(plan: Plan) -> Table:
    """The models, and what their weights take."""
    return Table.of(
        "models",
        "models",
        ["model", *map(Column, ("parameters", "blocks × width", "precision", "weights in memory", "weights on disk"))],
        [
            [
                one.model,
                f"{one.parameters:,}",
                one.shape,
                one.precision,
                size(one.memory),
                size(one.disk) + (", there" if one.there else ", to fetch"),
            ]
            for one in plan.weights
        ],
    )


def work_table(plan: Plan) -> Table:
    """The passes over questions."""
    counts = ("questions", "there", "prompt tokens", "FLOPs (eq. 5)", "FLOPs (eq. 2)", "GPU hours")
    return Table.of(
        "passes",
        "passes",
        ["model", "task", *map(Column, (*counts, "states", "dollars"))],
        [
            [
                work.model,
                work.task,
                f"{work.questions:,}",
                f"{work.rows_there:,}",
                f"{'' if work.counted else '≈ '}{work.prompt_tokens:,}",
                *(None if flops is None else f"{flops:.3g}" for flops in (work.flops, work.flops_context)),
                hours(work.gpu_hours) if work.flops_context else None,
                size(work.store_bytes) if work.store_bytes else None,
                None if work.dollars is None else f"{work.dollars:.2f}",
            ]
            for work in plan.work
        ],
    )


def print_plan(plan: Plan) -> None:
    """Prints what a run would cost."""
    console = wide_console(170)
    if plan.weights:
        print_table(weights_table(plan), console)
    print_table(work_table(plan), console)
    results, fetched = plan.free()
    console.print(f"to write: {size(plan.to_write)} of hidden states to {plan.runs}, {_room(plan.to_write, results)}")
    if plan.to_fetch:
        console.print(f"to fetch: {size(plan.to_fetch)} of weights, {_room(plan.to_fetch, fetched)}")
    used = {weights.precision.split(",")[0] for weights in plan.weights}
    peaks = " and ".join(f"{peak / 1e12:g} TFLOPS in {dtype}" for dtype, peak in PEAK_FLOPS.items() if dtype in used)
    if peaks:
        total = hours(sum(work.gpu_hours for work in plan.work))
        console.print(
            f"GPU hours, {total} for what is not there, are rough: eq. 2 on one {GPU} at {UTILISATION:.0%} of its peak "
            f"({peaks}). What the questions take in memory comes on top of the weights."
        )
    if not all(work.counted for work in plan.work):
        console.print(f"≈: the tokenizer is not at hand; {CHARACTERS_A_TOKEN} characters are taken for a token")
    for work in plan.work:
        if work.remark:
            console.print(f"{work.model} on {work.task}: {work.remark}")


def _room(needed: int, free: int) -> str:
    return f"where {size(free)} are free" if needed <= free else f"where only {size(free)} are free: it does not fit"


def hours(count: float) -> str:
    """Hours to two digits, and no more than that is known."""
    return f"{count:.2g}" if count == 0 or count >= 0.01 else "< 0.01"


def size(count: float) -> str:
    """Bytes as people read them: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
