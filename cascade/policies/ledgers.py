"""What a cascade costs, in three ledgers that are always shown side by side.

*answered-only* is the paper's (eq. 6, Table 8). It charges the model that answered, and the models before it are free.
*full-path* charges a whole pass to every model that was tried. *early-exit* charges a model for what it had to do:
ℓ/L of the prefill where its P(IK) probe at layer ℓ of L rejected the question, the prefill and the first token where
that token's P(T) did, and everything where it answered.

Three things come on top. A probe is charged with the pass that it reads, in FLOPs alone. A reader reads every question,
and is charged for every question in every ledger. A confidence in P(T)'s place may have taken prompts of its own
(`cascade.scoring.confidence`): they are charged with the pass wherever P(T) was asked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import yaml

from cascade.errors import CascadeError
from cascade.policies.outcome import Outcome
from cascade.scores.columns import ModelInfo, Usage
from cascade.yaml_files import find_yaml

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
    path = find_yaml(path)
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


class Counted(Protocol):
    """What has a cost: models, and what their passes took of the same questions. A chain's scores are that."""

    @property
    def infos(self) -> tuple[ModelInfo, ...]:
        """The models, smallest first."""
        ...

    @property
    def usages(self) -> tuple[Usage, ...]:
        """One each."""
        ...


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
        exit_shares: ``[models]``, float64: ℓ/L, the share of the prefill after which the probe can reject.
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
    exit_shares: np.ndarray
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
        arrays = ("prefill", "decode", "first", "probe", "exit_shares", "reader", "confidence")
        rows = {name: getattr(self, name)[chosen] for name in arrays}
        return replace(self, **rows, readers=tuple(self.readers[i] for i in chosen))

    def take(self, rows: np.ndarray) -> PassCosts:
        """Those of some of the questions: ``rows`` are places or a mask."""
        arrays = ("prefill", "decode", "first", "reader", "confidence")
        return replace(self, **{name: getattr(self, name)[:, rows] for name in arrays})

    def reading(self, places: Sequence[int]) -> np.ndarray:
        """What it costs for each question to ask the readers of these models, ``[questions]``.

        A reader that several of the models share reads a question once, and is charged once.
        """
        distinct = {self.readers[i]: self.reader[i] for i in places}
        return np.asarray(sum(distinct.values(), np.zeros(self.prefill.shape[1])))


def available_units(chain: Counted, prices: Prices | None = None) -> tuple[str, ...]:
    """The units that every model can be counted in; *calls* where there is no other."""

    def known(unit: str) -> bool:
        return not any(_lacking(unit, *model, prices) for model in zip(chain.infos, chain.usages, strict=True))

    found = tuple(unit for unit in UNITS if unit != "calls" and known(unit))
    return found or ("calls",)


def _priced(info: ModelInfo, usage: Usage, prices: Prices | None) -> bool:
    """Whether a model's dollars are its tokens at a price, and not those that were logged."""
    named = prices is not None and info.name in prices.models
    return named or usage.cost_usd is None or usage.p_t_prompts is not None


def _lacking(unit: str, info: ModelInfo, usage: Usage, prices: Prices | None) -> list[str]:
    """What a model lacks to be counted in a unit."""
    if unit == "dollars":
        if not _priced(info, usage, prices):
            return []
        if prices is None or info.name not in prices.models:
            return ["cost_usd"]
    return [name for name in _NEEDS[unit] if getattr(usage if hasattr(usage, name) else info, name) is None]


