"""What a cascade is made of, as YAML or keyword arguments, and how it is put together.

One entry a model, smallest first: a local decoder with its probe, or an OpenAI-compatible endpoint. The policy is two
thresholds for every stage, or whatever `cascade.simulate` chose, read from its report.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser
from jsonargparse.typing import register_type

from cascade.engines.base import EngineConfig, Price
from cascade.engines.settings import read_settings, settings_of
from cascade.errors import CascadeError
from cascade.policies.ledgers import Prices
from cascade.yaml_files import find_yaml

_OF_THRESHOLDS = "p_t p_ik p_ik_reader".split()
DEFAULT_CHAIN = "mini-llama-small,mini-llama-medium,mini-llama-large"


@dataclass(frozen=True, init=False)
class ReaderSettings:
    """Who reads the question for a model before that is run.

    ``ReaderSettings(encoder=…, probe=…)``: as in YAML, what is not of the reader is of its engine.

    Attributes:
        settings: Of the engine that reads: a decoder, an encoder, or another that shows hidden states.
        probe: Folder or Hub id of the probe that predicts the model.
    """

    settings: EngineConfig
    probe: str

    def __init__(self, settings: EngineConfig | None = None, *, probe: str, **engine: Any) -> None:
        found = settings or settings_of(engine, "a reader", keys=("model", "encoder"))
        if not found.shows_states:
            raise CascadeError(
                f"Expected a reader that shows hidden states, but got {found.called}, {found.name!r}, which shows none"
            )
        object.__setattr__(self, "settings", found)
        object.__setattr__(self, "probe", probe)

    @classmethod
    def read(cls, values: Any) -> ReaderSettings:
        """From an entry of YAML.

        Raises:
            CascadeError: If it is none of a reader.
        """
        if not isinstance(values, Mapping) or not isinstance(values.get("probe"), str):
            raise CascadeError(f"Expected `reader` to have `model` or `encoder`, and a `probe`, but got {values!r}")
        engine = {name: value for name, value in values.items() if name != "probe"}
        return cls(read_settings(engine, "a reader", keys=("model", "encoder")), probe=values["probe"])


@dataclass(frozen=True, init=False)
class Member:
    """One model of a cascade: ``model`` for a decoder on this machine, ``endpoint`` for one behind an API.

    ``Member(model=…, dtype=…, probe=…)``, ``Member(endpoint=…, base_url=…)``, ``Member(engine=NAME, …)``: as in YAML,
    what is not of the member is of its engine, whose settings say what there is.

    Attributes:
        settings: Of its engine.
        probe: Folder or Hub id of its P(IK) probe, or ``none``. By default a miniature has the one that is shipped
            with it. Any other model has, where P(IK) is asked, the best one that was trained for it under the folder
            of runs.
        reader: Who says P(IK) of this model before it is run.
    """

    settings: EngineConfig
    probe: str | None = None
    reader: ReaderSettings | None = None

    def __init__(
        self,
        settings: EngineConfig | None = None,
        *,
        probe: str | None = None,
        reader: ReaderSettings | None = None,
        **engine: Any,
    ) -> None:
        own = () if probe in (None, "none") else ("probe",)
        found = settings or settings_of(engine, own=own)
        if not found.answers:
            raise CascadeError(f"Expected models that answer, but got {found.called}, {found.name!r}, which only reads")
        for name, value in (("settings", found), ("probe", probe), ("reader", reader)):
            object.__setattr__(self, name, value)

    @classmethod
    def read(cls, values: Any) -> Member:
        """From an entry of YAML.

        Raises:
            CascadeError: If it is none of a model.
        """
        if not isinstance(values, Mapping):
            raise CascadeError(f"Expected each of `models` to have `model` or `endpoint`, but got {values!r}")
        engine = {name: value for name, value in values.items() if name not in ("probe", "reader")}
        probe, reader = values.get("probe"), values.get("reader")
        if probe is not None and not isinstance(probe, str):
            raise CascadeError(f"Expected `probe` to be a folder, a Hub id or none, but got {probe!r}")
        settings = read_settings(engine, own=() if probe in (None, "none") else ("probe",))
        return cls(settings, probe=probe, reader=None if reader is None else ReaderSettings.read(reader))

    def to_yaml(self) -> dict[str, Any]:
        """As `read` takes it back."""
        values = self.settings.entry() | ({} if self.probe is None else {"probe": self.probe})
        if self.reader is not None:
            values["reader"] = self.reader.settings.entry() | {"probe": self.reader.probe}
        return values

    @property
    def name(self) -> str:
        """As score tables call it."""
        return self.settings.name

    @property
    def price(self) -> Price | None:
        """What a provider charges."""
        return self.settings.price


@dataclass(frozen=True)
class FreeTextSettings:
    """How a server asks and judges messages that are neither multiple choice nor prompts of Table 7.

    Attributes:
        signal: What stands in P(T)'s place: likelihood (the mean token log-probability, as a probability), minimum
            (the least probable token) or first_token.
        p_t: Its threshold at every stage.
        policy: Instead, report.json of a simulation on that signal (``--columns.p_t=confidence_SIGNAL``).
        max_tokens: Of an answer, where a request does not say.
    """

    signal: Literal["likelihood", "minimum", "first_token"]
    p_t: float | None = None
    policy: Path | None = None
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        if (self.p_t is None) == (self.policy is None):
            got = "neither" if self.p_t is None else "both"
            raise CascadeError(f"Expected `p_t` or `policy` of `free_text`, but got {got}")


register_type(Member, serializer=Member.to_yaml, deserializer=Member.read)


@dataclass(frozen=True)
class CascadeConfig:
    """A whole cascade.

    Attributes:
        chain: Local models with nothing more to say of them, smallest first, separated by commas.
        each: Settings of every model of ``chain``, such as dtype.
        models: Instead of ``chain``, one entry a model.
        name: What a server calls the whole.
        policy: report.json of `cascade.simulate`, or a JSON file of one policy; instead of thresholds, which stay as
            they are by default.
        p_t: P(T) threshold of every stage.
        p_ik: P(IK) threshold of every stage whose model shows hidden states; each of these needs a probe.
        p_ik_reader: Threshold of every stage that has a reader.
        normalize: Decide by P(T) over the options' mass instead of the raw one, where a question has options. By
            default as the policy's file says, and the raw one where there is none.
        calibration: Score tables of the questions that chose the policy, to watch for drift and to choose by budget;
            for miniatures they are shipped.
        keep_loaded: Keep every model in memory; without, a file of questions is answered one model after another.
        shots: Examples in each prompt, from the dev split of the task that is asked; as the probes were trained with.
        free_text: How a server asks and judges any other message; by default in the paper's open-ended words, by P(T).
        any_order: Take the models as they stand, where they do not become larger or dearer.
    """

    chain: str | None = None
    each: dict[str, Any] = field(default_factory=dict)
    models: list[Member] = field(default_factory=list)
    name: str = "cascade"
    policy: Path | None = None
    p_t: float | None = 0.9
    p_ik: float | None = 0.5
    p_ik_reader: float | None = None
    normalize: bool | None = None
    calibration: list[Path] = field(default_factory=list)
    keep_loaded: bool = True
    shots: int = 0
    free_text: FreeTextSettings | None = None
    any_order: bool = False

    def __post_init__(self) -> None:
        if self.chain is not None and self.models:
            raise CascadeError("Expected `chain` or `models`, but got both")
        if self.each and self.models:
            raise CascadeError("Expected `each` for the models of `chain`, but got `models`, which have their own")
        if self.policy is not None and (given := _given(self, _OF_THRESHOLDS)):
            shown = ", ".join(f"{name}={getattr(self, name)}" for name in given)
            raise CascadeError(
                f"Expected `policy` or thresholds, but got both: {self.policy}, which has its own, and {shown}"
            )

    @classmethod
    def read(cls, path: Path | str | None) -> CascadeConfig:
        """From a YAML file; the default where there is none.

        Raises:
            CascadeError: If there is no such file, or it is none of a cascade.
        """
        if path is None:
            return cls()
        path = find_yaml(path)
        if not path.is_file():
            raise CascadeError(f"Expected a cascade's configuration at {path}, but there is no such file")
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls)
        try:
            values = parser.instantiate(parser.parse_path(path))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise CascadeError(f"Expected {path} to be a cascade's configuration, but {reason}") from error
        return cls(**values.as_dict()) if not isinstance(values, cls) else values

    @property
    def members(self) -> tuple[Member, ...]:
        """The models, smallest first."""
        if self.models:
            return tuple(self.models)
        names = (self.chain or DEFAULT_CHAIN).split(",")
        named = [name.strip() for name in names if name.strip()]
        if not self.each:  # nothing to be checked, for which torch would be loaded
            return tuple(Member(model=name) for name in named)
        return tuple(Member.read({"model": name, **self.each}) for name in named)

    @property
    def is_given(self) -> bool:
        """Whether it says which models it is made of."""
        return self.chain is not None or bool(self.models)

    @property
    def prices(self) -> Prices | None:
        """What the providers charge, where there is a price for every model."""
        priced = {m.name: (m.price.input, m.price.output) for m in self.members if m.price is not None}
        return Prices("the configuration", priced) if len(priced) == len(self.members) else None


def _given(settings: CascadeConfig, names: list[str]) -> list[str]:
    """Those settings that are not as they are by default."""
    return [f.name for f in fields(settings) if f.name in names and getattr(settings, f.name) != f.default]
