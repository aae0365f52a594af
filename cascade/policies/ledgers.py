"""What a cascade costs, in three ledgers that are always shown side by side.

*answered-only* is the paper's (eq. 6, Table 8): a question is charged to the model that answered it, and the
passes of the models that passed it on are free. *full-path* charges a whole pass to every model that was
tried. *early-exit* charges a model only for what it had to do: ℓ/L of the prefill where its P(IK) probe at
layer ℓ of L rejected the question, the prefill and the first token where that token's P(T) did, and everything
where it answered. A probe is charged with the pass that it reads, where probes have a cost in the unit (FLOPs); a
reader reads, and is charged for, every question in every ledger. A confidence in P(T)'s place that took prompts of its
own (`cascade.scoring.confidence`) is charged with the pass wherever P(T) was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from cascade.errors import CascadeError
from cascade.policies.policy import Outcome
from cascade.scores.arrays import ChainScores, ModelScores

LEDGERS = ("answered-only", "full-path", "early-exit")
UNITS = {
    "flops": "FLOPs, 2N a question (eq. 5 and 6)",
    "flops-context": "FLOPs of every token, with its context (eq. 2)",
    "tokens": "tokens read and written",
    "dollars": "US dollars",
    "seconds": "measured seconds",
    "calls": "calls of the last model, all others free (as RouteLLM counts)",
}
_NEEDS = {
    "flops": ("parameters",),
    "flops-context": ("parameters", "num_layers", "hidden_size", "prompt_tokens", "completion_tokens"),
    "tokens": ("prompt_tokens", "completion_tokens"),
    "dollars": ("prompt_tokens", "completion_tokens"),
    "seconds": ("seconds",),
    "calls": (),
}


@dataclass(frozen=True)
class Prices:
    """What a provider charges.

    Attributes:
        source: Where the prices stand, and when they were read.
        models: Name to US dollars for a million tokens, (prompt, completion).
    """

    source: str
    models: dict[str, tuple[float, float]]


def read_prices(path: Path) -> Prices:
    """Reads prices from YAML: ``source``, ``date`` and ``models``: ``{name: {input: USD, output: USD}}``.

    Dollars are for a million tokens. The paper's Table 12 is `configs/prices/table-12.yaml`.

    Raises:
        CascadeError: If the file is missing or does not have that form.
    """
    if not path.exists():
        raise CascadeError(f"Expected prices at {path}, but there is no such file")
    try:
        content = yaml.safe_load(path.read_text())
        models = {str(n): (float(p["input"]), float(p["output"])) for n, p in content["models"].items()}
        source = f"{content['source']}, {content['date']}"
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        form = "source, date, and models: {name: {input: USD, output: USD}}"
        raise CascadeError(f"Expected {path} to hold {form}, but reading it failed ({error!r})") from error
    for name, pair in models.items():
        if not all(np.isfinite(p) and p >= 0 for p in pair):
            raise CascadeError(f"Expected the prices of {name!r} in {path} to be at least 0, but got {pair}")
    return Prices(source, models)


def pass_flops(parameters: int) -> float:
    """FLOPs of a forward pass for one token, C ≈ 2N (eq. 5)."""
    return 2.0 * parameters


@dataclass(frozen=True)
class PassCosts:
    """What the passes of a chain's models cost, in one unit.

    Attributes:
        unit: One of `UNITS`.
        prefill: ``[models, questions]``, float64: reading the question, up to the first token.
        decode: ``[models, questions]``, float64: what is generated.
        first: ``[models, questions]``, float64: the part of ``decode`` that P(T) needs, where the first token has a
            price of its own; all of it where P(T) is known only after the whole answer.
        probe: ``[models]``, float64: one P(IK) probe.
        reader: ``[models, questions]``, float64: the pass of the model that ``p_ik_reader`` was read from; NaN where
            it is not known, 0 where there is none.
        readers: Its name for each model; models of one reader share its pass.
        confidence: ``[models, questions]``, float64: what P(T) took beyond the answer's own pass.
    """

    unit: str
    prefill: np.ndarray
    decode: np.ndarray
    first: np.ndarray
    probe: np.ndarray
    reader: np.ndarray
    readers: tuple[str, ...]
    confidence: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """``[models, questions]``: prefill and decode together."""
        return np.asarray(self.prefill + self.decode)

    def keep(self, places: Sequence[int]) -> PassCosts:
        """Those of a sub-chain."""
        chosen = list(places)
        arrays = ("prefill", "decode", "first", "probe", "reader", "confidence")
        rows = {name: getattr(self, name)[chosen] for name in arrays}
        return replace(self, **rows, readers=tuple(self.readers[i] for i in chosen))

    def reading(self, places: Sequence[int]) -> np.ndarray:
        """What the readers of these models cost for each question, ``[questions]``; one that serves several once."""
        distinct = {self.readers[i]: self.reader[i] for i in places}
        return np.asarray(sum(distinct.values(), np.zeros(self.prefill.shape[1])))


def available_units(chain: ChainScores, prices: Prices | None = None) -> tuple[str, ...]:
    """The units that the score table has what it takes for; *calls* where it has nothing else."""

    def known(unit: str) -> bool:
        if unit == "dollars" and (prices is None or any(m.name not in prices.models for m in chain.models)):
            return False
        return all(getattr(m, name) is not None for m in chain.models for name in _NEEDS[unit])

    found = tuple(unit for unit in UNITS if unit != "calls" and known(unit))
    return found or ("calls",)


def pass_costs(chain: ChainScores, unit: str = "flops", prices: Prices | None = None) -> PassCosts:
    """What every model's pass costs for every question.

    Args:
        chain: The scores.
        unit: One of `UNITS`. *flops*: 2N a question, as the paper counts. *flops-context*: eq. 2 for each token,
            n_ctx being the tokens before it and itself. *seconds*: where ``prefill_seconds`` is not measured,
            all of ``seconds`` counts as prefill, which overstates what a rejected question costs.
        prices: For dollars.

    Raises:
        CascadeError: If the unit is unknown, or a model lacks what it takes; the model and the column are named.
    """
    if unit not in UNITS:
        raise CascadeError(f"Expected `unit` to be one of {', '.join(UNITS)}, but got {unit!r}")
    for model in chain.models:
        if lacking := [name for name in _NEEDS[unit] if getattr(model, name) is None]:
            raise CascadeError(
                f"Expected the scores of {model.name!r} to have {', '.join(lacking)} in every row, to count {unit}"
            )
        if unit == "dollars" and (prices is None or model.name not in prices.models):
            known = ", ".join(prices.models) if prices else "none given"
            raise CascadeError(f"Expected `prices` to hold {model.name!r}, but it has: {known}")
    shape = (len(chain.models), len(chain))
    prefill, decode, first = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for place, model in enumerate(chain.models):
        if unit == "calls":
            prefill[place] = float(place == len(chain.models) - 1)
            continue
        prefill[place], decode[place] = _pass_cost(model, unit, prices)
        if model.p_t_needs_answer:
            first[place] = decode[place]
        elif unit in ("tokens", "dollars"):
            assert model.completion_tokens is not None
            first[place] = decode[place] / np.maximum(model.completion_tokens, 1)
    per_token = unit in ("flops", "flops-context")
    probe = [pass_flops(m.probe_parameters) if per_token else 0.0 for m in chain.models]
    reader = np.stack([np.broadcast_to(_reader_cost(m, unit), len(chain)) for m in chain.models])
    readers = tuple(m.reader or f"reader of {m.name}" for m in chain.models)
    extra = np.stack([np.broadcast_to(_confidence_cost(m, unit, prices), len(chain)) for m in chain.models])
    return PassCosts(unit, prefill, decode, first, np.array(probe), reader, readers, extra)


def _pass_cost(model: ModelScores, unit: str, prices: Prices | None) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Prefill and decode of one model, each a number or ``[questions]``."""
    if unit == "flops":
        assert model.parameters is not None
        return pass_flops(model.parameters), 0.0
    if unit == "seconds":
        assert model.seconds is not None
        if model.prefill_seconds is None:
            return model.seconds, 0.0
        return model.prefill_seconds, np.maximum(model.seconds - model.prefill_seconds, 0)
    assert model.prompt_tokens is not None and model.completion_tokens is not None
    read = model.prompt_tokens.astype(float)
    # The prefill gives the first token's probabilities: of c tokens, c - 1 take a pass of their own.
    more = np.maximum(model.completion_tokens.astype(float) - 1, 0)
    if unit == "tokens":
        return read, model.completion_tokens.astype(float)
    if unit == "dollars":
        assert prices is not None
        for_input, for_output = prices.models[model.name]
        return read * for_input / 1e6, model.completion_tokens * for_output / 1e6
    assert model.parameters is not None and model.num_layers is not None and model.hidden_size is not None
    context = 2.0 * model.num_layers * model.hidden_size
    # Σ n_ctx over the tokens 1 … T, and over T+1 … T+c-1.
    return (
        pass_flops(model.parameters) * read + context * read * (read + 1) / 2,
        pass_flops(model.parameters) * more + context * (more * read + more * (more + 1) / 2),
    )


