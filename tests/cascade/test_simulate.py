from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import wandb
from pyarrow.csv import write_csv
from sklearn.metrics import roc_auc_score

from cascade.miniature.families import FAMILIES
from cascade.probing.choice import ProbeChoice
from cascade.runtime.config import CascadeConfig
from cascade.scores.reading import read_scores
from cascade.scoring.scored import score
from cascade.simulate import main
from cascade.studies import Own
from probes import stratified_split

ROOT = Path(__file__).parents[2]


def logs(folder: Path, rows: int = 200) -> list[str]:
    """Score tables as somebody else might have them: the required columns and the parameters."""
    rng = np.random.default_rng(0)
    files = []
    for name, skill, size in (("small", 0.5, 10), ("large", 0.8, 100)):
        p_t = rng.beta(5, 2, rows)
        table = pa.table(
            {
                "question_id": [f"q{i}" for i in range(rows)],
                "model": [name] * rows,
                "correct": rng.random(rows) < skill * p_t / p_t.mean(),
                "p_t": p_t,
                "parameters": [size] * rows,
            }
        )
        pq.write_table(table, folder / f"{name}.parquet")
        files.append(str(folder / f"{name}.parquet"))
    return files


@pytest.fixture(scope="module")
def own(made_once, tmp_path_factory):
    """What the main job leaves where there was nothing."""
    return shutil.copytree(made_once.main_job(), tmp_path_factory.mktemp("own") / "runs")


def test_the_main_job_leaves_report_scores_and_plot(own, capsys):
    (folder,) = (own / "simulations").iterdir()
    report = json.loads((folder / "report.json").read_text())
    assert [row["chain"].count("→") for row in report["chains"]] == [1, 1, 1, 2]
    assert report["questions"] == 810
    assert len(report["without_p_ik"]) == 4
    assert (folder / "plot.png").stat().st_size > 10_000
    tables = read_scores(sorted((folder / "scores").glob("*.parquet")))
    assert tables.num_rows == 3 * 8100
    # What was written gives the same report as somebody else's table would.
    files = [str(p) for p in sorted((folder / "scores").glob("*.parquet"))]
    chain = ",".join(report["singles"][i]["models"][0] for i in range(3))
    main(["--scores", *files, "--chain", chain, f"--out={own / 'again'}"])
    again = json.loads((own / "again" / "report.json").read_text())
    assert report.pop("probe_layers") == {"mini-llama-small": 2, "mini-llama-medium": 3}  # of models that are run here
    assert again == report
    printed = capsys.readouterr().out
    for word in ("answered-only", "full-path", "early-exit", "Table 8", "Table 9", "Table 14", "w/o P(IK)"):
        assert word in printed


def test_the_probes_of_the_small_models_know_something(own):
    (folder,) = (own / "simulations").iterdir()
    report = json.loads((folder / "report.json").read_text())
    p_ik = [c["auroc"] for c in report["confidences"] if c["confidence"] == "P(IK)"]
    assert len(p_ik) == 2
    assert min(p_ik) >= 0.70


@pytest.mark.parametrize("family", FAMILIES)
def test_both_families_are_worth_routing_between(own, made_once, family):
    """Six points a size to at least 80 %; the small are right where the larger miss; P(T) says something."""
    accuracies, right, ood = [], [], []
    for size in FAMILIES[family]:
        made_once.copy(own, made_once.store(f"{family}-{size}"))
        table = score(f"{family}-{size}", "mini-mmlu", own / "stores").table()
        split = stratified_split(table["question_id"].to_pylist(), table["subject"].to_pylist())
        correct, p_t = (table[name].to_numpy()[list(split.test)] for name in ("correct", "p_t"))
        accuracies.append(correct.mean())
        right.append(correct)
        ood.append(score(f"{family}-{size}", "mini-gpqa", own / "stores").table()["correct"].to_numpy().mean())
        assert np.quantile(p_t, 0.1) < 0.9
        assert np.quantile(p_t, 0.9) > 0.5
        assert roc_auc_score(correct, p_t) > 0.7
    assert np.diff(accuracies).min() >= 0.06
    assert accuracies[-1] >= 0.80
    assert max(ood) < min(accuracies) - 0.1
    assert (right[0] & ~right[1] & ~right[2]).any()
    assert (right[1] & ~right[2]).any()


