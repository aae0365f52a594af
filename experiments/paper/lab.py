"""What every table is made from: scores of a scale's models on its tasks, and what chains of them do.

Stores, probes and replies are made where they are missing and kept; within one process nothing is read twice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cascade.engines.base import Price
from cascade.judging.base import Judge
from cascade.judging.tables import judge_table
from cascade.policies.base import Thresholds
from cascade.policies.ledgers import Prices, pass_costs, read_prices
from cascade.policies.thresholds import ThresholdPolicy
from cascade.probing.chain import probe_for, with_p_ik
from cascade.scores.arrays import ChainScores, align, sub_chains
from cascade.scoring.scored import Scored, score
from cascade.simulation.simulator import Played, Row, all_costs, play, simulate, single
from cascade.tasks.base import Question
from cascade.tasks.load import load_task
from experiments.paper.api import Provider, api_scores
from experiments.paper.numbers import paper
from experiments.paper.scales import API, ARROW, LLAMA, PRICES, Scale
from probes import Probe

BOTH = Thresholds(p_t=paper().p_t, p_ik=paper().p_ik)
P_T_ALONE = Thresholds(p_t=paper().p_t, p_ik=None)


@dataclass
class Lab:
    """Where tables are made.

    Args:
        scale: Which models, tasks and endpoint.
        runs: Folder of stores and probe runs.
        out: Folder of what is made here; live runs and replies of the API lie there, too.
        limit: Only so many test questions, from the first on; 0 for all.
        seed: Of the split and of the probes' training.
        judge: Of the answers to PopQA's test questions (`cascade.judge`); by default normalised exact match, which
            probes learn from either way.
    """

    scale: Scale
    runs: Path = Path("runs")
    out: Path = Path("runs/paper/miniature")
    limit: int = 0
    seed: int = 0
    judge: Path | Judge | None = None
    _tables: dict[tuple[str, str, float | None, bool], pa.Table] = field(default_factory=dict, repr=False)
    _scored: dict[tuple[str, str], Scored] = field(default_factory=dict, repr=False)

    def scored(self, model: str, task: str) -> Scored:
        """A model's answers and hidden states, from disk or made."""
        if (model, task) not in self._scored:
            load_task(task)  # an unknown one is refused before weights are looked for
            decoder = self.scale.decoder(model, task).build()
            self._scored[model, task] = score(
                decoder, task, self.runs / "stores", batch_size=self.scale.scoring_batch_size
            )
            decoder.release()
        return self._scored[model, task]

    def questions(self, task: str) -> list[Question]:
        """A task's test questions in the order of the aligned chains, so that a limit means the same ones."""
        whole = load_task(task)
        asked = whole.take(whole.split(self.seed).test).questions
        return sorted(asked, key=lambda question: question.id)[: self.limit or None]

    def probe(self, model: str, task: str, depth: float | None = None) -> Probe:
        """The P(IK) probe of a model, trained on a task; ``depth`` is how far up it reads, in (0, 1]."""
        scored = self.scored(model, task)
        layer = self.scale.layer if depth is None else max(1, round(depth * scored.store.key.layers[-1]))
        return probe_for(self.scale.decoder(model, task).build(), task, scored, self.runs, layer, self.seed)

    def probed_on(self, task: str) -> str:
        """The task that a task's probes are trained on: its own, but that of MMLU for GPQA (the paper's §4.2)."""
        return self.scale.mmlu if task == self.scale.gpqa else task

    def table(self, model: str, task: str, depth: float | None = None, probed: bool = True) -> pa.Table:
        """One model's score table, split filled in, and P(IK) where it is ``probed``."""
        key = model, task, depth, probed
        if key not in self._tables:
            if model == API:
                self._tables[key] = api_scores(self.api, task, self.questions(task))
            else:
                trained_on = self.probed_on(task)
                probe = self.probe(model, trained_on, depth) if probed else None
                split_seed = self.seed if task == trained_on else None
                table = with_p_ik(self.scored(model, task), probe, split_seed)
                judged = self.judge is not None and task == self.scale.popqa
                self._tables[key] = self._judged(table) if judged else table
        return self._tables[key]

    def _judged(self, table: pa.Table) -> pa.Table:
        assert self.judge is not None
        test = pc.equal(table["split"], "test")
        judged = judge_table(table.filter(test), self.judge).table
        return pa.concat_tables([judged, table.filter(pc.invert(test))], promote_options="default")

    def chain(self, models: Sequence[str], task: str, split: str = "test", depth: float | None = None) -> ChainScores:
        """Models aligned on a task's test part, or on all of it where no probe saw it; the last has no probe."""
        tables = [self.table(model, task, depth, probed=model != models[-1]) for model in models]
        if API in models:
            # It is asked the test questions alone, and no more of them than wanted.
            asked = pa.array(tables[list(models).index(API)]["question_id"].to_pylist())
            tables = [table.filter(pc.is_in(table["question_id"], asked)) for table in tables]
        whole = pa.concat_tables(tables, promote_options="default")
        chain = align(whole, list(models), split if "split" in whole.column_names else None)
        return chain.take(np.arange(min(self.limit, len(chain)))) if self.limit else chain

    def of(self, label: str, family: str = "llama", task: str | None = None, split: str = "test") -> ChainScores:
        """The chain that a row of the paper names, such as ``3B → 8B``."""
        models = self.scale.family(family)
        return self.chain([models[size] for size in label.split(ARROW)], task or self.scale.mmlu, split)

    @property
    def prices(self) -> Prices:
        """The shipped prices, by the models that stand for the priced ones."""
        known = read_prices(PRICES)
        priced = {size: model.id.rpartition("/")[2] for size, model in paper().models.items()} | {API: "gpt-4o"}
        models = self.scale.family("llama")
        found = {models[size]: known.models[name] for size, name in priced.items()}
        if (price := self.scale.api.price) is not None:
            found[API] = (price.input, price.output)
        return Prices(known.source, found)

    @property
    def api(self) -> Provider:
        """The commercial API of Tables 4 and 13."""
        return Provider(self.scale, self.out, Price(*self.prices.models[API]))

    def row(
        self, label: str, family: str = "llama", task: str | None = None, thresholds: Thresholds | None = BOTH
    ) -> Row:
        """What a chain does at the paper's thresholds, against its own last model."""
        chain = self.of(label, family, task)
        prices = self.prices if family == "llama" else None
        policy = ThresholdPolicy.whole([thresholds or BOTH] * (len(chain.models) - 1))
        return simulate(chain, policy, all_costs(chain, prices))

    def rows(
        self, family: str = "llama", task: str | None = None, thresholds: Thresholds | None = BOTH
    ) -> dict[str, Row]:
        """Every single model and every sub-chain of a family, by the paper's labels."""
        sizes = [size for size in self.scale.family(family) if size != API]
        whole = self.of(ARROW.join(sizes), family, task)
        costs = all_costs(whole, self.prices if family == "llama" else None)
        found = {size: single(whole, place, costs) for place, size in enumerate(sizes)}
        for places in sub_chains(whole):
            label = ARROW.join(sizes[i] for i in places)
            found[label] = self.row(label, family, task, thresholds)
        return found

    def played(self, label: str, task: str | None = None) -> tuple[ChainScores, Played]:
        """A chain of the LLaMA family, and what became of every question at the paper's thresholds."""
        chain = self.of(label, task=task)
        return chain, play(chain, ThresholdPolicy.whole([BOTH] * (len(chain.models) - 1)))

    def one(self, size: str, task: str | None = None) -> ChainScores:
        """One model of the LLaMA family, or the API, by itself."""
        other = next(name for name in LLAMA if name != size)
        return self.of(f"{other}{ARROW}{size}", task=task).keep([1])

    def dollars(self, label: str, task: str | None = None) -> tuple[float, dict[str, float]]:
        """What the last model of a chain costs alone, and per cent of it that the chain saves in each ledger."""
        alone = self.one(label.rpartition(ARROW)[2], task)
        saved = self.row(label, task=task).saved["dollars"] if ARROW in label else {}
        whole = float(pass_costs(alone, "dollars", self.prices).whole.sum())
        return whole, {ledger: 100 * share for ledger, share in saved.items()}


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