def _confidence_cost(model: ModelScores, unit: str, prices: Prices | None) -> np.ndarray | float:
    """What P(T) took beyond the answer's own pass, a number or ``[questions]``: passes of their own, as a chain's are.

    A question's prompts are taken to be of one length, for the context of their tokens (eq. 2).
    """
    if model.p_t_prompts is None or unit == "calls":
        return 0.0
    prompts = np.maximum(model.p_t_prompts.astype(float), 1)

    def each(total: np.ndarray | None, name: str) -> np.ndarray:
        if total is None:
            raise CascadeError(
                f"Expected the scores of {model.name!r} to have {name} in every row, to count {unit} of what p_t took"
            )
        return np.asarray(total / prompts)

    if unit == "flops":
        assert model.parameters is not None
        return np.asarray(pass_flops(model.parameters) * model.p_t_prompts)
    if unit == "seconds":
        return np.asarray(each(model.p_t_seconds, "p_t_seconds") * prompts)
    one = replace(
        model,
        prompt_tokens=each(model.p_t_prompt_tokens, "p_t_prompt_tokens"),
        completion_tokens=each(model.p_t_completion_tokens, "p_t_completion_tokens"),
    )
    read, written = _pass_cost(one, unit, prices)
    return np.asarray(prompts * (read + written))


