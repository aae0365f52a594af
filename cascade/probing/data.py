"""A scored task as training data: a model's hidden states on it, labelled by whether the model was right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from cascade.engines.base import EngineConfig
from cascade.engines.settings import DecoderConfig, read_settings
from cascade.engines.states import StatesEngine, showing_states
from cascade.errors import CascadeError
from cascade.probing.labels import read_label_file, read_labels
from cascade.probing.runs import OWN_LABEL, RUNS
from cascade.scoring.scored import Scored, score, store_key
from cascade.tasks.load import load_task
from probes import HiddenStateStore, ProbeConfig
from probes.data import HiddenStateDataModule, LabelledStates
from probes.split import Split
from probes.states import open_states

BATCH_SIZE = 256
DEFAULT_MODEL = "mini-llama-small"


def default_layer(depth: int) -> int:
    """Three quarters of the way up: the paper's layer 24 lies at 24/28 to 24/32 of its small models."""
    return round(0.75 * depth)


class ScoredTaskDataModule(HiddenStateDataModule):
    """A model's hidden states on a task, labelled by whether the model was right; scored first where missing.

    Args:
        model: A decoder: a miniature's name, a folder, or a Hub id.
        task: Name of the task, or a file of questions and answers.
        layer: The one layer to read (0 = embeddings); by default three quarters of the way up.
        layers: Instead of one layer a list of them, or ``all``: a head is trained on each.
        store: A finished store to read instead of the one under ``stores``.
        stores: Folder of stores.
        labels: Parquet file with ``question_id`` and ``correct`` to learn from instead of the scored answers: those of
            another model, or of several samples a question, whose label is then the share of right ones.
        targets: What heads are trained towards: correct, the verdict, or p_right, the probability that the model gives
            the right option. Figures and calibration are of the verdict either way.
        memory: GiB that hidden states may take; what is larger is read from disk as it is wanted. By default half of
            what is free.
        scoring_batch_size: Prompts in one forward pass while scoring; by default 128, and on a CPU as many as it is
            quick with.
        batch_size: Rows of a training batch.
        split_seed: Another seed is another split.
        engine: Instead of a decoder any engine: its name, a YAML file of its settings, or these themselves.
        shots: Examples in each prompt, from the task's dev split.
        decoder: Further settings of the decoder.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        task: str = "mini-mmlu",
        layer: int | None = None,
        layers: Literal["all"] | list[int] | None = None,
        store: Path | None = None,
        stores: Path = RUNS / "stores",
        labels: Path | None = None,
        targets: Literal["correct", "p_right"] = "correct",
        memory: float | None = None,
        scoring_batch_size: int | None = None,
        batch_size: int = BATCH_SIZE,
        split_seed: int = 0,
        engine: dict[str, Any] | str | None = None,
        shots: int = 0,
        **decoder: Any,
    ) -> None:
        super().__init__(batch_size, split_seed)
        self.save_hyperparameters(logger=False)  # what a run's config.yaml says
        self.task = load_task(task, shots)
        # The rest of this signature is that of these settings.
        self.settings: EngineConfig = DecoderConfig(model=model, price=None, **decoder)
        if scoring_batch_size is not None:
            self.settings = replace(self.settings, batch_size=scoring_batch_size)
        if engine is not None:
            given = [*(["model"] if model != DEFAULT_MODEL else []), *self.settings.changed("batch_size")]
            if given:
                raise CascadeError(
                    f"Expected `engine` or settings of a decoder, but got both: {engine} and {', '.join(given)}"
                )
            self.settings = read_settings(engine, "`engine`")
        self.hparams.update(self.settings.flags())
        self.engine = self.settings.build()
        if layer is not None and layers is not None:
            raise CascadeError(f"Expected `layer` or `layers`, but got both: {layer} and {layers}")
        self.layers: tuple[int, ...] = ()
        if self.settings.shows_states:
            one = default_layer(self.model.num_layers) if layer is None else layer
            self.layers = self.model.layers([one] if layers is None else layers)
        if memory is not None and not memory >= 0:
            raise CascadeError(f"Expected `memory` to be at least 0 GiB, but got {memory}")
        self.memory = None if memory is None else int(memory * 2**30)
        self.stores, self.store, self.scoring_batch_size = stores, store, scoring_batch_size
        self.labels, self.targets = labels, targets
        self.scored: Scored | None = None

    @property
    def model(self) -> StatesEngine:
        """The engine, as one whose states are read.

        Raises:
            CascadeError: If it shows none.
        """
        return showing_states(self.engine)

    def check_trainable(self) -> None:
        """Refuses what heads cannot be trained on, as far as it is known before anything is computed.

        Raises:
            CascadeError: If the labels cannot be read, or there are too few questions.
        """
        if self.labels is not None:
            read_labels(read_label_file(self.labels), [q.id for q in self.task.questions], "correct", str(self.labels))
        split = self.make_split()
        if len(split.train) < self.batch_size:
            raise CascadeError(
                f"Expected at least `batch_size` = {self.batch_size} questions to train on, but {self.task.name} has "
                f"{len(split.train)}, of {len(self.task.questions)}; the others are for validation and test"
            )
        for name in ("validation", "test"):
            if not getattr(split, name):
                raise CascadeError(
                    f"Expected questions in the {name} part of {self.task.name}, but its {len(self.task.questions)} "
                    f"all went elsewhere"
                )

    def prepare_data(self) -> None:
        """Scores the task unless that lies on disk."""
        if self.store is not None:
            self.scored = Scored(HiddenStateStore(self.store, expect=store_key(self.model, self.task)), self.task, True)
        elif self.scored is None:
            self.scored = score(self.model, self.task, self.stores, batch_size=self.scoring_batch_size)

    def make_split(self) -> Split:
        """The task's own."""
        return self.task.split(self.split_seed)

    def load(self) -> LabelledStates:
        """Layers of the store, and the score table's verdicts."""
        self.prepare_data()
        assert self.scored is not None
        store, table = self.scored.store, self.scored.table()
        origin = ProbeConfig(
            hidden_size=store.hidden_size,
            layer=0,
            base_model=store.key.model,
            base_revision=store.key.model_revision,
            num_layers=self.model.num_layers,
            template_hash=store.key.template_hash,
            task=store.key.task,
            task_revision=store.key.task_revision,
            position=store.key.position,
            dtype=store.key.precision,
        )
        source = str(store.folder) if self.labels is None else str(self.labels)
        ids, strata = table["question_id"].to_pylist(), table["subject"].to_pylist()
        if self.labels is not None:
            table = read_label_file(self.labels)
        labels, meaning = read_labels(table, ids, "correct", source)
        if self.labels is None:
            meaning = OWN_LABEL
        targets = None
        if self.targets != "correct":
            targets, _ = read_labels(table, ids, self.targets, source)
            meaning += f", learnt from {self.targets}"
        return LabelledStates(
            states=open_states(store, self.layers, self.memory),
            labels=torch.from_numpy(labels.astype(np.float32)),
            ids=ids,
            strata=strata,
            origins=[replace(origin, layer=layer, label=meaning) for layer in self.layers],
            targets=None if targets is None else torch.from_numpy(targets.astype(np.float32)),
        )