def test_the_whole_report_of_the_miniature(own, made_once, tmp_path, capsys):
    """Out of distribution, layer by layer, as a page; a probe of another layer is trained on the way."""
    others = [("mini-llama-small", 3), *(("mini-llama-medium", layer) for layer in (1, 2, 4))]
    made_once.copy(own, *(made_once.probe(*other) for other in others))
    capsys.readouterr()
    flags = ["--evaluate-on", "mini-gpqa", "--layers=true", "--ledger=early-exit", f"--report={tmp_path}"]
    main([f"--runs={own}", f"--out={tmp_path / 'o'}", *flags])
    page = (tmp_path / "report.html").read_text()
    assert "Probe layers" in page and "mini-gpqa" in page
    said = capsys.readouterr()
    assert said.err.count("training one") == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert [point["layers"] for point in report["layers"]] == [[1, 1], [2, 2], [2, 3], [3, 4]]
    in_distribution, ood = report["study"]["evaluations"]
    assert (in_distribution["questions"], ood["questions"]) == (810, 448)
    assert ood["row"]["accuracy"] < in_distribution["row"]["accuracy"] - 0.2
    assert ood["different"]
    assert f"Wrote {tmp_path / 'report.html'}" in said.out


def test_another_way_of_asking_or_probing_has_a_folder_of_its_own(own):
    kept = own / "simulations" / "mini-llama-small+mini-llama-medium+mini-llama-large--mini-mmlu"
    before = (kept / "report.json").read_bytes()
    main([f"--runs={own}", "--probes.layer=1"])
    assert (kept / "report.json").read_bytes() == before
    assert (kept.with_name(f"{kept.name}--layer-1") / "report.json").read_bytes() != before
    assert Own(CascadeConfig(), ProbeChoice(), own, True).marks == ()
    each = {"dtype": "bfloat16", "quantization": "4bit", "batch_size": 8, "prompt_style": "chat", "letters": "bare"}
    assert Own(CascadeConfig(each=each), ProbeChoice(), own, True).marks == ("bfloat16", "4bit", "chat", "bare")


@pytest.mark.parametrize("flags", [["--task=mini-gpqa"], ["--calibrate-on", "mini-gpqa"]])
def test_out_of_distribution_uses_the_same_probes(own, capsys, flags):
    main([f"--runs={own}", *flags])
    captured = capsys.readouterr()
    assert "448 questions" in captured.out
    assert "training one" not in captured.err


def test_a_second_run_computes_nothing_again(own, capsys):
    main([f"--runs={own}"])
    errors = capsys.readouterr().err
    assert errors.count("Reusing 8,100 scored rows") == 3
    assert "Scoring" not in errors
    assert "training" not in errors


