"""The model card of a probe: the README of its checkpoint folder.

Names in it may be anybody's. They are shown as they are and never taken for markup.
"""

from __future__ import annotations

import json
import re

from probes.config import ProbeConfig

PICTURE = "reliability.png"


def model_card(config: ProbeConfig, hub_id: str | None = None, picture: bool = False) -> str:
    """The README of a checkpoint: what it reads, what it says, how good it was, how to use it.

    Args:
        config: The probe's.
        hub_id: Where the code sample loads it from; by default the folder that the card lies in.
        picture: Whether a reliability diagram lies beside it.
    """
    rows = "\n".join(f"| {_plain(name)} | {value:.4f} |" for name, value in config.metrics.items())
    table = f"\n| test metric | value |\n|---|---|\n{rows}\n" if rows else ""
    diagram = (
        f"\n![Reliability on the test part: P(IK) against the share of right answers]({PICTURE})\n" if picture else ""
    )
    names = ("base_revision", "task", "task_revision", "split_fingerprint", "template_hash")
    known = {name: _code(text) if (text := getattr(config, name)) else "unknown" for name in names}
    depth = f" of {config.num_layers}" if config.num_layers else ""
    # Metadata of the Hub knows only models that are on it.
    base = f"base_model: {config.base_model}\n" if re.fullmatch(r"[\w.-]+/[\w.-]+", config.base_model) else ""
    return f"""---
tags: [p-ik, probe, calibration, uncertainty]
{base}---

# P(IK) probe for {_plain(config.base_model)}, layer {config.layer}

Reads the hidden state of {_code(config.base_model)} (revision {known["base_revision"]}) after decoder block
{config.layer}{depth} at the {_plain(config.position.replace("_", " "))}, and gives P(IK): the probability
that {_plain(config.label)}. Trained on {known["task"]} (revision {known["task_revision"]}, split
{known["split_fingerprint"]}, prompt {known["template_hash"]}); calibration: {config.calibration}; threshold
{config.threshold}{f" ({_plain(config.told_apart)})" if config.trained_with else ""}.
{table}{diagram}
```python
import torch

from probes import Probe

probe = Probe.from_pretrained({json.dumps(hub_id or ".")})
states = torch.randn(3, {config.hidden_size})  # stand for raw outputs of decoder block {config.layer}
p_ik = probe.predict(states)  # [...]
```
"""


def _one_line(text: str) -> str:
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _code(text: str) -> str:
    """A text between backticks, where nothing but another backtick is markup."""
    return f"`{_one_line(text).replace('`', chr(39))}`"


def _plain(text: str) -> str:
    """A text of which nothing is Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>|~])", r"\\\1", _one_line(text))
