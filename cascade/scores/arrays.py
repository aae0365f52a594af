"""Score tables as arrays: the models of a chain, aligned on their questions.

What the policies, ledgers and metrics work on. The table's schema and reading are `cascade.scores.schema`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cascade.errors import CascadeError
from cascade.scores.columns import ModelInfo, Signals, Usage, exit_share_of


@dataclass(frozen=True)
class ModelScores:
    """One model's scores, over the same questions in the same order as every other model's of its chain.

    Attributes:
        info: What is the same for every question.
        signals: What a policy decides by.
        usage: What a cost is made of.
        correct: ``[questions]``, bool; all false where the logs have no labels (`ChainScores.labelled`).
        predictions: ``[questions]``, or ``None`` where unknown.
        attempted: ``[questions]``, bool: false where the model declined to answer; ``None`` where unknown.
        option_mass: ``[questions]``, float64: probability of all the options together; ``None`` where unknown.
    """

    info: ModelInfo
    signals: Signals
    usage: Usage
    correct: np.ndarray
    predictions: np.ndarray | None = None
    attempted: np.ndarray | None = None
    option_mass: np.ndarray | None = None

    def __post_init__(self) -> None:
        counts = len(self.correct), len(self.signals), len(self.usage)
        if len(set(counts)) != 1:
            raise CascadeError(
                f"Expected labels, signals and usage of {self.name!r} to be of the same questions, but got {counts}"
            )
        if self.signals.p_ik_reader is not None and self.info.reader is None:
            raise CascadeError(f"Expected `reader` to be named where {self.name!r} has p_ik_reader, but it is not")

    @property
    def name(self) -> str:
        """The model's."""
        return self.info.name

    def take(self, rows: np.ndarray) -> ModelScores:
        """The same model on some of the questions: ``rows`` are places or a mask."""
        return ModelScores(
            self.info,
            self.signals.take(rows),
            self.usage.take(rows),
            self.correct[rows],
            None if self.predictions is None else self.predictions[rows],
            None if self.attempted is None else self.attempted[rows],
            None if self.option_mass is None else self.option_mass[rows],
        )


@dataclass(frozen=True)
class ChainScores:
    """The models of a chain, smallest first, aligned on their questions.

    Attributes:
        question_ids: In the order of every array.
        models: Smallest first.
        answers: ``[questions]``, the right answers, or ``None`` where unknown.
        subjects: ``[questions]``, or ``None`` where unknown.
        labelled: Whether `ModelScores.correct` is known.
        normalized: Whether P(T) is that over the options' mass.
    """

    question_ids: tuple[str, ...]
    models: tuple[ModelScores, ...]
    answers: np.ndarray | None = None
    subjects: np.ndarray | None = None
    labelled: bool = True
    normalized: bool = False

    def __len__(self) -> int:
        """How many questions."""
        return len(self.question_ids)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, smallest first."""
        return tuple(m.name for m in self.models)

    @property
    def infos(self) -> tuple[ModelInfo, ...]:
        """What the models are, smallest first."""
        return tuple(m.info for m in self.models)

    @property
    def usages(self) -> tuple[Usage, ...]:
        """What their passes took."""
        return tuple(m.usage for m in self.models)

    @property
    def offers(self) -> dict[str, frozenset[str]]:
        """Each model's name to the confidences that it has, smallest model first."""
        return {m.name: m.signals.known for m in self.models}

    @property
    def correct(self) -> np.ndarray:
        """``[models, questions]``, bool."""
        return np.stack([m.correct for m in self.models])

    @property
    def fingerprint(self) -> str:
        """Hash of the questions, in order."""
        return hashlib.sha256("\n".join(self.question_ids).encode()).hexdigest()[:16]

    def take(self, rows: np.ndarray) -> ChainScores:
        """Some of the questions: ``rows`` are places or a mask."""
        return replace(
            self,
            question_ids=tuple(np.asarray(self.question_ids, dtype=object)[rows]),
            models=tuple(m.take(rows) for m in self.models),
            answers=None if self.answers is None else self.answers[rows],
            subjects=None if self.subjects is None else self.subjects[rows],
        )

    def keep(self, places: Sequence[int]) -> ChainScores:
        """A sub-chain: the models at these places."""
        return replace(self, models=tuple(self.models[i] for i in places))


