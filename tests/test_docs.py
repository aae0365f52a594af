"""The README and `docs/` as they stand: commands parse, code runs, YAML is read, links lead somewhere, the site builds.

A page of `TUTORIALS` is run from top to bottom in a folder of its own; all of them share one folder of runs. Of every
other page the commands are parsed and the Python is run. `<!-- parsed only: WHY -->` before a block says that it cannot
run here. A block with `title="FILE"` is written to that file first.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re
import shlex
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

import jsonargparse
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import cascade.__main__ as cascade_command
from cascade.judging.llm import JudgeConfig
from cascade.runtime import CascadeConfig, build_cascade
from cascade.scores.reading import GROUP
from cascade.tasks.load import load_task
from experiments.pages import ROOT, pages
from tests.cascade.faulty_server import FaultyServer
from tests.cascade.test_judging import reply
from tests.cascade.test_sweeps import faults, flags, points
from tests.serving.running import running

TUTORIALS = {"tutorial.md", "own-model.md", "own-logs.md", "probe-elsewhere.md"}
EMBEDDED = re.compile(r'^--8<-- "(.*)"$', re.MULTILINE)
OTHER_PROGRAMS = {"curl", "pip", "wandb", "lm_eval", "inspect", "vllm", "ls", "head"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    title: str | None
    parsed_only: bool
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name(page: Path) -> str:
    return page.relative_to(ROOT / "docs" if page.is_relative_to(ROOT / "docs") else ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    lines, found, start = page.read_text().splitlines(), [], None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        language, _, rest = lines[start][3:].partition(" ")
        title = re.fullmatch(r'title="(.*)"', rest)
        marked = start > 0 and re.fullmatch(r"<!-- parsed only: .{10,} -->", lines[start - 1]) is not None
        text = "\n".join(lines[start + 1 : number])
        found.append(Block(name(page), start + 1, language, title and title[1], marked, text))
        start = None
    assert start is None, f"{page} has a block without an end"
    return found


BLOCKS = [block for page in pages() for block in blocks_of(page)]


def of(page: str, language: str) -> list[Block]:
    return [block for block in BLOCKS if (block.page, block.language) == (page, language)]


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a block, without comments and settings of the environment."""
    lines = block.text.replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    return [[w for i, w in enumerate(words) if not (i == 0 and re.match(r"[A-Z_]+=", w))] for words in split if words]


def entry(words: list[str]):
    """The function that a command calls and its arguments; ``None`` for a program that is not ours."""
    match words:
        case ["cascade", *args] | ["python", "-m", "cascade", *args]:
            return cascade_command.main, args
        case ["python", "-m", module, *args] if module.split(".")[0] in ("cascade", "experiments"):
            return importlib.import_module(module).main, args
        case ["torchrun" | "srun", *launched] if "-m" in launched:
            return entry(["python", *launched[launched.index("-m") :]])
    return None


class ParsedError(BaseException):
    """Thrown where a command line is parsed and nothing has been done yet."""


def parse(words: list[str], monkeypatch) -> None:
    """Takes a command to its own parser, and no further."""
    whole = jsonargparse.ArgumentParser.parse_args
    depth = 0

    def parse_args(self, *args, **kwargs):
        nonlocal depth
        depth += 1
        whole(self, *args, **kwargs)
        depth -= 1
        if depth == 0:
            raise ParsedError

    monkeypatch.setattr(jsonargparse.ArgumentParser, "parse_args", parse_args)
    main, args = entry(words)
    try:
        main(args)
    except ParsedError:
        return
    except SystemExit as ended:
        if ended.code:
            raise AssertionError(f"{' '.join(words)} is refused") from ended
    assert {"--version", "--help", "--completion"} & set(words), f"{' '.join(words)} was not parsed, but run"


def written(page: str, folder: Path) -> None:
    """The files that a page tells its reader to write, and what lies in a clone."""
    (folder / "configs").symlink_to(ROOT / "configs")
    for block in BLOCKS:
        if block.page == page and block.title:
            (folder / block.title).write_text(block.text + "\n")


