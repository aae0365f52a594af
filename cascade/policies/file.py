"""Policies as JSON: what a simulation chose, read back to be run.

The simulator's report.json holds the policy that it recommends; `read_policy` gives the very object that was
simulated, thresholds unrounded and calibrations included. Which policies there are is `cascade.policies.policy`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cascade.errors import CascadeError
from cascade.policies.calibration import Calibrated
from cascade.policies.policy import (
    ExpectedUtilityPolicy,
    FusedPolicy,
    LivePolicy,
    Policy,
    RandomPolicy,
    ThresholdPolicy,
    Thresholds,
)


def policy_json(policy: Policy, names: Sequence[str], normalize: bool) -> dict[str, object]:
    """All that it takes to run a policy elsewhere: models, thresholds unrounded, calibrations.

    Args:
        policy: Any.
        names: The models of the chain.
        normalize: Whether its P(T) is that over the options' mass.
    """
    found: dict[str, object] = {"policy": policy.name, "normalize": normalize}
    if isinstance(policy, ThresholdPolicy):
        found["thresholds"] = [asdict(t) for t in policy.thresholds]
    if isinstance(policy, FusedPolicy):
        found["thresholds"] = list(policy.thresholds)
        found["fused"] = {names[i]: policy.fused[names[i]].to_json() for i in policy.places[:-1]}
    if isinstance(policy, ThresholdPolicy | FusedPolicy):
        found["models"] = [names[place] for place in policy.places]
    if isinstance(policy, ExpectedUtilityPolicy):
        found |= {"models": list(names), "price": policy.price, "costs": list(policy.costs)}
        right = [{names[j]: fitted.to_json() for j, fitted in here.items()} for here in policy.right]
        found["right"] = dict(zip(names, right, strict=False))
    if isinstance(policy, RandomPolicy):
        found["shares"] = dict(zip(names, policy.shares, strict=True))
    return found


def policy_from_json(values: Mapping[str, Any], names: Sequence[str], source: str = "the policy") -> LivePolicy:
    """The inverse of `policy_json`, for policies that can be run.

    Args:
        values: As `policy_json` gives them.
        names: The models of the chain it is to run on; those that the policy does not use are left out.
        source: Names the values in errors.

    Raises:
        CascadeError: If they are no policy that can be run, or it uses a model that is not in the chain, or in
            another order.
    """
    try:
        used = [str(name) for name in values["models"]]
        if unknown := [name for name in used if name not in names]:
            raise CascadeError(f"Expected {source} to use models of {', '.join(names)}, but got {', '.join(unknown)}")
        places = tuple(names.index(name) for name in used)
        if list(places) != sorted(set(places)):
            raise CascadeError(f"Expected {source} to use models in the order {', '.join(names)}, but got {used}")
        if "right" in values:
            if used != list(names):
                raise CascadeError(f"Expected the chain to be {', '.join(used)} for {source}, but got {names}")
            right = tuple(
                {names.index(later): Calibrated.from_json(fitted) for later, fitted in values["right"][name].items()}
                for name in names[:-1]
            )
            price, costs = float(values["price"]), tuple(map(float, values["costs"]))
            if len(costs) != len(names) or not np.isfinite([price, *costs]).all():
                raise CascadeError(f"Expected a price and {len(names)} costs in {source}, but got {price}, {costs}")
            if any(set(here) != set(range(place, len(names))) for place, here in enumerate(right)):
                raise CascadeError(f"Expected {source} to hold every later model's calibration for each model")
            return ExpectedUtilityPolicy(price, costs, right)
        if len(values["thresholds"]) != len(places) - 1:
            raise CascadeError(f"Expected {len(places) - 1} thresholds in {source}, but got {values['thresholds']}")
        if "fused" in values:
            fused = {str(name): Calibrated.from_json(fitted) for name, fitted in values["fused"].items()}
            if missing := set(used[:-1]) - set(fused):
                raise CascadeError(f"Expected {source} to hold fused confidences of {sorted(missing)}, but got none")
            limits = [Thresholds(p_t=float(limit), p_ik=None).p_t for limit in values["thresholds"]]
            return FusedPolicy(places, tuple(limit for limit in limits if limit is not None), fused)
        return ThresholdPolicy(places, tuple(Thresholds(**limits) for limits in values["thresholds"]))
    except CascadeError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CascadeError(
            f"Expected {source} to be one that can be run, as cascade.simulate writes it, but got {error!r}"
        ) from error


def read_policy(path: Path, names: Sequence[str]) -> tuple[LivePolicy, bool | None]:
    """The policy that a simulation chose, from its report.json, or one policy by itself in a JSON file.

    Returns:
        The policy; and whether its P(T) is that over the options' mass, ``None`` where the file does not say.

    Raises:
        CascadeError: If there is no such file, or no policy in it.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CascadeError(f"Expected a policy (report.json of cascade.simulate) at {path}, but {error}") from error
    if isinstance(values, dict) and "p_t" in values:
        raise CascadeError(
            f"Expected a policy on P(T) to run, but the thresholds in {path} are on {values['p_t']}, which a live "
            f"cascade does not ask for"
        )
    if isinstance(values, dict) and "study" in values:
        try:
            values = values["study"]["chosen"]["to_run"]
        except (KeyError, TypeError) as error:
            raise CascadeError(f"Expected a chosen policy in {path}, but there is none: {error!r}") from error
    if not isinstance(values, dict):
        raise CascadeError(f"Expected {path} to hold a JSON object, but got {type(values).__name__}")
    normalize = values.get("normalize")
    if not isinstance(normalize, bool | None):
        raise CascadeError(f"Expected `normalize` in {path} to be true or false, but got {normalize!r}")
    return policy_from_json(values, names, str(path)), normalize