def sub_chains(chain: ChainScores, shortest: int = 2) -> list[tuple[int, ...]]:
    """The places of the models of every sub-chain, in the paper's order (shorter first)."""
    places = range(len(chain.models))
    return [keep for size in range(shortest, len(places) + 1) for keep in combinations(places, size)]


def parts(chain: ChainScores, shares: Sequence[float], seed: int | str = 0) -> list[ChainScores]:
    """Parts of a chain's questions that do not overlap, drawn by each question's id.

    A question stays in its part whatever other questions are there, and in whatever order.

    Args:
        chain: The scores.
        shares: Expected share of each part; they sum to 1.
        seed: Another seed is another draw. Parts of parts need another one.

    Raises:
        CascadeError: If a part is left without a question.
    """
    which = place_of(chain, shares, seed)
    drawn = [chain.take(which == i) for i in range(len(shares))]
    if min(map(len, drawn)) == 0:
        raise CascadeError(
            f"Expected enough questions for {len(shares)} parts that do not overlap, but there are {len(chain)}"
        )
    return drawn


def place_of(chain: ChainScores, shares: Sequence[float], seed: int | str = 0) -> np.ndarray:
    """In which of the `parts` each question is, ``[questions]``, int64; a part may be empty."""
    digests = b"".join(hashlib.sha256(f"part {seed} {name}".encode()).digest()[:8] for name in chain.question_ids)
    place = np.frombuffer(digests, dtype=">u8") / 2**64
    return np.searchsorted(np.cumsum(shares)[:-1], place, side="right")


def check_chain(chain: Sequence[str]) -> None:
    """Raises `CascadeError` unless a chain is two or more different models."""
    if len(chain) < 2 or len(set(chain)) != len(chain):
        raise CascadeError(f"Expected `chain` to be two or more different models, but got {', '.join(chain) or 'none'}")


def check_sizes(models: Sequence[tuple[str, int | None]], prices: Mapping[str, Sequence[float]] | None = None) -> None:
    """Refuses a chain whose models do not become larger; where their sizes are not known, dearer.

    Args:
        models: Names and parameters, in the chain's order.
        prices: By the model's name, of tokens read and written.

    Raises:
        CascadeError: Naming the first two that are the wrong way round.
    """
    sizes: list[tuple[str, float | None, str]] = [(name, size, "parameters") for name, size in models]
    if any(size is None for _, size in models) and prices:
        sizes = [(name, sum(prices[name]) if name in prices else None, "US dollars") for name, _ in models]
    known = [(name, size, unit) for name, size, unit in sizes if size is not None]
    for (first, less, unit), (second, more, _) in pairwise(known):
        if less > more:
            raise CascadeError(
                f"Expected the smallest model of `chain` first, but {first!r} ({less:,.10g} {unit}) comes before "
                f"{second!r} ({more:,.10g}); `--any_order true` takes the chain as it is"
            )


