"""A head in one file: the direction between two means, calibrated, as a P(IK) probe.

"Mass-mean" probing (Marks and Tegmark, 2024): the logit is the state's place along the line from the mean state of what
the model does not know to the mean state of what it knows.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from probes import HiddenStateStore, Probe, build_calibrator, probe_from_tensors


def mass_mean_probe(store: HiddenStateStore, layer: int, knows: Tensor, train: Tensor, validation: Tensor) -> Probe:
    """A calibrated probe for the model whose states a store holds.

    Args:
        store: The hidden states of every question.
        layer: Which of them are read.
        knows: ``[questions]``, bool: whether the model's answer is right.
        train: Rows that the direction is made of.
        validation: Rows that the calibration is fitted on.
    """
    states = store.layer(layer).float()
    knowing, other = (states[train][knows[train] == label].mean(0) for label in (True, False))
    direction = knowing - other
    probe = probe_from_tensors(
        {"weight": direction[None], "bias": -(direction @ (knowing + other) / 2)[None]},
        layer=layer,
        base_model=store.key.model,
        base_revision=store.key.model_revision,
        dtype=store.key.precision,
        template_hash=store.key.template_hash,
        task=store.key.task,
        task_revision=store.key.task_revision,
    )
    probe.config = replace(probe.config, calibration="platt")
    with torch.no_grad():
        logits = probe.raw_logits(states[validation])
    probe.calibrator = build_calibrator("platt").fit(logits, knows[validation])
    return probe
