"""Runs lm-evaluation-harness, Inspect and vLLM on miniatures, and keeps their logs.

The logs are fixtures of the readers' tests (`tests/fixtures/logs`). The tools need environments of their own; that of
vLLM is made by `make test-vllm`:

    python -m venv tools && tools/bin/pip install torch==2.13.0 && tools/bin/pip install "lm-eval[hf]" inspect-ai
    python -m experiments.foreign_logs --tools tools/bin
    python -m experiments.foreign_logs --vllm FOLDER/bin

What a tool writes is kept as it is, but for the report of the machine in `results_*.json`, which is left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from jsonargparse import ArgumentParser

from cascade.errors import CascadeError, one_line_errors
from cascade.miniature.families import ASSETS
from cascade.tasks.load import load_task
from cascade.tasks.task import Task

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures" / "logs"
MODELS = ("mini-llama-small", "mini-llama-large")
VLLM_MODELS = ("mini-llama-large", "mini-qwen3-large")  # those that it runs on a CPU
QUESTIONS, OF_VLLM = 80, 40
# Lines of results that speak of the machine and not of the run.
_MACHINE = ("pretty_env_info", "upper_git_hash", "git_hash")
LETTERS = """task: mini_letters
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: "{{letters.index(right)}}"
metric_list: [{metric: acc}]
"""
TEXTS = LETTERS.replace("mini_letters", "mini_texts").replace('["A", "B", "C", "D"]', "choices")
WRITTEN = """task: mini_written
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{right}}"
generation_kwargs: {max_gen_toks: 1, until: ["\\n"], do_sample: false}
metric_list: [{metric: exact_match}]
"""
INSPECT = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample, json_dataset
from inspect_ai.scorer import match
from inspect_ai.solver import generate


@task
def mini():
    def sample(row):
        return Sample(id=row["id"], input=row["prompt"], target=row["right"])

    return Task(json_dataset("questions.jsonl", sample), generate(), scorer=match(location="begin"))
"""


def questions(task: Task) -> str:
    """The first questions of a task as the tools read them: JSON lines."""
    rows = (
        {
            "id": question.id,
            "prompt": task.prompt(question),
            "choices": list(question.choices),
            "letters": list(question.letters),
            "right": question.answers[0],
        }
        for question in task.questions[:QUESTIONS]
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def run(folder: Path, *command: str | Path) -> None:
    """Runs a tool in a folder.

    Raises:
        CascadeError: With the end of what it said, if it fails.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "INSPECT_DISPLAY": "none"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CascadeError(f"Expected {command[0]} to succeed, but it said: {(done.stdout + done.stderr)[-1500:]}")


@one_line_errors()
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=Path, help="folder with lm_eval and inspect")
    parser.add_argument("--vllm", type=Path, help="folder with a python that has vLLM")
    values = parser.parse_args(args)
    if values.tools is not None:
        run_tools(values.tools.absolute())
    if values.vllm is not None:
        run_vllm(values.vllm.absolute())


def run_tools(tools: Path) -> None:
    """lm-evaluation-harness and Inspect."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "questions.jsonl").write_text(questions(load_task("mini-mmlu")))
        (folder / "mini.py").write_text(INSPECT)
        for task, text in (("letters", LETTERS), ("texts", TEXTS), ("written", WRITTEN)):
            (folder / f"{task}.yaml").write_text(text)
        for model in MODELS:
            (folder / model).symlink_to(ASSETS / model)
            run_lm_eval(tools, folder, model, "mini_letters")
            run_inspect(tools, folder, model)
        run_lm_eval(tools, folder, MODELS[0], "mini_texts", "--limit", "6")
        run_lm_eval(tools, folder, MODELS[0], "mini_written", "--limit", "6")
        for tool in ("lm_eval", "inspect"):
            shutil.rmtree(FIXTURES / tool, ignore_errors=True)
            shutil.copytree(folder / tool, FIXTURES / tool)
    for path in (FIXTURES / "lm_eval").rglob("results_*.json"):
        results = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in results.items() if k not in _MACHINE}, indent=1) + "\n")


def run_vllm(tools: Path) -> None:
    """Batches of chat completions, one request a question, with a key beside them."""
    task = load_task("mini-mmlu")
    asked = task.questions[:OF_VLLM]
    out = FIXTURES / "vllm_run_batch"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}")
        (folder / "logs").mkdir()
        keys = [{"id": q.id, "answer": q.answers[0], "choices": q.choices} for q in asked]
        (folder / "logs" / "key.jsonl").write_text("".join(json.dumps(key) + "\n" for key in keys))
        for model in VLLM_MODELS:
            body = {"model": model, "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 5}
            lines = [
                {
                    "custom_id": question.id,
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": body | {"messages": [{"role": "user", "content": task.prompt(question)}]},
                }
                for question in asked
            ]
            (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            served = ("--model", ASSETS / model, "--served-model-name", model, "--chat-template", "raw.jinja")
            files = ("-i", "requests.jsonl", "-o", f"logs/{model}.jsonl")
            how = ("--dtype", "float32", "--enforce-eager")
            run(folder, tools / "python", "-m", "vllm.entrypoints.openai.run_batch", *files, *served, *how)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder / "logs", out)


def run_lm_eval(tools: Path, folder: Path, model: str, task: str, *more: str) -> None:
    """One model on one task, with its samples."""
    asked = ("--model", "hf", "--model_args", f"pretrained={model}", "--include_path", ".", "--device", "cpu")
    out = ("--tasks", task, "--batch_size", "16", "--log_samples", "--output_path", f"lm_eval/{task}")
    run(folder, tools / "lm_eval", *asked, *out, *more)


def run_inspect(tools: Path, folder: Path, model: str) -> None:
    """One model on the same questions, with log-probabilities."""
    settings = {"model_path": model, "tokenizer_path": model, "device": "cpu"}
    settings["chat_template"] = "{{ messages[0]['content'] }}"
    (folder / f"{model}.json").write_text(json.dumps(settings))
    asked = ("--model", f"hf/{model}", "--model-config", f"{model}.json", "--log-dir", "inspect")
    drawn = ("--temperature", "0.01", "--max-tokens", "1", "--logprobs", "--top-logprobs", "4")
    run(folder, tools / "inspect", "eval", "mini.py", *asked, *drawn)


if __name__ == "__main__":
    main()