def align(
    table: pa.Table, chain: Sequence[str], split: str | None = None, normalize: bool = False, labelled: bool = True
) -> ChainScores:
    """The models of a chain over one and the same questions.

    Args:
        table: A validated score table holding all of them.
        chain: Model names, smallest first.
        split: If given, only rows of this split.
        normalize: Read P(T) renormalised over the options (the other reading of the paper's §2.2).
        labelled: Whether the table says what is right.

    Raises:
        CascadeError: If the chain repeats a model or names one without scores, models answered different
            questions, or a model other than the last has no confidence to go by.
    """
    check_chain(chain)
    if split is not None:
        if "split" not in table.column_names:
            raise CascadeError("Expected the score table to have a column split, but it has none")
        splits = sorted({str(name) for name in table["split"].to_pylist()})
        if split not in splits:
            raise CascadeError(f"Expected `split` to be one of {', '.join(splits)}, but got {split!r}")
        table = table.filter(pc.equal(table["split"], split))
    present = sorted(set(table["model"].to_pylist()))
    models, ids = [], None
    for name in chain:
        if name not in present:
            raise CascadeError(f"Expected `chain` to name models with scores ({', '.join(present)}), but got {name!r}")
        rows = table.filter(pc.equal(table["model"], name)).sort_by("question_id")
        own = rows["question_id"].to_pylist()
        if ids is None:
            ids, first = own, rows
        elif own != ids:
            odd = sorted(set(own) ^ set(ids))
            raise CascadeError(
                f"Expected every model to have answered the same questions, but {name!r} and {chain[0]!r} differ in "
                f"{len(odd)}, such as {odd[0]!r}"
            )
        models.append(model_scores(name, rows, "p_t_normalized" if normalize else "p_t", labelled))
        if len(models) < len(chain) and not models[-1].signals.known:
            raise CascadeError(
                f"Expected {name!r} to have a confidence (p_t, p_ik or p_ik_reader), as only the last model of a chain "
                f"may lack one"
            )
    answers, subjects = (_array(first, name) for name in ("answer", "subject"))
    return ChainScores(tuple(ids or ()), tuple(models), answers, subjects, labelled, normalize)


def _array(rows: pa.Table, name: str) -> np.ndarray | None:
    """A column as an array, or ``None`` if it is absent or not filled."""
    if name not in rows.column_names or rows[name].null_count:
        return None
    values: np.ndarray = rows[name].to_numpy()
    return values


def model_scores(name: str, rows: pa.Table, p_t_column: str = "p_t", labelled: bool = True) -> ModelScores:
    """One model's rows of a validated table as arrays, in the rows' order.

    Raises:
        CascadeError: If a confidence is filled in some rows only, or the probe's layer is none of the model's.
    """
    for column in (p_t_column, "p_ik", "p_ik_reader"):
        if column in rows.column_names and 0 < rows[column].null_count < rows.num_rows:
            raise CascadeError(
                f"Expected {column} of model {name!r} to be filled in every row or in none, but some are null"
            )
    if p_t_column != "p_t" and _array(rows, p_t_column) is None and _array(rows, "p_t") is not None:
        raise CascadeError(f"Expected model {name!r} to have {p_t_column} in every row, but it has not")

    def single(column: str) -> int | None:
        values = _array(rows, column)
        return None if values is None else int(values[0])

    depth, layer = single("num_layers"), single("probe_layer")
    if depth is not None and layer is not None and layer > depth:
        raise CascadeError(f"Expected probe_layer of {name!r} to be at most its num_layers {depth}, but got {layer}")
    correct = _array(rows, "correct") if labelled else np.zeros(rows.num_rows, bool)
    assert correct is not None  # a required column
    p_ik_reader, reader, attempted = (_array(rows, column) for column in ("p_ik_reader", "reader", "attempted"))
    reader_name = f"reader of {name}" if reader is None else str(reader[0])
    usage = {f.name: _array(rows, f.name) for f in fields(Usage) if f.name != "questions"}
    return ModelScores(
        info=ModelInfo(
            name=name,
            parameters=single("parameters"),
            num_layers=depth,
            hidden_size=single("hidden_size"),
            exit_share=exit_share_of(layer, depth),
            probe_parameters=single("probe_parameters") or 0,
            reader=None if p_ik_reader is None else reader_name,
            reader_parameters=single("reader_parameters"),
            p_t_needs_answer=bool(single("p_t_needs_answer")),
        ),
        signals=Signals(rows.num_rows, _array(rows, p_t_column), _array(rows, "p_ik"), p_ik_reader),
        usage=Usage(rows.num_rows, **usage),
        correct=correct.astype(bool),
        predictions=_array(rows, "prediction"),
        attempted=None if attempted is None else attempted.astype(bool),
        option_mass=_array(rows, "option_mass"),
    )
