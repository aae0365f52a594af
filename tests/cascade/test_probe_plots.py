from __future__ import annotations

import numpy as np

from cascade.report import probe_plots
from cascade.report.figures import Plot


def test_the_cells_of_a_transfer_matrix_read_as_their_values(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(probe_plots, "Plot", lambda *parts: drawn.append(Plot(*parts)) or drawn[-1])
    values = np.array([[1.0, 0.534], [-0.25, np.nan]])
    probe_plots.plot_transfer(tmp_path / "plot.png", ["a", "b"], {"AUROC": values})
    axis = drawn[0].figure.axes[0]
    read = {text.get_position(): float(text.get_text()) for text in axis.texts}
    assert read == {(0, 0): 1.0, (1, 0): 0.53, (0, 1): -0.25}