SHELL = [block for block in BLOCKS if block.language == "sh"]


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_every_command_is_one_that_its_own_parser_takes(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(block.page, tmp_path)
    for words in commands(block):
        if words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
        elif entry(words) is None:
            assert words[0] in OTHER_PROGRAMS, f"nothing checks {' '.join(words)}"
            assert all(Path(word).exists() for word in words if word.startswith("configs/"))
        else:
            with monkeypatch.context() as patch:
                parse(words, patch)


@pytest.mark.parametrize(
    "line",
    ["cascade simulate --objektive cost", "python -m cascade.train --data.modell x", "cascade plan run --x 1"],
)
def test_a_command_with_a_flag_that_is_none_would_be_found(line, monkeypatch, capsys):
    with pytest.raises(AssertionError, match="is refused"):
        parse(line.split(), monkeypatch)


def test_every_block_is_of_a_language_that_a_test_looks_at():
    plain = {f"{block.page}" for block in BLOCKS if not block.language}
    assert {block.language for block in BLOCKS} <= {"sh", "python", "yaml", "toml", ""}
    assert plain <= {"README.md", "rooms.md", "score-table.md"}  # drawings


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml"], ids=str)
def test_every_toml_is_an_entry_point_that_is_asked_for(block):
    assert set(tomllib.loads(block.text)["project"]["entry-points"]) == {GROUP}


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=str)
def test_every_python_is_python(block):
    compile(EMBEDDED.sub("", block.text), str(block), "exec")


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_every_yaml_is_read_by_what_it_is_for(block, tmp_path, monkeypatch):
    path, values = tmp_path / "block.yaml", yaml.safe_load(block.text)
    path.write_text(block.text)
    if "program" in values:
        assert faults(values) == []
        for point in points(values):
            with monkeypatch.context() as patch:
                parse(["python", "-m", values["command"][3], *flags(values, point)], patch)
    elif "endpoint" in values:
        assert JudgeConfig.read(path).endpoint == values["endpoint"]
    else:
        assert len(CascadeConfig.read(path).members) == len(values["models"])


@pytest.mark.parametrize("block", [block for block in BLOCKS if EMBEDDED.search(block.text)], ids=str)
def test_every_file_that_a_page_shows_is_run_by_a_test(block):
    for path in EMBEDDED.findall(block.text):
        source = (ROOT / path).read_text()
        assert len(source.splitlines()) <= 60
        module = path.removesuffix(".py").replace("/", ".")
        importing = [
            p for p in (ROOT / "tests").rglob("test_*.py") if module in p.read_text() and p.name != Path(__file__).name
        ]
        assert importing, f"no test runs {path}"


def run_page(page: str, folder: Path, monkeypatch, shell: bool = True, before=lambda code: code, **given) -> str:
    """What the blocks of a page say, one after another."""
    monkeypatch.chdir(folder)
    written(page, folder)
    given["__name__"] = "__main__"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        for block in BLOCKS:
            if block.page != page or block.parsed_only:
                continue
            if block.language == "python":
                exec(compile(before(block.text), str(block), "exec", dont_inherit=True), given)
            elif block.language == "sh" and shell:
                for words in commands(block):
                    if called := entry(words):
                        called[0](called[1])
    return out.getvalue()


@pytest.fixture(scope="module")
def runs(made_once, tmp_path_factory):
    """One folder of stores and probes for all pages, with those in it that the main job leaves."""
    return shutil.copytree(made_once.main_job(), tmp_path_factory.mktemp("docs") / "runs")


@pytest.fixture
def folder(tmp_path, runs):
    (tmp_path / "runs").symlink_to(runs)
    return tmp_path


def test_the_tutorial_goes_from_a_question_to_a_recommendation_that_answers(folder, monkeypatch):
    said = run_page("tutorial.md", folder, monkeypatch)
    (right,) = {q.answers[0] for q in load_task("mini-mmlu").questions if q.text == "Name the language of Faiprox."}
    assert said.startswith(f"{right} by mini-llama-")
    assert said.count("Recommendation\n") == 3
    assert "50 questions" in said
    assert all((folder / name / "report.html").is_file() for name in ("report", "promised", "elsewhere"))


def test_a_model_and_questions_of_ones_own_become_a_chain_that_answers(folder, monkeypatch):
    said = run_page("own-model.md", folder, monkeypatch)
    assert "my-small → my-large" in said
    assert "50 questions" in said
    assert (folder / "report" / "report.html").is_file()


def test_logs_of_ones_own_become_a_recommendation_and_are_carried_to_unlabelled_ones(folder, monkeypatch):
    said = run_page("own-logs.md", folder, monkeypatch)
    assert "2,000 questions; confidences: p_t" in said
    assert said.count("Recommendation\n") == 2
    assert "unlabelled.csv" in said


