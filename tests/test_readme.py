"""The README's own lines, run as they stand."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from cascade.runtime.build import build_cascade
from cascade.tasks.load import load_task
from tests.cascade.faulty_server import FaultyServer
from tests.cascade.test_judging import reply
from tests.serving.running import running

README = Path(__file__).parents[1] / "README.md"


def block(containing: str) -> str:
    """The one block of Python that holds these words."""
    (found,) = [b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if containing in b]
    return found


def said(code: str, **given: object) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, str(README), "exec"), given)
    return out.getvalue()


def test_the_lines_that_ask_a_cascade_in_python(monkeypatch):
    monkeypatch.chdir(README.parent)
    (question,) = [q for q in load_task("mini-mmlu").questions if q.text == "Name the language of Faiprox."][:1]
    text, model, outcomes = said(block("build_cascade(")).split(maxsplit=2)
    assert (text, model) == (question.answers[0], "mini-qwen3-small")
    assert outcomes.strip() == "['ANSWERED']"


def test_the_lines_that_give_a_judge_evidence(monkeypatch, tmp_path):
    """The server takes for right what the evidence says, and nothing else."""
    asked = load_task("mini-popqa").questions[:3]
    scores = {"question_id": [q.id for q in asked], "model": ["m"] * 3, "correct": [False] * 3}
    scores |= {"prediction": ["Ann", "Bel", "Cal"], "task": ["mini-popqa"] * 3}
    pq.write_table(pa.table(scores), tmp_path / "small.parquet")

    def believes(request):
        text = request["messages"][0]["content"]
        return reply(f"Verdict: {'correct' if 'Bel is what they say' in text else 'incorrect'}")

    settings = yaml.safe_load((README.parent / "configs/judges/local.yaml").read_text())
    with FaultyServer(body=believes).running() as server:
        (tmp_path / "configs" / "judges").mkdir(parents=True)
        (tmp_path / "configs/judges/local.yaml").write_text(yaml.safe_dump(settings | {"base_url": server.url}))
        monkeypatch.chdir(tmp_path)
        said(block("evidence=search"), search=lambda q: ["Bel is what they say."] if q.id == asked[1].id else [])
    assert pq.read_table(tmp_path / "judged.parquet")["correct"].to_pylist() == [False, True, False]


def test_the_lines_that_ask_the_server():
    with running(build_cascade()) as server:
        code = block("from openai import OpenAI")
        assert "http://127.0.0.1:8000" in code
        letter, model, flops = said(code.replace("http://127.0.0.1:8000", server.url)).split(maxsplit=2)
    assert (letter, model) == ("B", "mini-llama-small")
    assert "early-exit" in flops
