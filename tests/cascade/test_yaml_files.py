"""`configs/…` from any folder: what lies there counts, else what comes with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascade import run
from cascade.judging.llm import JudgeConfig
from cascade.policies.ledgers import read_prices
from cascade.runtime.config import CascadeConfig
from cascade.yaml_files import find_yaml, found_flags

ROOT = Path(__file__).parents[2]
CASCADE, PRICES, JUDGE = "configs/cascades/mini-qwen3.yaml", "configs/prices/table-12.yaml", "configs/judges/local.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_the_package_ships_is_found_from_any_folder():
    assert find_yaml(CASCADE) == ROOT / CASCADE
    assert CascadeConfig.read(CASCADE) == CascadeConfig.read(ROOT / CASCADE)
    assert JudgeConfig.read(JUDGE) == JudgeConfig.read(ROOT / JUDGE)
    assert read_prices(Path(PRICES)) == read_prices(ROOT / PRICES)
    named = [member.name for member in CascadeConfig.read(CASCADE).members]
    parser = run.build_parser()
    values = parser.instantiate(parser.parse_args(found_flags(["--config", CASCADE]))).as_dict()
    assert [member.name for member in CascadeConfig(models=values["models"]).members] == named


def test_a_file_of_ones_own_counts_more(elsewhere):
    own = elsewhere / PRICES
    own.parent.mkdir(parents=True)
    own.write_text("source: me\ndate: today\nmodels: {a: {input: 1, output: 2}}\n")
    assert find_yaml(PRICES) == Path(PRICES)
    assert read_prices(Path(PRICES)).models == {"a": (1.0, 2.0)}


def test_words_that_name_no_shipped_file_stay_as_they_are():
    words = ["--out", "configs/mine.yaml", "--p_t=0.9", "configs", "--text=a configs/x", "configs/../pyproject.toml"]
    assert found_flags(words)[:5] == words[:5]
    assert found_flags([f"--prices={PRICES}", "--cascade", CASCADE]) == [
        f"--prices={ROOT / PRICES}",
        "--cascade",
        str(ROOT / CASCADE),
    ]
