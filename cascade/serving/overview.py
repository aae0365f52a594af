"""What a server is made of and has done so far, as JSON: /v1/cascade, which the page is drawn from."""

from __future__ import annotations

import random
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from cascade.miniature.families import MODEL_NAMES
from cascade.policies.ledgers import LEDGERS, UNITS
from cascade.runtime.costs import last_model_alone, units
from cascade.runtime.engine import Cascade
from cascade.serving.service import Service

SAMPLES = 20


def overview(service: Service, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Models, policy, costs, sample questions, and totals since the start."""
    cascade, metrics = service.cascade, service.metrics
    alone = last_model_alone(cascade)
    return {
        "name": cascade.name,
        "models": [
            {
                "name": model.name,
                "place": place,
                "parameters": model.parameters,
                "num_layers": model.num_layers,
                "probe_layer": model.probe_layer,
                "reader": cascade.readers[place].name if place in cascade.readers else None,
            }
            for place, model in enumerate(cascade.models)
        ],
        "policy": _policy(cascade),
        "ledgers": list(LEDGERS),
        "units": {unit: UNITS[unit] for unit in units(cascade)},
        "prices": None
        if cascade.prices is None
        else {name: {"input": read, "output": write} for name, (read, write) in cascade.prices.models.items()},
        "budgets": cascade.calibration is not None,
        "last_model_alone": None if alone is None else {"flops": alone},
        "limits": {"queue": service.limits.queue, "body_bytes": service.limits.body},
        "samples": samples,
        "totals": {
            "since": service.created,
            "questions": sum(metrics.answered_by.values()),
            "answered_by": {name: metrics.answered_by[name] for name in cascade.names},
            "passed_through": dict(metrics.passed_through),
            "cost": metrics.costs,
            "last_model_alone": None if alone is None else {"flops": metrics.alone},
        },
    }


def _policy(cascade: Cascade) -> dict[str, Any]:
    """The cascade's own policy: the places it uses, and each one's thresholds (null for the last, and for none)."""
    policy = cascade.policy
    limits = [policy.limits(place) for place in policy.places]
    thresholds = [None if one is None else asdict(one) for one in limits]
    return {"name": policy.name, "places": list(policy.places), "thresholds": thresholds}


def samples(cascade: Cascade) -> list[dict[str, Any]]:
    """Questions that a chain of miniatures can be asked; none where another model is in it."""
    return _samples() if set(cascade.names) <= set(MODEL_NAMES) else []


@lru_cache(maxsize=1)
def _samples() -> list[dict[str, Any]]:
    """Questions that the miniatures' probes have not been trained on, always the same ones, with their answers."""
    from cascade.tasks.load import load_task

    mmlu, popqa = load_task("mini-mmlu"), load_task("mini-popqa")
    test = mmlu.take(mmlu.split().test).questions
    return [
        {
            "task": task.name,
            "id": question.id,
            "text": question.text,
            "subject": question.subject,
            "choices": list(question.choices),
            "answers": list(question.answers),
        }
        for task, questions in ((mmlu, test), (popqa, popqa.questions))
        for question in random.Random(0).sample(questions, SAMPLES)
    ]