def _reader_cost(model: ModelScores, unit: str) -> np.ndarray | float:
    """The pass of a model's reader, a number or ``[questions]``."""
    if model.p_ik_reader is None or unit == "calls":
        return 0.0
    if unit == "tokens":
        assert model.prompt_tokens is not None
        return model.prompt_tokens.astype(float)
    if unit in ("flops", "flops-context") and model.reader_parameters is not None:
        one = pass_flops(model.reader_parameters)
        if unit == "flops":
            return one
        assert model.prompt_tokens is not None
        return one * model.prompt_tokens.astype(float)
    return float("nan")  # not known, and not nothing


def charges(
    costs: PassCosts,
    exit_shares: Sequence[float],
    ledger: str,
    asks_p_ik: Sequence[bool],
    asks_p_t: Sequence[bool] | None = None,
) -> np.ndarray:
    """What each model charges for each question, by what became of it there.

    Args:
        costs: From `pass_costs`.
        exit_shares: For each model ℓ/L, the share of the prefill after which its probe can reject.
        ledger: One of `LEDGERS`.
        asks_p_ik: For each model whether its probe is asked.
        asks_p_t: For each model whether its P(T) is asked, so that what that took is charged where the model answers,
            too; nowhere if not given.

    Returns:
        ``[outcomes, models, questions]``, float64, the first axis in the order of `Outcome`.

    Raises:
        CascadeError: If the ledger is unknown.
    """
    if ledger not in LEDGERS:
        raise CascadeError(f"Expected `ledger` to be one of {', '.join(LEDGERS)}, but got {ledger!r}")
    probe = (costs.probe * np.asarray(asks_p_ik, dtype=float))[:, None]
    whole = costs.whole + probe
    charged = np.zeros((len(Outcome), *whole.shape))
    asked = np.zeros(len(whole)) if asks_p_t is None else np.asarray(asks_p_t, dtype=float)
    charged[Outcome.ANSWERED] = whole + costs.confidence * asked[:, None]
    if ledger == "full-path":
        charged[Outcome.REJECTED_BY_P_IK] = whole
        charged[Outcome.REJECTED_BY_P_T] = whole + costs.confidence
    elif ledger == "early-exit":
        shares = np.asarray(exit_shares, dtype=float)[:, None]
        charged[Outcome.REJECTED_BY_P_IK] = shares * costs.prefill + probe
        charged[Outcome.REJECTED_BY_P_T] = costs.prefill + costs.first + probe + costs.confidence
    return charged


def question_costs(outcome: np.ndarray, charged: np.ndarray) -> np.ndarray:
    """What each question cost in all, ``[questions]``.

    Args:
        outcome: ``[models, questions]`` of `Outcome`.
        charged: From `charges`.
    """
    spent: np.ndarray = np.take_along_axis(charged, outcome[None].astype(np.intp), axis=0)[0].sum(axis=0)
    return spent
