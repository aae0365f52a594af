"""What live answers cost, step by step, in the simulator's ledgers.

The ledgers are `cascade.policies.ledgers`'. Here they count the tokens that were really read and written. A model that
rejected a question early never wrote its answer: full-path charges the part of its pass that is known. An engine that
does not stop half way is charged whole passes. Seconds were measured with early exits as they happened, so the ledgers
do not apply to them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade.engines.base import Engine
from cascade.policies.ledgers import LEDGERS, available_units, charges, pass_costs, pass_flops
from cascade.runtime.engine import Answer, Cascade, Step
from cascade.scores.columns import ModelInfo, Passes, Usage, exit_share_of

Costs = dict[str, dict[str, np.ndarray]]
"""Unit to ledger to ``[steps]`` or ``[answers]``, float64."""


def units(cascade: Cascade) -> tuple[str, ...]:
    """The units that every model of a cascade can be counted in; seconds are measured and not among them."""
    passes = Passes(tuple(map(_info, cascade.models)), (_usage([]),) * len(cascade.models))
    return tuple(unit for unit in available_units(passes, cascade.prices) if unit not in ("seconds", "calls"))


def step_costs(cascade: Cascade, steps: Sequence[Step], asks_p_ik: Sequence[bool]) -> Costs:
    """What each step cost.

    Args:
        cascade: Whose steps they are.
        steps: Any.
        asks_p_ik: For each, whether its question's policy asked the model's probe.
    """
    found = {unit: {ledger: np.zeros(len(steps)) for ledger in LEDGERS} for unit in units(cascade)}
    for place, model in enumerate(cascade.models):
        rows = [i for i, step in enumerate(steps) if step.place == place and step.reply is not None]
        if not rows:
            continue
        late = np.array([steps[i].p_t_needs_answer for i in rows])
        outcomes = np.array([steps[i].outcome for i in rows])
        asked = np.array([asks_p_ik[i] for i in rows])
        for unit, ledgers in found.items():
            for needs, asks in set(zip(late.tolist(), asked.tolist(), strict=True)):
                passes = Passes((_info(model, needs),), (_usage([steps[i] for i in rows]),))
                costs = pass_costs(passes, unit, cascade.prices)
                here = (late == needs) & (asked == asks)
                for ledger, values in ledgers.items():
                    charged = charges(costs, ledger, [{"p_ik"} if asks else ()])[:, 0]
                    values[np.array(rows)[here]] = charged[outcomes, np.arange(len(rows))][here]
    return found


def answer_costs(cascade: Cascade, answers: Sequence[Answer]) -> Costs:
    """What each answer cost in all, readers included.

    A reader is charged once for each question that it read, where its cost is known in the unit (FLOPs).
    """
    steps = [step for answer in answers for step in answer.steps]
    asks = [cascade.asks(answer.policy, step.place) for answer in answers for step in answer.steps]
    whose = np.repeat(np.arange(len(answers)), [len(answer.steps) for answer in answers])
    totals: Costs = {}
    for unit, ledgers in step_costs(cascade, steps, asks).items():
        totals[unit] = {
            ledger: np.bincount(whose, weights=values, minlength=len(answers)) + reading(cascade, answers, unit)
            for ledger, values in ledgers.items()
        }
    return totals


def reading(cascade: Cascade, answers: Sequence[Answer], unit: str) -> np.ndarray:
    """What readers cost for each answer, ``[answers]``: a pass in FLOPs or tokens, and no dollars.

    As in the simulator, tokens are those of the model that the reader reads for. Where the reader passed the question
    on, so that its model never ran, they are those of the next model that did.
    """
    found = np.zeros(len(answers))
    if unit not in ("flops", "flops-context", "tokens"):
        return found
    for i, answer in enumerate(answers):
        asked = {cascade.readers[step.place].name: step for step in answer.steps if step.p_ik_reader is not None}
        for step in asked.values():
            from_it_on = answer.steps[answer.steps.index(step) :]
            read = next((later.reply.prompt_tokens for later in from_it_on if later.reply is not None), 0)
            one = pass_flops(cascade.readers[step.place].parameters)
            found[i] += {"flops": one, "flops-context": one * read, "tokens": read}[unit]
    return found


def last_model_alone(cascade: Cascade) -> float | None:
    """FLOPs of the last model's pass for one question (eq. 5), ``None`` where its size is not known."""
    parameters = cascade.models[-1].parameters
    return None if parameters is None else pass_flops(parameters)


def measured_seconds(answer: Answer) -> float:
    """The time of every model that was tried, seconds."""
    return sum(step.reply.seconds for step in answer.steps if step.reply is not None)


def _info(model: Engine, p_t_needs_answer: bool = False) -> ModelInfo:
    return ModelInfo(
        model.name,
        model.parameters,
        model.num_layers,
        model.hidden_size,
        exit_share_of(model.probe_layer, model.num_layers) if model.exits_early else 1.0,
        model.probe_parameters,
        p_t_needs_answer=p_t_needs_answer,
    )


def _usage(steps: Sequence[Step]) -> Usage:
    replies = [step.reply for step in steps if step.reply is not None]
    return Usage(
        len(replies),
        prompt_tokens=np.array([reply.prompt_tokens for reply in replies], dtype=np.int64),
        completion_tokens=np.array([reply.completion_tokens for reply in replies], dtype=np.int64),
    )