def pass_costs(chain: Counted, unit: str = "flops", prices: Prices | None = None) -> PassCosts:
    """What every model's pass costs for every question.

    Args:
        chain: The models of a chain, or a single one, with what their passes took.
        unit: One of `UNITS`. *flops*: 2N a question, as the paper counts. *flops-context*: eq. 2 for each token,
            n_ctx being the tokens before it and itself. *seconds*: where ``prefill_seconds`` is not measured,
            all of ``seconds`` counts as prefill, which overstates what a rejected question costs. *dollars*: tokens at
            a price, or where a model has none those that were logged, which count as prefill for the same reason.
        prices: For dollars.

    Raises:
        CascadeError: If the unit is unknown, or a model lacks what it takes; the model and the column are named.
    """
    if unit not in UNITS:
        raise CascadeError(f"Expected `unit` to be one of {', '.join(UNITS)}, but got {unit!r}")
    for model, usage in zip(chain.infos, chain.usages, strict=True):
        unpriced = prices is None or model.name not in prices.models
        if unit == "dollars" and unpriced and _priced(model, usage, prices):
            known = ", ".join(prices.models) if prices else "none given"
            raise CascadeError(
                f"Expected `prices` to hold {model.name!r}, or its scores cost_usd in every row, but it has: {known}"
            )
        if lacking := _lacking(unit, model, usage, prices):
            raise CascadeError(
                f"Expected the scores of {model.name!r} to have {', '.join(lacking)} in every row, to count {unit}"
            )
    models, questions = tuple(zip(chain.infos, chain.usages, strict=True)), len(chain.usages[0])
    shape = (len(models), questions)
    prefill, decode, first = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for place, (info, usage) in enumerate(models):
        if unit == "calls":
            prefill[place] = float(place == len(models) - 1)
            continue
        prefill[place], decode[place] = _pass_cost(info, usage, unit, prices)
        if info.p_t_needs_answer:
            first[place] = decode[place]
        elif unit == "tokens" or (unit == "dollars" and _priced(info, usage, prices)):
            assert usage.completion_tokens is not None
            first[place] = decode[place] / np.maximum(usage.completion_tokens, 1)
    per_token = unit in ("flops", "flops-context")
    return PassCosts(
        unit,
        prefill,
        decode,
        first,
        probe=np.array([pass_flops(info.probe_parameters) if per_token else 0.0 for info, _ in models]),
        exit_shares=np.array([info.exit_share for info, _ in models], dtype=float),
        reader=np.stack([np.broadcast_to(_reader_cost(*model, unit), questions) for model in models]),
        readers=tuple(info.reader or f"reader of {info.name}" for info, _ in models),
        confidence=np.stack([np.broadcast_to(_confidence_cost(*model, unit, prices), questions) for model in models]),
    )


def _pass_cost(
    info: ModelInfo, usage: Usage, unit: str, prices: Prices | None
) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Prefill and decode of one model, each a number or ``[questions]``."""
    if unit == "flops":
        assert info.parameters is not None
        return pass_flops(info.parameters), 0.0
    if unit == "seconds":
        assert usage.seconds is not None
        if usage.prefill_seconds is None:
            return usage.seconds, 0.0
        return usage.prefill_seconds, np.maximum(usage.seconds - usage.prefill_seconds, 0)
    if unit == "dollars" and not _priced(info, usage, prices):
        assert usage.cost_usd is not None
        return usage.cost_usd, 0.0
    assert usage.prompt_tokens is not None and usage.completion_tokens is not None
    read = usage.prompt_tokens.astype(float)
    # The prefill gives the first token's probabilities: of c tokens, c - 1 take a pass of their own.
    more = np.maximum(usage.completion_tokens.astype(float) - 1, 0)
    if unit == "tokens":
        return read, usage.completion_tokens.astype(float)
    if unit == "dollars":
        assert prices is not None
        for_input, for_output = prices.models[info.name]
        return read * for_input / 1e6, usage.completion_tokens * for_output / 1e6
    assert info.parameters is not None and info.num_layers is not None and info.hidden_size is not None
    context = 2.0 * info.num_layers * info.hidden_size
    # Σ n_ctx over the tokens 1 … T, and over T+1 … T+c-1.
    return (
        pass_flops(info.parameters) * read + context * read * (read + 1) / 2,
        pass_flops(info.parameters) * more + context * (more * read + more * (more + 1) / 2),
    )


def _confidence_cost(info: ModelInfo, usage: Usage, unit: str, prices: Prices | None) -> np.ndarray | float:
    """What P(T) took beyond the answer's own pass, a number or ``[questions]``.

    Its prompts are counted like any pass. All prompts of a question are taken to be of one length, since eq. 2 counts a
    token by its context.
    """
    if usage.p_t_prompts is None or unit == "calls":
        return 0.0
    prompts = np.maximum(usage.p_t_prompts.astype(float), 1)

    def each(total: np.ndarray | None, name: str) -> np.ndarray:
        if total is None:
            raise CascadeError(
                f"Expected the scores of {info.name!r} to have {name} in every row, to count {unit} of what p_t took"
            )
        return np.asarray(total / prompts)

    if unit == "flops":
        assert info.parameters is not None
        return np.asarray(pass_flops(info.parameters) * usage.p_t_prompts)
    if unit == "seconds":
        return np.asarray(each(usage.p_t_seconds, "p_t_seconds") * prompts)
    one = replace(
        usage,
        prompt_tokens=each(usage.p_t_prompt_tokens, "p_t_prompt_tokens"),
        completion_tokens=each(usage.p_t_completion_tokens, "p_t_completion_tokens"),
    )
    read, written = _pass_cost(info, one, unit, prices)
    return np.asarray(prompts * (read + written))


def _reader_cost(info: ModelInfo, usage: Usage, unit: str) -> np.ndarray | float:
    """The pass of a model's reader, a number or ``[questions]``."""
    if info.reader is None or unit == "calls":
        return 0.0
    if unit == "tokens":
        assert usage.prompt_tokens is not None
        return usage.prompt_tokens.astype(float)
    if unit in ("flops", "flops-context") and info.reader_parameters is not None:
        one = pass_flops(info.reader_parameters)
        if unit == "flops":
            return one
        assert usage.prompt_tokens is not None
        return one * usage.prompt_tokens.astype(float)
    return float("nan")  # unknown, which is not the same as free


