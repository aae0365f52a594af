"""`cascade.studies.simulate` from Python: data frames of any library in, something that a notebook shows out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest

from cascade.errors import CascadeError
from cascade.simulate import main
from cascade.studies import Simulation, simulate


def columns() -> dict[str, list]:
    draw = np.random.default_rng(0)
    found: dict[str, list] = {name: [] for name in ("question_id", "model", "correct", "p_t", "parameters", "cost_usd")}
    for number in range(300):
        hard = draw.random()
        for model, skill, parameters in (("small", 0.5, 10), ("large", 0.8, 100)):
            p_t = float(np.clip(skill + 0.5 - hard + draw.normal(0, 0.1), 0, 1))
            row = (f"q{number}", model, bool(draw.random() < p_t), p_t, parameters, parameters / 1e5)
            for name, value in zip(found, row, strict=True):
                found[name].append(value)
    return found


def relation():
    held = pa.table(columns())  # noqa: F841 - DuckDB finds it by its name
    return duckdb.sql("select * from held")


FRAMES = {
    "pandas": lambda: pandas.DataFrame(columns()),
    "pandas, categories": lambda: pandas.DataFrame(columns()).astype({"model": "category", "question_id": "category"}),
    "polars": lambda: polars.DataFrame(columns()),
    "pyarrow": lambda: pa.table(columns()),
    "duckdb": relation,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict:
    """What the command says of the same scores in a file."""
    folder = tmp_path_factory.mktemp("file")
    pandas.DataFrame(columns()).to_csv(folder / "scores.csv", index=False)
    main(["--scores", str(folder / "scores.csv"), "--chain", "small,large", "--out", str(folder / "out")])
    return json.loads((folder / "out" / "report.json").read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Simulation:
    return simulate(pandas.DataFrame(columns()), cascade="small,large", out=tmp_path_factory.mktemp("found"))


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_says_what_the_same_table_in_a_file_says(tmp_path, expected, kind):
    made = simulate(FRAMES[kind](), cascade="small,large", out=tmp_path)
    assert json.loads((made.folder / "report.json").read_text()) == expected


def test_a_path_or_several_are_taken_too(tmp_path, expected):
    frame = pandas.DataFrame(columns())
    files = [str(tmp_path / f"{name}.csv") for name in ("small", "large")]
    for file in files:
        frame[frame["model"] == Path(file).stem].to_csv(file, index=False)
    made = simulate(files, cascade="small,large", out=tmp_path / "out")
    assert json.loads((made.folder / "report.json").read_text()) == expected


def test_a_wide_frame_has_a_column_for_each_model(tmp_path):
    long = pandas.DataFrame(columns())
    wide = long.pivot(index="question_id", columns="model", values=["correct", "p_t"])
    wide.columns = [f"{field}_{model}" for field, model in wide.columns]
    made = simulate(wide.reset_index(), cascade="small,large", out=tmp_path)
    accuracy = {row.models[0]: row.accuracy for row in made.report.singles}
    assert accuracy == pytest.approx(long.groupby("model")["correct"].mean().to_dict())


def test_the_result_as_a_frame_holds_accuracy_and_cost_by_hand(found):
    frame = found.to_frame().set_index("chain")
    long = pandas.DataFrame(columns())
    for model, right in long.groupby("model")["correct"].mean().items():
        assert frame.loc[model, "accuracy"] == pytest.approx(right)
    # P(T) ≥ 0.9 keeps a question. The small model costs a tenth of the large one.
    small = long[long["model"] == "small"]
    passed = float((small["p_t"] < 0.9).mean())
    chain = frame.loc["small → large"]
    assert chain["saved dollars, full-path"] == pytest.approx(1 - (0.1 + passed))
    assert chain["saved dollars, answered-only"] == pytest.approx(1 - (0.1 * (1 - passed) + passed))


def test_a_notebook_shows_the_recommendation_and_tables(found):
    shown = found._repr_html_()
    assert "small → large" in shown and "<table" in shown and "answered-only" in shown
    assert "<script" not in shown


def test_names_that_are_html_are_shown_as_text(tmp_path):
    table = columns()
    table["model"] = [f"<b>{name}" for name in table["model"]]
    shown = simulate(pa.table(table), cascade="<b>small,<b>large", out=tmp_path)._repr_html_()
    assert "<b>small" not in shown and "&lt;b&gt;small" in shown


def test_the_figures_are_matplotlibs(found, tmp_path):
    figures = found.figures
    assert "frontier" in figures
    figures["frontier"].savefig(tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 5000


def test_what_is_no_frame_is_named(tmp_path):
    with pytest.raises(CascadeError, match="data frame"):
        simulate(3, cascade="small,large", out=tmp_path)
    with pytest.raises(CascadeError, match="the DataFrame to have columns .*, but correct missing"):
        simulate(pandas.DataFrame(columns()).drop(columns="correct"), cascade="small,large", out=tmp_path)


def test_simulating_a_frame_loads_no_torch(tmp_path):
    script = f"""
import sys
import pyarrow as pa
from tests.cascade.test_in_python import columns
from cascade.studies import simulate
simulate(pa.table(columns()), cascade="small,large", out={str(tmp_path)!r})
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