def test_somebody_elses_logs_need_no_torch(tmp_path):
    files = logs(tmp_path)
    code = (
        "import sys; from cascade.simulate import main; main(sys.argv[1:]);"
        "assert not {'torch', 'transformers', 'lightning'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, "--scores", *files, "--chain", "small,large", "--out", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "small → large" in done.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--chain", "small,huge"], r"(large, small), but got 'huge'"),
        (["--chain", "small"], "two or more different models"),
        (["--p_t", "1.5"], "Expected threshold `p_t` to be in [0, 1], but got 1.5"),
        (["--p_ik", "-0.1"], "Expected threshold `p_ik` to be in [0, 1], but got -0.1"),
        (["--split", "test"], "column split"),
        (["--p_t", "abc"], "p_t"),
        (["--nonsense", "1"], "nonsense"),
        (["--ledger", "creative"], "Expected `ledger` to be one of answered-only, full-path, early-exit"),
        (["--unit", "bananas"], "Expected `unit` to be one of flops"),
        (["--unit", "seconds"], "'small' to have seconds in every row"),
        (["--unit", "dollars"], "Expected `prices` to hold 'small', or its scores cost_usd in every row"),
        (["--objective", "luck"], "Expected `objective` to be one of accuracy, cost, price"),
        (["--objective", "accuracy", "--limit", "0.001"], "budget of at least"),
        (["--limit", "1.5"], "accuracy floor of at most"),
        (["--limit", "-1"], "Expected `limit` to be at least 0"),
        (["--epsilon", "0"], "Expected `epsilon` to be between 0 and 1"),
        (["--delta", "1.5"], "Expected `delta` to be between 0 and 1"),
        (["--prices", "none.yaml"], "no such file"),
        (["--evaluate-on", "nowhere"], "but got 'nowhere'"),
        (["--columns.p_t", "conf"], "column 'conf' for p_t"),
        (["--layers", "true"], "Expected `layers` for models that are run here"),
    ],
)
def test_bad_input_ends_with_one_line(tmp_path, capsys, more, message):
    chain = [] if "--chain" in more else ["--chain", "small,large"]
    with pytest.raises(SystemExit) as stop:
        main(["--scores", *logs(tmp_path), *chain, *more, f"--out={tmp_path / 'o'}"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("correct", None, "correct missing"),
        ("p_t", [0.5] * 199 + [None], "p_t of model 'large' .* every row or in none"),
        ("question_id", ["x"] * 200, "'x' repeats for model 'large'"),
        ("p_t", [1.5] * 200, "p_t .* to be in [0, 1], but row 0 is 1.5"),
        ("p_t", [float("nan")] * 200, "p_t .* row 0 is nan"),
        ("question_id", [f"x{i}" for i in range(200)], "differ in 400"),
    ],
)
def test_a_bad_score_table_ends_with_one_line(tmp_path, capsys, column, values, message):
    files = logs(tmp_path)
    table = pq.read_table(files[1]).drop_columns([column])
    pq.write_table(table if values is None else table.append_column(column, pa.array(values)), files[1])
    with pytest.raises(SystemExit) as stop:
        main(["--scores", *files, "--chain", "small,large", f"--out={tmp_path / 'o'}"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(part in line for part in message.split(" .* "))


def run(folder: Path, files: list[str], *more: str) -> dict:
    main(["--scores", *files, "--chain", "small,large", f"--out={folder}", *more])
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("rows", [1, 12])
def test_too_few_questions_are_said_to_be(tmp_path, capsys, rows):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "o", logs(tmp_path, rows))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "enough questions" in line or "at least 10 questions" in line


@pytest.mark.parametrize(
    ("column", "value"), [("correct", True), ("correct", False), ("p_t", 0.7), ("p_t", 1.0), ("p_t", 0.0)]
)
def test_logs_without_contrast_are_simulated_all_the_same(tmp_path, column, value):
    files = logs(tmp_path)
    for file in files:
        table = pq.read_table(file).drop_columns([column])
        pq.write_table(table.append_column(column, pa.array([value] * table.num_rows)), file)
    study = run(tmp_path / "o", files, "--epsilon=0.05")["study"]
    assert 0 <= study["chosen"]["reported"]["accuracy"]["estimate"] <= 1
    if column == "correct":  # the cheapest model is as good as any
        assert study["chosen"]["thresholds"].startswith("small")
        assert study["chosen"]["reported"]["cost_ratio"]["estimate"] == pytest.approx(0.1)


def test_the_chain_of_somebody_elses_logs_follows_their_parameters(tmp_path):
    files = logs(tmp_path)
    main(["--scores", *reversed(files), f"--out={tmp_path / 'o'}"])
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["study"]["chain"] == ["small", "large"]


def test_what_a_study_reports_is_not_of_the_questions_that_chose(tmp_path):
    study = run(tmp_path / "o", logs(tmp_path, 400))["study"]
    assert study["chosen_on"] + study["reported_on"] == 400
    assert study["chosen"]["reported"]["questions"] == study["reported_on"]
    assert all(policy["reported"]["questions"] == study["reported_on"] for policy in study["policies"])


def test_questions_of_another_kind_certify_anew(tmp_path, capsys):
    files = logs(tmp_path, 400)
    (tmp_path / "new").mkdir()
    for file in files:
        table = pq.read_table(file)
        ids = pa.array([f"new-{name}" for name in table["question_id"].to_pylist()])
        table = table.set_column(table.column_names.index("question_id"), "question_id", ids)
        pq.write_table(table.slice(0, 300), tmp_path / "new" / Path(file).name)
    again = run(tmp_path / "o", files, "--epsilon=0.1", f"--recertify={tmp_path / 'new'}")["study"]
    assert (again["chosen_on"], again["reported_on"], again["guarantee"]["certified_on"]) == (400, 300, 300)
    assert again["chosen"]["to_run"] == again["guarantee"]["policy"]
    for file in (tmp_path / "new").iterdir():
        pq.write_table(pq.read_table(file).drop_columns(["correct"]), file)
    with pytest.raises(SystemExit):
        run(tmp_path / "o", files, f"--recertify={tmp_path / 'new'}")
    assert "Expected `recertify` to name labelled questions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "`recertify` to name questions that are not among those that choose, but 100 of"),
        (("--limit=0.5",), "`recertify` for a promise, but of what limit 0.5 chooses nothing is promised"),
        (("--objective=price",), "`recertify` for a promise, but of what objective price chooses nothing is promised"),
    ],
)
def test_what_chose_or_promises_nothing_does_not_certify(tmp_path, capsys, flags, said):
    files = logs(tmp_path, 400)
    (tmp_path / "some").mkdir()
    for file in files:
        pq.write_table(pq.read_table(file).slice(50, 100), tmp_path / "some" / Path(file).name)
    with pytest.raises(SystemExit):
        run(tmp_path / "o", files, f"--recertify={tmp_path / 'some'}", *flags)
    assert said in capsys.readouterr().err


