"""Every command of the paper's scale says what it would cost, from the Hub's small files alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.cascade.fake_hub import FakeHub, ask, card, model_files, parquet, table
from tests.cascade.test_benchmarks import MMLU_ROW, POPQA_ROW, gpqa_row, repository

ROOT = Path(__file__).parents[1]
PUBLISHED = json.loads((ROOT / "tests/cascade/published_models.json").read_text())["models"]
MODELS = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "configs/models").glob("*.yaml"))]
PINNED = {model["model"]: model["revision"] for model in MODELS}
LLAMA, QWEN = ([name for name in PUBLISHED if name.startswith(owner)] for owner in ("meta-llama/", "Qwen/"))
QUESTIONS = {"mmlu": 90, "gpqa": 40, "popqa": 50}
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
WEIGHTS = b"never to be asked for"
ALL = ("--questions=mmlu", "--split=all")

RUN = """
import contextlib, io, json, os, sys
from dataclasses import replace
from importlib import import_module
sys.path.insert(0, sys.argv[1])
from cascade.tasks.hub import HUB_TASKS
for name, rows in json.loads(sys.argv[3]).items():
    HUB_TASKS[name] = replace(HUB_TASKS[name], rows=rows)
os.chdir(sys.argv[2])
for module, *flags in json.loads(sys.argv[4]):
    said, failed, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(failed):
        try:
            import_module(module).main(flags)
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([code, said.getvalue(), failed.getvalue()]))
"""


def commands() -> dict[tuple[str, ...], tuple[list[str], list[str]]]:
    """Flags of each, and the models and tasks that it has to plan."""
    found = {}
    tasks = {6: ["mmlu", "gpqa"], 7: [], 10: ["popqa"], 11: ["popqa"], 12: []}
    for number in range(1, 16):
        models = [] if number in (7, 12) else QWEN if number == 3 else LLAMA
        found[f"experiments.table_{number:02d}", "--scale=paper"] = models, tasks.get(number, ["mmlu"])
    found["experiments.figure", "--scale=paper"] = LLAMA, ["mmlu"]
    for name in ("deciding_ledger", "probe_depth"):
        found[f"experiments.{name}", "--scale=paper"] = [*LLAMA, *QWEN], ["mmlu"]
    for name in ("seeds", "transfer", "all"):
        found[f"experiments.{name}", "--scale=paper"] = [*LLAMA, *QWEN], ["mmlu", "gpqa", "popqa"]
    for family, names in (("llama3", LLAMA), ("qwen3", QWEN)):
        found["cascade.simulate", f"--cascade={ROOT}/configs/cascades/{family}.yaml", "--task=mmlu"] = names, ["mmlu"]
        found["cascade.run", f"--config={ROOT}/configs/cascades/{family}.yaml", *ALL] = names, ["mmlu"]
        for name in names:
            size = re.search(r"\d+B", name)[0].lower()
            for entry in ("cascade.train", "cascade.score"):
                found[entry, f"--config={ROOT}/configs/{family}/{size}.yaml"] = [name], ["mmlu"]
    found["cascade.run", f"--config={ROOT}/configs/cascades/gpt-4o.yaml", *ALL] = [LLAMA[1]], ["mmlu"]
    return found


COMMANDS = commands()


@pytest.fixture(scope="module")
def hub():
    mmlu = [MMLU_ROW | {"subject": f"subject_{i % 3}"} for i in range(QUESTIONS["mmlu"])]
    gpqa = [gpqa_row(f"rec{i:03}") for i in range(QUESTIONS["gpqa"])]
    popqa = [POPQA_ROW | {"id": i} for i in range(QUESTIONS["popqa"])]
    tokenizer = {name: data for name, data in model_files().items() if name.startswith("tokenizer")}
    settings = json.loads(tokenizer["tokenizer_config.json"]) | {"chat_template": CHAT_TEMPLATE}
    tokenizer["tokenizer_config.json"] = json.dumps(settings).encode()
    served = FakeHub(
        repository("mmlu", {"README.md": card("all", "test", "all/test-*"), "all/test-0.parquet": parquet(mmlu)})
        | repository("gpqa", {"README.md": card("gpqa_main", "train", "main.csv"), "main.csv": table(gpqa, ",")})
        | repository("popqa", {"README.md": b"# PopQA\n", "test.tsv": table(popqa, "\t")}),
        models={
            name: {PINNED[name]: tokenizer | {"config.json": json.dumps(config).encode(), "model.safetensors": WEIGHTS}}
            for name, config in ((name, model["config"]) for name, model in PUBLISHED.items())
        },
    )
    yield served
    served.close()


@pytest.fixture(scope="module")
def planned(hub, tmp_path_factory) -> dict[tuple[str, ...], tuple[int, str, str]]:
    """What each of them says, one after another in a process that nothing lies in the folder of."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("folder")
    flags = [(*command, "--plan") for command in COMMANDS]
    done = ask(hub.url, home, "-c", RUN, str(ROOT), str(folder), json.dumps(QUESTIONS), json.dumps(flags))
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    return dict(zip(COMMANDS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command).replace(f"{ROOT}/", ""))
def test_a_plan_names_its_models_and_its_questions(command, planned):
    (code, said, failed), (models, tasks) = planned[command], COMMANDS[command]
    assert (code, failed) == (0, "")
    for name in PUBLISHED:
        sizes = re.findall(rf"{re.escape(name)} +│ +([\d,]+) │", said)
        assert len(sizes) == (name in models)
        for size in sizes:
            assert int(size.replace(",", "")) == pytest.approx(1e9 * PUBLISHED[name]["billions"], rel=0.01)
        asked = re.findall(rf"{re.escape(name)} +│ ([\w-]+) +│ +([\d,]+) │", said)
        assert asked == [(task, str(QUESTIONS[task])) for task in tasks if name in models]
    assert ("to fetch: " in said) == bool(models)
    provider = re.findall(r"gpt-4o +│ mmlu +│ +(\d+) │", said)
    if command[0] in ("experiments.table_04", "experiments.table_09", "experiments.table_13"):
        assert provider == ["9"]  # the test part: a tenth of each subject
    elif command[0] in ("experiments.seeds", "experiments.all"):
        (asked,) = provider  # the test parts of five splits, which overlap by chance
        assert 9 < int(asked) < 5 * 9
    else:
        assert provider == (["90"] if "gpt-4o" in command[1] else [])
    # Three models alone, three chains of two and one of three, each over the test part.
    families = {"experiments.table_01": 1, "experiments.table_03": 1, "experiments.all": 2}.get(command[0], 0)
    assert re.findall(r"run live: up to ([\d,]+) passes", said) == [f"{(3 + 3 * 2 + 3) * 9}"] * families
    assert ("the tokenizer is not at hand" in said) == bool(provider)


def test_nobodys_weights_were_asked_for(hub, planned):
    paths = [path for path in hub.requests if "/datasets/" not in path]
    assert {name for name in PUBLISHED if any(name in path for path in paths)} == set(PUBLISHED)
    assert not [path for path in paths if "safetensors" in path or path == hub.large(WEIGHTS)]
