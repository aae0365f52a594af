from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cascade.scoring import score
from experiments.transfer import main
from probes import Probe, stratified_split

MODELS = ["mini-llama-small", "mini-llama-medium", "mini-qwen3-small"]


def test_transfer_tests_every_probe_on_every_other_of_its_width(tmp_path):
    flags = [f"--models={','.join(MODELS)}", "--tasks=mini-gpqa", "--epochs=2", f"--runs={tmp_path}"]
    matrices = main(flags)
    written = json.loads((tmp_path / "transfer" / "transfer.json").read_text())
    order = [name.split(" · ")[0] for name in written["sources"]]
    assert (tmp_path / "transfer" / "transfer.png").stat().st_size > 10_000
    for row, source in enumerate(order):
        for column, target in enumerate(order):
            found = matrices["AUROC"][row, column]
            if ("medium" in source) != ("medium" in target):
                assert np.isnan(found)
                continue
            probe = Probe.from_pretrained(
                tmp_path / "probes" / f"{source}--mini-gpqa--layer-{2 + ('medium' in source)}/probe"
            )
            scored = score(target, "mini-gpqa", tmp_path / "stores")
            table = scored.table()
            split = stratified_split(table["question_id"].to_pylist(), table["subject"].to_pylist())
            p_ik = probe.predict(scored.store.layer(probe.config.layer)[list(split.test)])
            assert found == pytest.approx(roc_auc_score(table["correct"].to_numpy()[list(split.test)], p_ik))
