"""Asks a model a task: hidden states go to a store, answers and P(T) to a score table beside it.

One forward pass a question. What is already on disk is not computed again, and a run that was stopped goes on
where it was, to the same bytes; see `cascade.scoring.unfinished`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor
from tqdm import tqdm

from cascade.engines.base import Prompt, Reply, prompt_of
from cascade.engines.passes import of_like_length
from cascade.engines.settings import DecoderConfig
from cascade.engines.states import POSITION, StatesEngine
from cascade.errors import CascadeError, Interrupted
from cascade.progress import progress
from cascade.scores.row import score_row
from cascade.scores.schema import SCHEMA, parquet_bytes, validate_scores
from cascade.scoring.unfinished import UnfinishedShard
from cascade.tasks.base import Question
from cascade.tasks.load import load_task
from cascade.tasks.task import Task
from probes.errors import ProbeError
from probes.files import write_atomically
from probes.store import MANIFEST, HiddenStateStore, StoreKey, StoreLayout, StoreWriter

_POLL_SECONDS = 1.0
_MOST_PROMPTS = 128


@dataclass(frozen=True)
class Scored:
    """A scored task: the hidden states, and the score table of the same rows in the same order.

    Attributes:
        store: The hidden states.
        task: What was asked.
        reused: Whether everything was on disk already.
        templates: Template hashes of prompts in the form that the model was asked in, where more than the store's own
            are known; see `PromptForm.template_hashes`.
    """

    store: HiddenStateStore
    task: Task
    reused: bool
    templates: frozenset[str] = frozenset()

    def table(self) -> pa.Table:
        """The score table, with the measured seconds joined."""
        return stored_scores(self.store)


def stored_scores(store: HiddenStateStore) -> pa.Table:
    """The score table beside a store's hidden states, with the measured seconds joined.

    Raises:
        CascadeError: If it is corrupt, or has another number of rows.
    """
    try:
        tables = []
        for shard in range(store.num_shards):
            scores, seconds = (_read(store, path) for path in score_paths(store.folder, shard))
            tables.append(scores.append_column("seconds", seconds["seconds"]))
        # Shards written before a column was added lack it.
        whole = pa.concat_tables(tables, promote_options="default")
    except (pa.ArrowException, KeyError) as error:
        raise CascadeError(f"The score rows in {store.folder} are corrupt; delete the folder: {error}") from error
    if whole.num_rows != store.rows:
        raise CascadeError(f"Expected {store.rows} score rows in {store.folder}, but got {whole.num_rows}")
    return validate_scores(whole, str(store.folder))


def score_paths(folder: Path, shard: int) -> tuple[Path, Path]:
    """Score rows and measured seconds of one shard. They lie apart: all but the measurements repeats to the byte."""
    return folder / f"scores-{shard:05d}.parquet", folder / f"seconds-{shard:05d}.parquet"


def _read(store: HiddenStateStore, path: Path) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(store.read_beside(path.name)), page_checksum_verification=True)
    except ProbeError as error:
        raise CascadeError(str(error)) from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise CascadeError(f"Score rows {path} are corrupt or gone; delete them and score again: {error}") from error


def store_key(model: StatesEngine, task: Task, layers: Sequence[int] | str = "all") -> StoreKey:
    """What the hidden states of ``model`` on ``task`` depend on."""
    return StoreKey(
        model=model.name,
        model_revision=model.revision,
        tokenizer_hash=model.tokenizer_hash,
        template_hash=model.prompts.template_hash(task),
        task=task.name,
        task_revision=task.revision,
        dtype=model.dtype,
        quantization=model.quantization,
        trust_remote_code=model.trust_remote_code,
        layers=model.layers(layers),
        position=POSITION,
        versions=model.versions,
    )


def score(
    model: StatesEngine | str,
    task: Task | str,
    root: str | Path = "runs/stores",
    layers: Sequence[int] | str = "all",
    batch_size: int | None = None,
    shard_rows: int = 1024,
) -> Scored:
    """Asks ``model`` every question of ``task``, once.

    Args:
        model: An engine that shows hidden states, or the name of a decoder.
        task: A task, or its name.
        root: Folder of stores; this one's folder in it is named by its key.
        layers: Layers to keep, or ``"all"``.
        batch_size: Prompts in one forward pass. Makes no difference to the result beyond rounding. By default 128, and
            on a CPU no more than it is quick with; see `cpu_tokens`.
        shard_rows: Rows of a shard; the same when a run is resumed. A run that was killed has lost a minute.

    Raises:
        CascadeError, ProbeError: If the model or task is not known, the disk has not the room, or what lies on
            disk is corrupt.
    """
    scored = score_share(model, task, root, layers, batch_size, shard_rows)
    assert scored is not None  # the one process has no others to finish for it
    return scored


def score_share(
    model: StatesEngine | str,
    task: Task | str,
    root: str | Path = "runs/stores",
    layers: Sequence[int] | str = "all",
    batch_size: int | None = None,
    shard_rows: int = 1024,
    rank: int = 0,
    ranks: int = 1,
    check: Callable[[], None] | None = None,
) -> Scored | None:
    """One process's share of `score`: of ``ranks`` processes, each takes every ``ranks``-th shard.

    They need nothing of one another but the folder: any of them can be killed and started again by itself, and the
    result is that of a single process, to the byte.

    Args:
        model: See `score`; this and all the others are the same in every process.
        task: See `score`.
        root: See `score`; every process sees the same folder.
        layers: See `score`.
        batch_size: See `score`.
        shard_rows: See `score`.
        rank: Which process this is, from 0 on.
        ranks: How many there are.
        check: Called after each forward pass, and again and again while waiting; what it raises ends the work, and what
            was asked by then is kept.

    Returns:
        The whole, from rank 0, which waits for the others; from them ``None``, unless all was there already.

    Raises:
        CascadeError, ProbeError: As `score`.
    """
    model = DecoderConfig(model).build() if isinstance(model, str) else model
    task = load_task(task) if isinstance(task, str) else task
    for name, number in (("batch_size", batch_size), ("shard_rows", shard_rows)):
        if number is not None and number < 1:
            raise CascadeError(f"Expected `{name}` to be at least 1, but got {number}")
    if not 0 <= rank < ranks:
        raise CascadeError(f"Expected `rank` to be in 0 … {ranks - 1}, but got {rank}")
    key = store_key(model, task, layers)
    layout = StoreLayout(root, key, len(task.questions), model.hidden_size, shard_rows)
    missing = missing_shards(layout)
    if not missing and (layout.folder / MANIFEST).exists():
        return Scored(HiddenStateStore(layout.folder, expect=key), task, True, model.prompts.template_hashes(task))
    own = range(rank, len(layout.shards), ranks)
    pending = [n for n in own if n in missing]
    # What the model cannot be asked is said before anything is made.
    asker = _Asker(model, task, key.layers, batch_size) if pending else None
    writer = StoreWriter(root, key, len(task.questions), model.hidden_size, shard_rows)
    if rank == 0:
        writer.pending()  # what is not whole has no manifest; the others leave that to this one
    writer.check_room()
    total = sum(len(writer.shards[n]) for n in own)
    done = total - sum(len(writer.shards[n]) for n in pending)
    print(
        f"Scoring {model.name} on {task.name}: {writer.rows:,} rows × {len(key.layers)} layers × {model.hidden_size} "
        f"{key.precision} = {writer.total_bytes / 2**20:.1f} MiB in {writer.folder}"
        + (f"; {total:,} rows are for rank {rank} of {ranks}" if ranks > 1 else "")
        + (f"; {done:,} rows are there already" if done else "")
        + (f"; {model.prompts.note}" if model.prompts.note else "")
        + (f"; {asker.note}" if asker is not None and asker.note else ""),
        file=sys.stderr,
        flush=True,
    )
    if asker is not None:
        label = f"{model.name} · {task.name}" + (f" · rank {rank}" if ranks > 1 else "")
        with progress(total, label, initial=done, position=rank) as bar:
            for number in pending:
                if _is_whole(layout, number):  # another run at the same store was quicker
                    bar.update(len(writer.shards[number]))
                    continue
                shard = UnfinishedShard(writer.folder, number, writer.shards[number], key.layers)
                try:
                    states, table = asker.ask(writer.shards[number], bar, shard, check)
                except CascadeError:
                    shard.keep()
                    raise
                except KeyboardInterrupt:
                    shard.keep()
                    raise Interrupted(
                        f"Stopped: {int(bar.n):,} of {total:,} rows are in {writer.folder}, and nothing is lost; the "
                        f"same command goes on there"
                    ) from None
                scores_path, seconds_path = score_paths(writer.folder, number)
                write_atomically(seconds_path, parquet_bytes(table.select(["question_id", "seconds"])))
                write_atomically(scores_path, parquet_bytes(table.drop_columns(["seconds"])))
                writer.write(number, states)
                shard.remove()
    if rank != 0:
        return None
    _wait_for_others(writer, check)
    # Measured seconds are other ones in every run: their checksums would make manifests differ.
    scores = [score_paths(writer.folder, shard)[0].name for shard in range(len(writer.shards))]
    return Scored(writer.finish(scores), task, False, model.prompts.template_hashes(task))


def missing_shards(layout: StoreLayout) -> list[int]:
    """Numbers of the shards of which states, scores or seconds are not there."""
    layout.missing()  # refuses what is corrupt
    return [number for number in range(len(layout.shards)) if not _is_whole(layout, number)]


def _is_whole(layout: StoreLayout, number: int) -> bool:
    return all(path.exists() for path in (layout.path(number), *score_paths(layout.folder, number)))


def _wait_for_others(writer: StoreWriter, check: Callable[[], None] | None) -> None:
    left, said = missing_shards(writer), False
    while left:
        if not said:
            print(f"Waiting for {len(left):,} shards of the other ranks in {writer.folder}", file=sys.stderr)
            said = True
        time.sleep(_POLL_SECONDS)
        if check is not None:
            check()
        # A shard's states are written last: the rest is there by then.
        left = [number for number in left if not writer.path(number).exists()] or missing_shards(writer)


class _Asker:
    """Asks the questions of one shard after another.

    Raises:
        CascadeError: If a prompt is longer than the context, or the option letters cannot be told apart.
    """

    def __init__(self, model: StatesEngine, task: Task, layers: tuple[int, ...], batch_size: int | None) -> None:
        self.model, self.task, self.layers = model, task, layers
        self.batch_size = _MOST_PROMPTS if batch_size is None else batch_size
        self.pass_tokens = model.pass_tokens if batch_size is None else None
        self.prompts = [prompt_of(question, task) for question in task.questions]
        self.lengths = model.lengths(self.prompts)
        self.shared = [prompt.shared if model.reads_shared_once else "" for prompt in self.prompts]
        heads = sorted(set(self.shared) - {""})
        tokens = dict(zip(heads, model.count_tokens(heads) or (), strict=True)) if heads else {}
        # A pass holds the rest of each prompt.
        self.lengths = [n - tokens.get(head, 0) for n, head in zip(self.lengths, self.shared, strict=True)]
        self.parameters = model.parameters
        self.tokens = model.p_t_tokens(self.prompts)

    @property
    def note(self) -> str:
        """In words, where batches are smaller than they might be."""
        tokens, rows = self.pass_tokens, len(self.prompts)
        if tokens is None or tokens // max(1, *self.lengths) >= min(self.batch_size, rows):
            return ""
        return f"at most {tokens:,} tokens a pass, which a CPU is quickest with (`scoring_batch_size` says otherwise)"

    def ask(
        self, rows: range, bar: tqdm, shard: UnfinishedShard, check: Callable[[], None] | None
    ) -> tuple[dict[int, Tensor], pa.Table]:
        """States (rows in order, for each layer) and score rows of one shard, of which some may be known."""
        bar.update(len(shard.records))
        for batch in of_like_length(rows, self.lengths, self.batch_size, self.pass_tokens, self.shared):
            left = [row for row in batch if row not in shard.records]
            if not left:
                continue
            replies, states = self.model.read([self.prompts[row] for row in left], self.layers)
            records = [
                self._record(self.task.questions[row], self.prompts[row], reply)
                for row, reply in zip(left, replies, strict=True)
            ]
            shard.add(left, states, records)
            bar.update(len(left))
            if check is not None:
                check()
        ordered = [shard.records[row] for row in rows]
        # Whether popularity is known is a matter of the question, all else of the kind of task.
        fields = [f for f in SCHEMA if f.name == "popularity" or any(row[f.name] is not None for row in ordered)]
        metadata = {"p_t_tokens": json.dumps(self.tokens)} | self.model.prompts.settings
        return shard.states, pa.Table.from_pylist(ordered, schema=pa.schema(fields, metadata=metadata))

    def _record(self, question: Question, prompt: Prompt, reply: Reply) -> dict[str, object]:
        task, p_right = self.task, None
        if prompt.letters and reply.options:
            p_right = reply.options[prompt.letters.index(question.answers[0])] / sum(reply.options)
        answer = task.read(question, reply.text)
        return score_row(
            question.id,
            self.model.name,
            task.judge(question, answer),
            attempted=task.attempted(question, answer),
            p_t=reply.p_t,
            p_t_normalized=reply.p_t_normalized,
            option_mass=reply.option_mass,
            p_right=p_right,
            task=task.name,
            subject=question.subject,
            answer=question.answers[0],
            prediction=answer,
            popularity=question.popularity,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            seconds=reply.seconds,
            parameters=self.parameters,
            num_layers=self.model.num_layers,
        )
