"""A live run's summary in a terminal: what became of the questions at each model, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cascade.report.table import Column, Table, count
from cascade.report.tables import print_table, wide_console


def stages_table(values: Mapping[str, Any], policy: str) -> Table:
    """What became of the questions at each model.

    Args:
        values: A run's summary, as its summary.json has it.
        policy: Name of the policy.
    """
    heads = ["tried", "answered", "right", "P(IK) too low", "P(T) too low", "failed"]
    return Table.of(
        "stages",
        f"{values['questions']:,} questions, {policy}",
        ["model", *(Column(head, count) for head in heads), Column("seconds", "{:.2f}".format)],
        [
            [
                stage["model"],
                stage["tried"],
                stage["answered"],
                stage["right"],
                stage["rejected_by_p_ik"] + stage["passed_by_reader"],
                stage["rejected_by_p_t"],
                stage["failed"],
                stage["seconds"],
            ]
            for stage in values["stages"]
        ],
    )


def print_run(values: Mapping[str, Any], policy: str, last: str, folder: object) -> None:
    """Prints a run's summary.

    Args:
        values: As for `stages_table`.
        policy: Name of the policy.
        last: Name of the chain's last model, whose cost alone the others are shares of.
        folder: Where everything was written.
    """
    console = wide_console()
    print_table(stages_table(values, policy), console)
    for stage in values["stages"]:
        if first := stage["first_failure"]:
            which = f"{stage['failed']:,}, such as {first['question_id']!r}"
            print(f"{stage['model']} failed on {which}: {first['reason']}")
    if values["accuracy"] is not None:
        console.print(f"accuracy {values['accuracy']:.2%}")
    alone = values["flops_of_last_model_alone"]
    for unit, ledgers in values["cost"].items():
        said = [f"{ledger} {cost:.4g}" for ledger, cost in ledgers.items()]
        if unit == "flops" and alone:
            said = [f"{ledger} {cost / alone:.1%}" for ledger, cost in ledgers.items()]
            console.print(f"cost, as a share of {last} alone (FLOPs, eq. 5): {', '.join(said)}")
        else:
            console.print(f"cost in {unit}: {', '.join(said)}")
    console.print(f"measured: {values['seconds']:.2f} s in the models, early exits as they were")
    console.print(f"Wrote {folder}")