def test_a_probe_is_used_where_nothing_knows_of_cascades(folder, monkeypatch):
    said = run_page("probe-elsewhere.md", folder, monkeypatch)
    assert "mini-llama-small" in said
    assert (folder / "mine" / "config.json").is_file()


def test_the_lines_that_ask_a_cascade_in_python(folder, monkeypatch):
    (question,) = [q for q in load_task("mini-mmlu").questions if q.text == "Name the language of Faiprox."][:1]
    text, model, outcomes = run_page("live.md", folder, monkeypatch, shell=False).split(maxsplit=2)
    assert (text, model) == (question.answers[0], "mini-qwen3-small")
    assert outcomes.strip() == "['ANSWERED']"


def test_the_lines_that_ask_the_server(folder, monkeypatch):
    with running(build_cascade()) as server:

        def here(code: str) -> str:
            assert "http://127.0.0.1:8000" in code
            return code.replace("http://127.0.0.1:8000", server.url)

        letter, model, flops = run_page("serve.md", folder, monkeypatch, shell=False, before=here).split(maxsplit=2)
    assert (letter, model) == ("B", "mini-llama-small")
    assert "early-exit" in flops


def test_the_lines_that_give_a_judge_evidence(monkeypatch, tmp_path):
    """The server takes for right what the evidence says, and nothing else."""
    asked = load_task("mini-popqa").questions[:3]
    scores = {"question_id": [q.id for q in asked], "model": ["m"] * 3, "correct": [False] * 3}
    scores |= {"prediction": ["Ann", "Bel", "Cal"], "task": ["mini-popqa"] * 3}
    pq.write_table(pa.table(scores), tmp_path / "small.parquet")

    def believes(request):
        text = request["messages"][0]["content"]
        return reply(f"Verdict: {'correct' if 'Bel is what they say' in text else 'incorrect'}")

    settings = yaml.safe_load((ROOT / "configs/judges/local.yaml").read_text())
    (block,) = of("confidences.md", "python")
    with FaultyServer(body=believes).running() as server:
        (tmp_path / "configs" / "judges").mkdir(parents=True)
        (tmp_path / "configs/judges/local.yaml").write_text(yaml.safe_dump(settings | {"base_url": server.url}))
        monkeypatch.chdir(tmp_path)
        search = {"search": lambda q: ["Bel is what they say."] if q.id == asked[1].id else []}
        exec(compile(block.text, str(block), "exec", dont_inherit=True), search)
    assert pq.read_table(tmp_path / "judged.parquet")["correct"].to_pylist() == [False, True, False]


def test_every_page_with_python_or_a_tutorial_is_run_by_a_test_above():
    run = set(re.findall(r'(?:run_page|of)\("(.*?)"', Path(__file__).read_text()))
    ours = {b.page for b in BLOCKS if b.language == "python" and not b.parsed_only and not EMBEDDED.search(b.text)}
    assert ours <= run
    assert run >= TUTORIALS


@pytest.mark.parametrize("page", [*pages(), *(ROOT / f"{n}.md" for n in ("CONTRIBUTING", "CHANGELOG"))], ids=name)
def test_every_link_of_a_page_leads_to_a_file_of_the_clone(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), f"{name(page)} links {target}"


def test_the_site_builds_strictly_and_asks_the_network_for_nothing(tmp_path, monkeypatch):
    config = pytest.importorskip("mkdocs.config", reason="pip install -e '.[docs]'")
    from mkdocs.commands.build import build

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    build(config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site")))  # a warning ends it
    html = list((tmp_path / "site").rglob("*.html"))
    assert {name(page).removesuffix(".md") for page in pages()} - {"README"} <= {
        path.relative_to(tmp_path / "site").as_posix().removesuffix(".html") for path in html
    }
    loads = re.compile(r'<(?:script|img|iframe|source)[^>]*\ssrc="([^"]*)"|<link[^>]*\shref="([^"]*)"')
    for path in html:
        for found in loads.finditer(path.read_text()):
            target = found[1] or found[2]
            assert not re.match(r"(?:[a-z]+:)?//", target), f"{path.name} loads {target}"
            assert (path.parent / target.split("?")[0]).exists() or path.name == "404.html"
