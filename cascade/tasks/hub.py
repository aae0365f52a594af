"""Benchmarks from the Hugging Face Hub, at pinned commits.

A commit that lies in the cache of `datasets` is read from there, and nothing is sent. Otherwise the Hub is first asked
one short question, so that a machine without a network says so in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from cascade.errors import CascadeError
from cascade.tasks.base import Question
from cascade.tasks.benchmarks import Row, arc_questions, gpqa_questions, mmlu_questions, popqa_questions
from cascade.tasks.task import MultipleChoice, OpenEnded, Task

REACH_SECONDS = 10.0


@dataclass(frozen=True)
class HubTask:
    """Where a benchmark lies on the Hub.

    Attributes:
        repo: Its repository of datasets.
        revision: The commit.
        config: Its configuration, where it has several.
        split: The part that is asked.
        rows: How many there are at that commit.
        columns: Those that `convert` reads.
        task: Class of the task.
        convert: From rows to questions.
        gated: Whether its authors grant access one by one.
        dev: The part that examples are taken from, where there is one.
        probed_on: See `Task`.
    """

    repo: str
    revision: str
    config: str | None
    split: str
    rows: int
    columns: tuple[str, ...]
    task: type[Task]
    convert: Callable[[Iterable[Row]], tuple[Question, ...]]
    gated: bool = False
    dev: str | None = None
    probed_on: str | None = None


# The heads of the repositories' main branches in 2026, as several public projects pin them and, for PopQA, as the
# Hub's own answer about the repository has it. The Hub itself was out of reach where this was written.
HUB_TASKS = {
    "mmlu": HubTask(
        "cais/mmlu",
        "c30699e8356da336a370243923dbaf21066bb9fe",
        "all",
        "test",
        14_042,
        ("question", "subject", "choices", "answer"),
        MultipleChoice,
        mmlu_questions,
        dev="dev",
    ),
    "gpqa": HubTask(
        "Idavidrein/gpqa",
        "633f5ee89ab8ad4522a9f850766b73f62147ffdd",
        "gpqa_main",
        "train",
        448,
        (
            "Question",
            "Correct Answer",
            "Incorrect Answer 1",
            "Incorrect Answer 2",
            "Incorrect Answer 3",
            "Record ID",
            "High-level domain",
        ),
        MultipleChoice,
        gpqa_questions,
        gated=True,
        probed_on="mmlu",  # as the paper's GPQA table has it
    ),
    "popqa": HubTask(
        "akariasai/PopQA",
        "098765c79ea10a2cb19c828324e33281b8336ec0",
        None,
        "test",
        14_267,
        ("id", "question", "prop", "s_pop", "possible_answers"),
        OpenEnded,
        popqa_questions,
    ),
    "arc-challenge": HubTask(
        "allenai/ai2_arc",
        "210d026faf9955653af8916fad021475a3f00453",
        "ARC-Challenge",
        "test",
        1_172,
        ("id", "question", "choices", "answerKey"),
        MultipleChoice,
        arc_questions,
        dev="validation",
    ),
}


@lru_cache(maxsize=8)  # what lies at a commit never changes
def load_hub_task(name: str) -> Task:
    """A benchmark by its name in `HUB_TASKS`. Its dev split is loaded when examples are first asked for.

    Raises:
        CascadeError: If it is not in the cache and the Hub is offline, out of reach or denies access; or if what it
            gives is not what is expected of that commit.
    """
    source = HUB_TASKS[name]
    questions = source.convert(_rows(name, source, source.split, source.rows))
    dev = None if source.dev is None else partial(_dev_questions, name)
    return source.task(name, questions, source.probed_on, dev)


@lru_cache(maxsize=8)
def _dev_questions(name: str) -> tuple[Question, ...]:
    """Questions of the part that examples are taken from, told apart by their ids from those that are asked."""
    source = HUB_TASKS[name]
    assert source.dev is not None
    found = source.convert(_rows(name, source, source.dev))
    return tuple(replace(question, id=f"{source.dev}/{question.id}") for question in found)


def _rows(name: str, source: HubTask, split: str, count: int | None = None) -> Any:
    dataset = _load(name, source, split)
    if missing := [column for column in source.columns if column not in dataset.column_names]:
        raise CascadeError(
            f"Expected columns {', '.join(source.columns)} in {source.repo} at {source.revision[:12]}, but "
            f"{', '.join(missing)} missing: the dataset has changed"
        )
    if count is not None and len(dataset) != count:
        raise CascadeError(
            f"Expected {count:,} rows in {source.repo} at {source.revision[:12]}, but got {len(dataset):,}"
        )
    return dataset.select_columns(list(source.columns))


def _load(name: str, source: HubTask, split: str) -> Any:
    from datasets import config, load_dataset
    from datasets.exceptions import DatasetsError
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils import httpx

    if (folder := _cached(source)) is not None:
        return _read_cached(source, folder, split)
    if config.HF_HUB_OFFLINE:
        raise CascadeError(
            f"Expected {name} ({source.repo} at {source.revision[:12]}) in {config.HF_DATASETS_CACHE}, but it is not "
            f"there and offline mode is on; load it once without HF_HUB_OFFLINE and HF_DATASETS_OFFLINE"
        )
    _check_reach(name, source)
    quiet = not are_progress_bars_disabled() and not _has_terminal()
    if quiet:
        disable_progress_bars()
    try:
        return load_dataset(source.repo, source.config, split=split, revision=source.revision)
    except (DatasetsError, OSError, ValueError, httpx.HTTPError) as error:
        reason = str(error).strip() or type(error).__name__
        raise CascadeError(f"Expected to load {source.repo} at {source.revision[:12]}, but {reason}") from error
    finally:
        if quiet:
            enable_progress_bars()


def _has_terminal() -> bool:
    import sys

    return sys.stderr.isatty()


def _cached(source: HubTask) -> Path | None:
    """The folder of exactly this commit in the cache of `datasets`, where it is whole."""
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    owner, repo = source.repo.split("/")
    root = Path(config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(repo)}"
    found = root.glob(f"{source.config or '*'}/*/{source.revision}/dataset_info.json")
    return next((path.parent for path in sorted(found)), None)


def _read_cached(source: HubTask, folder: Path, split: str) -> Any:
    from datasets.packaged_modules.cache.cache import Cache

    config, version = folder.parts[-3:-1]
    repo = source.repo.split("/")[1]
    try:
        builder = Cache(
            dataset_name=repo, repo_id=source.repo, config_name=config, version=version, hash=source.revision
        )
        return builder.as_dataset(split=split)
    except (OSError, ValueError) as error:
        raise CascadeError(f"Expected {source.repo} whole in {folder}, but {error}; delete the folder") from error


def _check_reach(name: str, source: HubTask) -> None:
    """Asks the Hub for the commit once, where `datasets` would go on trying without a word of why."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import httpx

    from probes.hub import refusal

    api = HfApi()
    try:
        api.dataset_info(source.repo, revision=source.revision, timeout=REACH_SECONDS)
        if source.gated:
            api.auth_check(source.repo, repo_type="dataset")
    except (httpx.HTTPError, OSError) as error:
        raise CascadeError(refusal(error, source.repo, source.revision, kind="dataset", purpose=name)) from error
