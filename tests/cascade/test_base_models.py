"""What is said of models that guess."""

from __future__ import annotations

import json
import random
import re

import pytest

from cascade.report.probe_tables import layers_table
from cascade.simulate import main
from cascade.statistics.metrics import auroc_interval
from probes import ProbeConfig
from probes.layers import Interval, LayerRow


def test_the_interval_of_auroc_is_that_of_hanley_and_mcneil():
    """Their example (Radiology 143, 1982): an area of 0.893 of 51 and 58 cases has a standard error of 0.032."""
    low, high = auroc_interval(0.893, 51, 58, z=1.0)
    assert (high - low) / 2 == pytest.approx(0.032, abs=0.001)  # both are rounded there


def simulated(tmp_path, capsys, says, knows) -> str:
    draw = random.Random(0)
    with (tmp_path / "log.jsonl").open("w") as file:
        for size, model in enumerate(("little", "big")):
            for row in range(440):
                answer = "ABCD"[row % 4]
                said = says(model, row, answer, draw)
                values = {"question_id": str(row), "model": model, "answer": answer, "prediction": said}
                values |= {"correct": said == answer, "p_t": knows(said == answer, draw), "parameters": 10 + size}
                values |= {"option_mass": 0.25 + 0.5 * size}
                file.write(json.dumps(values) + "\n")
    main(["--scores", str(tmp_path / "log.jsonl"), f"--out={tmp_path / 'out'}"])
    return capsys.readouterr().out


def test_models_that_guess_are_called_so(tmp_path, capsys):
    out = simulated(
        tmp_path,
        capsys,
        lambda model, row, answer, draw: draw.choice("ABCD") if model == "big" else "B" if row == 3 else "A",
        lambda right, draw: draw.random(),
    )
    assert "chance 25.0%; says A " in out
    masses = re.findall(r"^(little|big): .*; option mass (.*)$", out, re.MULTILINE)
    assert masses == [("little", "0.25"), ("big", "0.75")]
    assert "Warning: little says A on " in out
    assert "Warning: P(T) of little is not shown to tell right from wrong: AUROC's 95 % interval [" in out
    assert "Warning: little and big are both at chance" in out


def test_models_that_know_something_are_not_warned_of(tmp_path, capsys):
    out = simulated(
        tmp_path,
        capsys,
        lambda model, row, answer, draw: answer if draw.random() < 0.7 else draw.choice("ABCD"),
        lambda right, draw: min(1.0, draw.random() * 0.6 + 0.4 * right),
    )
    assert "right of " in out
    assert "Warning: " not in out


@pytest.mark.parametrize(("low", "best"), [(0.44, False), (0.56, True)])
def test_the_best_layer_is_not_said_of_noise(low, best):
    figures = dict.fromkeys(("accuracy", "f1", "auroc", "ece", "ece_mass", "brier", "nll"), Interval(0.6, low, 0.7))
    rows = [LayerRow(n, 1e-3, 1e-2, 1, 0.6, figures, figures, {}) for n in (0, 1)]
    caption = layers_table(ProbeConfig(8, 0, "m", num_layers=1, task="t"), rows).caption
    assert ("is the best" in caption) == best
    assert ("No layer is shown to tell right from wrong" in caption) != best
