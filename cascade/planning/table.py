"""A plan in a terminal: the models, the passes over questions, and what the disk has to hold."""

from __future__ import annotations

from rich.table import Table

from cascade.planning.costs import CHARACTERS_A_TOKEN, GPU, PEAK_FLOPS, UTILISATION, Plan
from cascade.report.tables import wide_console


def print_plan(plan: Plan) -> None:
    """Prints what a run would cost."""
    console = wide_console(170)
    if plan.weights:
        table = Table(title="models")
        for heading in ("model", "parameters", "blocks × width", "precision", "weights in memory", "weights on disk"):
            table.add_column(heading, justify="right" if heading != "model" else "left")
        for one in plan.weights:
            disk = size(one.disk) + (", there" if one.there else ", to fetch")
            table.add_row(one.model, f"{one.parameters:,}", one.shape, one.precision, size(one.memory), disk)
        console.print(table)
    table = Table(title="passes")
    headings = ("model", "task", "questions", "there", "prompt tokens", "FLOPs (eq. 5)", "FLOPs (eq. 2)", "GPU hours")
    for heading in (*headings, "states", "dollars"):
        table.add_column(heading, justify="left" if heading in ("model", "task") else "right")
    for work in plan.work:
        table.add_row(
            work.model,
            work.task,
            f"{work.questions:,}",
            f"{work.rows_there:,}",
            f"{'' if work.counted else '≈ '}{work.prompt_tokens:,}",
            *("–" if flops is None else f"{flops:.3g}" for flops in (work.flops, work.flops_context)),
            hours(work.gpu_hours) if work.flops_context else "–",
            size(work.store_bytes) if work.store_bytes else "–",
            "–" if work.dollars is None else f"{work.dollars:.2f}",
        )
    console.print(table)
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
