"""Tables at the widths that terminals have: nothing is cut, and the column that names a row is in every part."""

from __future__ import annotations

import json
import re

import pytest
from rich.console import Console

from cascade.report.table import Column, Table, percent
from cascade.report.tables import print_table
from cascade.simulate import main

NAMES = [f"meta-llama--Llama-3.1-{size}B-Instruct-with-a-long-name" for size in (8, 70, 405)]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_cell_is_cut_and_every_part_names_its_rows(width, capsys):
    heads = [Column(f"figure {n}", percent) for n in range(9)]
    rows = [[name, *(row / 7 + n / 100 for n in range(9))] for row, name in enumerate(NAMES)]
    table = Table.of("t", "Some figures", ["model", *heads, "words"], [[*row, "one two " * 20] for row in rows])
    print_table(table, Console(width=width))
    out = capsys.readouterr().out
    assert "…" not in out
    assert max(len(line) for line in out.splitlines()) <= width
    for row in rows:
        assert all(percent(value) in out for value in row[1:])
    squeezed = "".join(out.split())
    assert squeezed.count("onetwo") >= 3


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_simulation_says_every_accuracy_and_every_model_in_full(width, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    with (tmp_path / "log.jsonl").open("w") as file:
        for size, model in enumerate(NAMES):
            for row in range(300):
                values = {"question_id": str(row), "model": model, "correct": (row * 7) % (3 + size) > 0}
                values |= {"p_t": ((row * 13) % 100) / 100, "parameters": 10 ** (9 + size), "prompt_tokens": 50}
                file.write(json.dumps(values | {"completion_tokens": 1, "task": "t", "num_layers": 30}) + "\n")
    main(["--scores", str(tmp_path / "log.jsonl"), f"--out={tmp_path / 'out'}"])
    out = capsys.readouterr().out
    tables = [line for line in out.splitlines() if line[:1] in "┏┃┡│└"]
    assert max(map(len, tables)) <= width
    assert "…" not in out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    for row in (*report["singles"], *report["chains"]):
        assert f"{100 * row['accuracy']:.2f}%" in out
    # A part's rows are told apart by what stands in the column that names them.
    part = out[out.index("Accuracy and reduced cost") :].split("└")[0].split("┡")[1]
    names, name = [], ""
    for line in part.splitlines()[1:]:
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        if cells[1] and name:
            names.append(name)
            name = ""
        name += cells[0]
    names.append(name)
    assert len(set(names)) == len(names) == len(report["singles"]) + len(report["chains"])


def test_the_layer_of_a_sweep_is_in_every_part_of_its_table(capsys):
    heads = [Column("layer"), *(Column(f"metric {n}") for n in range(7))]
    rows = [[f"{layer}{' *' if layer == 2 else ''}", *["0.712\n[0.612, 0.812]"] * 7] for layer in range(4)]
    parts = Table.of("layers", "By layer", heads, rows).to_rich(80)
    assert len(parts) > 1
    for part in parts:
        Console(width=80).print(part)
        out = capsys.readouterr().out
        assert re.search(r"│ +2 \* │", out) and "…" not in out
        assert max(len(line) for line in out.splitlines()) <= 80