def test_questions_of_another_kind_may_go_by_the_same_ids(tmp_path):
    files = logs(tmp_path, 400)
    (tmp_path / "new").mkdir()
    for file in files:
        table = pq.read_table(file)
        lower = table.set_column(table.column_names.index("p_t"), "p_t", pa.array(table["p_t"].to_numpy() ** 3))
        pq.write_table(lower.slice(0, 300), tmp_path / "new" / Path(file).name)
    again = run(tmp_path / "o", files, "--epsilon=0.1", f"--recertify={tmp_path / 'new'}")["study"]
    assert again["guarantee"]["certified_on"] == 300


def test_a_file_that_is_not_there_is_named_by_its_flag(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path / "o", logs(tmp_path), "--recertify=nowhere.csv")
    assert "Expected `recertify` to name a task" in capsys.readouterr().err


def test_other_data_and_unlabelled_logs_are_evaluated_frozen(tmp_path):
    files = logs(tmp_path, 400)
    (tmp_path / "ood").mkdir()
    (tmp_path / "live").mkdir()
    for file in files:
        table = pq.read_table(file)
        lower = table.set_column(3, "p_t", pa.array(table["p_t"].to_numpy() ** 3))
        pq.write_table(lower, tmp_path / "ood" / Path(file).name)
        pq.write_table(table.drop_columns(["correct"]), tmp_path / "live" / Path(file).name)
    plain = run(tmp_path / "a", files)["study"]
    study = run(tmp_path / "o", files, "--evaluate-on", str(tmp_path / "ood"), str(tmp_path / "live"))["study"]
    assert study["chosen"] == plain["chosen"]
    own, ood, live = study["evaluations"]
    assert ood["row"]["accuracy"] is not None
    assert ood["different"] and ood["difference"]["largest"]["confidence"] == "P(T)"
    assert own["different"] is None and live["different"] is False
    assert live["row"] is None and live["estimate"]["actual"] is None
    assert 0 < live["estimate"]["accuracy"] < 1
    assert own["estimate_error_points"] == pytest.approx(100 * (own["estimate"]["accuracy"] - own["row"]["accuracy"]))


def test_p_ik_of_scores_is_left_out_where_it_is_null(tmp_path):
    files = logs(tmp_path)
    table = pq.read_table(files[0])
    rng = np.random.default_rng(1)
    pq.write_table(table.append_column("p_ik", pa.array(rng.random(len(table)))), files[0])
    (tmp_path / "without").mkdir()
    plain = run(tmp_path / "plain", logs(tmp_path / "without"), "--p_ik=null")
    without = run(tmp_path / "null", files, "--p_ik=null")
    assert without == plain
    assert run(tmp_path / "with", files)["chains"] != plain["chains"]
    with pytest.raises(SystemExit):
        main(["--layers=true", "--p_ik=null", f"--runs={tmp_path}"])


