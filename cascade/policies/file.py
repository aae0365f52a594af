"""Policies as JSON: what a simulation chose, read back to be run.

The simulator's report.json holds the policy that it recommends; `read_policy` gives the very object that was
simulated, thresholds unrounded and calibrations included. Each kind of policy writes and reads its own values; which
kinds there are says `cascade.policies.registry`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy, Policy
from cascade.policies.promise import Watched
from cascade.policies.registry import POLICIES


def policy_json(policy: Policy, names: Sequence[str], normalize: bool) -> dict[str, object]:
    """All that it takes to run a policy elsewhere: models, thresholds unrounded, calibrations.

    Args:
        policy: Any.
        names: The models of the chain.
        normalize: Whether its P(T) is that over the options' mass.
    """
    return {"policy": policy.name, "normalize": normalize} | policy.to_json(names)


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
        kind = next((kind for kind in reversed(POLICIES) if kind.key in values), POLICIES[0])
        return kind.from_json(values, places, names, source)
    except CascadeError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CascadeError(
            f"Expected {source} to be one that can be run, as cascade.simulate writes it, but got {error!r}"
        ) from error


def read_policy(path: Path, names: Sequence[str], signal: str = "p_t") -> tuple[LivePolicy, bool | None]:
    """The policy that a simulation chose, from its report.json, or one policy by itself in a JSON file.

    Args:
        path: The file.
        names: The models of the chain it is to run on.
        signal: The column that stands in P(T)'s place where it runs.

    Returns:
        The policy; and whether its P(T) is that over the options' mass, ``None`` where the file does not say.

    Raises:
        CascadeError: If there is no such file, or no policy in it.
    """
    values, _ = _read(path, signal)
    normalize = values.get("normalize")
    if not isinstance(normalize, bool | None):
        raise CascadeError(f"Expected `normalize` in {path} to be true or false, but got {normalize!r}")
    return policy_from_json(values, names, str(path)), normalize


def read_watched(path: Path) -> Watched:
    """What the policy in a file is watched by: its promise, and the distributions of its signals.

    They stand under ``watched``, in report.json beside the chosen policy. Files of before have none.

    Raises:
        CascadeError: If there is no policy in the file, or what is to be watched is not what it has to be.
    """
    _, watched = _read(path)
    return Watched.from_json(watched, str(path))


def _read(path: Path, signal: str = "p_t") -> tuple[dict[str, Any], object]:
    """A policy's values, and what it is watched by, ``None`` where the file does not say."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CascadeError(f"Expected a policy (report.json of cascade.simulate) at {path}, but {error}") from error
    on = values.get("p_t", "p_t") if isinstance(values, dict) else "p_t"
    if on != signal:
        wanted = "P(T)" if signal == "p_t" else signal
        raise CascadeError(
            f"Expected a policy on {wanted} to run, but the thresholds in {path} are on {on}, which a live cascade "
            f"does not ask for there"
        )
    watched = values.get("watched") if isinstance(values, dict) else None
    if isinstance(values, dict) and "study" in values:
        try:
            chosen = values["study"]["chosen"]
            values, watched = chosen["to_run"], chosen.get("watched")
        except (KeyError, TypeError, AttributeError) as error:
            raise CascadeError(f"Expected a chosen policy in {path}, but there is none: {error!r}") from error
    if not isinstance(values, dict):
        raise CascadeError(f"Expected {path} to hold a JSON object, but got {type(values).__name__}")
    return values, watched


def read_probe_layers(path: Path) -> dict[str, int]:
    """The layer that each model's probe read in the simulation of a report.json; empty where the file does not say."""
    values = json.loads(path.read_text())
    layers = values.get("probe_layers", {}) if isinstance(values, dict) else {}
    if not isinstance(layers, dict) or not all(isinstance(layer, int) for layer in layers.values()):
        raise CascadeError(f"Expected `probe_layers` in {path} to be a layer for each model, but got {layers!r}")
    return layers