def charges(costs: PassCosts, ledger: str, asks: Sequence[Collection[str]]) -> np.ndarray:
    """What each model charges for each question, by what became of it there.

    Args:
        costs: From `pass_costs`.
        ledger: One of `LEDGERS`.
        asks: For each model the confidences that a policy decides by there, as `Policy.asks` gives them. Where p_ik is
            among them, the probe is charged. Where p_t is, the prompts that P(T) took are charged even if the model
            answers; where P(T) rejected a question, it was asked.

    Returns:
        ``[outcomes, models, questions]``, float64, the first axis in the order of `Outcome`.

    Raises:
        CascadeError: If the ledger is unknown.
    """
    check_ledger(ledger)
    return np.stack(
        [
            np.stack([charge(costs, ledger, place, outcome, asked) for place, asked in enumerate(asks)])
            for outcome in Outcome
        ]
    )


def check_ledger(ledger: str) -> None:
    """Raises `CascadeError` unless a ledger is one of `LEDGERS`."""
    if ledger not in LEDGERS:
        raise CascadeError(f"Expected `ledger` to be one of {', '.join(LEDGERS)}, but got {ledger!r}")


def charge(costs: PassCosts, ledger: str, place: int, outcome: Outcome, asked: Collection[str]) -> np.ndarray:
    """What the model at a place charges for each question that an outcome came of; see `charges`.

    Args:
        costs: From `pass_costs`.
        ledger: One of `LEDGERS`.
        place: Of the model.
        outcome: What became of the questions there.
        asked: The confidences that a policy decides by there.

    Returns:
        ``[questions]``, float64.
    """
    probe = costs.probe[place] * ("p_ik" in asked)
    whole = costs.prefill[place] + costs.decode[place] + probe
    if outcome == Outcome.ANSWERED:
        return np.asarray(whole + costs.confidence[place] * ("p_t" in asked))
    if ledger == "full-path" and outcome == Outcome.REJECTED_BY_P_IK:
        return np.asarray(whole)
    if ledger == "full-path" and outcome == Outcome.REJECTED_BY_P_T:
        return np.asarray(whole + costs.confidence[place])
    if ledger == "early-exit" and outcome == Outcome.REJECTED_BY_P_IK:
        return np.asarray(costs.exit_shares[place] * costs.prefill[place] + probe)
    if ledger == "early-exit" and outcome == Outcome.REJECTED_BY_P_T:
        return np.asarray(costs.prefill[place] + costs.first[place] + probe + costs.confidence[place])
    return np.zeros(whole.shape)


def question_costs(outcome: np.ndarray, charged: np.ndarray) -> np.ndarray:
    """What each question cost in all, ``[questions]``.

    Args:
        outcome: ``[models, questions]`` of `Outcome`.
        charged: From `charges`.
    """
    spent: np.ndarray = np.take_along_axis(charged, outcome[None].astype(np.intp), axis=0)[0].sum(axis=0)
    return spent