def test_figures_are_logged_to_wandb_without_an_account(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    wandb.teardown()  # an earlier run's settings
    study = run(tmp_path / "o", logs(tmp_path), "--logger=wandb")["study"]
    wandb.teardown()  # its writer is another process
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    logged = b"".join(path.read_bytes() for path in folder.glob("*.wandb"))
    assert b"fixed/saved/flops/full-path" in logged
    assert str(study["chosen"]["reported"]["accuracy"]["estimate"]).encode() in logged
    assert list(folder.rglob("*.png"))


def test_the_four_columns_that_the_readme_asks_for_are_enough(tmp_path, capsys):
    """And unlabelled logs beside them, whatever the labels are called where there are some."""
    csv = tmp_path / "logs.csv"
    tables = [pq.read_table(file).drop_columns(["parameters"]) for file in logs(tmp_path, 400)]
    renamed = pa.concat_tables(tables).rename_columns(["question_id", "model", "is_right", "confidence"])
    write_csv(renamed, csv)
    write_csv(renamed.drop_columns(["is_right"]), tmp_path / "live.csv")
    names = ["--columns.p_t=confidence", "--columns.correct=is_right"]
    out = [f"--out={tmp_path / 'o'}", f"--report={tmp_path / 'page'}"]
    main(["--scores", str(csv), "--chain", "small,large", *names, *out, "--evaluate-on", str(tmp_path / "live.csv")])
    printed = capsys.readouterr().out
    assert "calls of the last model" in " ".join(printed.split())
    assert (tmp_path / "page" / "report.html").exists()
    main(["validate", str(tmp_path / "live.csv"), *names])
    assert "as unlabelled logs" in capsys.readouterr().out


def test_questions_that_a_probe_was_trained_on_are_left_out(tmp_path):
    files = logs(tmp_path, 400)
    for file in files:
        table = pq.read_table(file)
        pq.write_table(table.append_column("split", pa.array(["train", "test"] * 200)), file)
    assert run(tmp_path / "o", files)["questions"] == 200


def test_a_table_is_validated_with_what_it_allows(tmp_path, capsys):
    files = logs(tmp_path)
    main(["validate", *files])
    printed = capsys.readouterr().out
    assert "400 rows" in printed
    assert "small: 200 questions; confidences: p_t; costs in flops" in printed
    with pytest.raises(SystemExit):
        main(["validate", str(tmp_path / "none.parquet")])
    assert "no such file" in capsys.readouterr().err


def test_a_table_that_says_nothing_of_cost_is_told_what_would(tmp_path, capsys):
    (file, _) = logs(tmp_path)
    bare = pq.read_table(file).drop_columns(["parameters"])
    pq.write_table(bare, file)
    main(["validate", file])
    assert "costs in calls of the last model alone; parameters, prompt_tokens and" in capsys.readouterr().out
    for column in ("prompt_tokens", "completion_tokens"):
        bare = bare.append_column(column, pa.array([5] * 200))
    pq.write_table(bare, file)
    main(["validate", file])
    assert "costs in tokens\n" in capsys.readouterr().out


def test_every_score_table_is_read_once(tmp_path, monkeypatch):
    files, read = logs(tmp_path), []
    real = pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda path, **more: read.append(str(path)) or real(path, **more))
    main(["validate", *files])
    assert read == files
    read.clear()
    (tmp_path / "other").mkdir()
    other = logs(tmp_path / "other")
    run(tmp_path / "o", files, "--evaluate-on", str(tmp_path / "other"))
    assert sorted(read) == sorted(files + other)


def test_an_output_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main(["--scores", *logs(tmp_path), "--chain", "small,large", f"--out={tmp_path / 'file'}"])
    assert stop.value.code == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_real_qwen_and_llama_chains_show_their_three_ledgers(shared_data, tmp_path, capsys):
    """Full-path never saves more than answered-only; on these logs the ledger decides what pays."""
    from experiments.real_logs import main as convert

    convert([str(shared_data), "--out", str(tmp_path)])
    for chain in ("Qwen-1_8B,Qwen-7B,Qwen-14B,Qwen-72B", "Llama-2-7b,Llama-2-13b,Llama-2-70b"):
        files = [str(tmp_path / f"{name}.parquet") for name in chain.split(",")]
        main(["--scores", *files, "--chain", chain, f"--out={tmp_path / 'o'}"])
        report = json.loads((tmp_path / "o" / "report.json").read_text())
        for row in report["chains"]:
            assert row["saved"]["flops"]["answered-only"] > 0
            assert (
                row["saved"]["flops"]["full-path"]
                == row["saved"]["flops"]["early-exit"]
                < row["saved"]["flops"]["answered-only"]
            )
    printed = capsys.readouterr().out
    assert "Qwen-72B.parquet: 9,971 questions" in printed
