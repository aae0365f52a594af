"""A language model as judge, behind any OpenAI-compatible endpoint.

Requests go through `cascade.engines.endpoint`, which retries, caches replies on disk and keeps to the spending cap. A
run that was cut off goes on from the cache. A verdict that cannot be read is asked for again, and never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser

from cascade.engines.base import Engine, Failure, Prompt
from cascade.engines.settings import EndpointConfig
from cascade.errors import CascadeError
from cascade.judging.base import Case
from cascade.judging.evidence import Evidence, EvidenceFile
from cascade.judging.prompt import Template, UnreadableVerdictError, read_verdict
from cascade.tasks.judging import Verdict
from cascade.yaml_files import find_yaml


@dataclass(frozen=True)
class JudgeConfig(EndpointConfig):
    """An LLM judge, as YAML: an endpoint's settings, and what it is asked.

    Attributes:
        prompt: Template of the prompt; by default ours, `cascade/judging/prompt.txt`.
        evidence: JSON lines of ``id`` and ``evidence`` for the judge to read.
        cache: SQLite file of the replies and of what was spent.
        max_tokens: The longest reply.
        asks: How often one case is asked for a verdict that can be read.
    """

    cache: Path = Path("runs/judge.sqlite")
    prompt: Path | None = None
    evidence: Path | None = None
    max_tokens: int = 256
    asks: int = 3

    def __post_init__(self) -> None:
        for name in ("max_tokens", "asks"):
            if getattr(self, name) < 1:
                raise CascadeError(f"Expected `{name}` of the judge to be at least 1, but got {getattr(self, name)}")

    @classmethod
    def read(cls, path: Path | str) -> JudgeConfig:
        """From a YAML file.

        Raises:
            CascadeError: If there is no such file, or it is not a judge's configuration.
        """
        path = find_yaml(path)
        if not path.is_file():
            raise CascadeError(f"Expected a judge's configuration at {path}, but there is no such file")
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls)
        try:
            values = parser.instantiate(parser.parse_path(path))
        except Exception as error:
            raise CascadeError(f"Expected {path} to be a judge's configuration, but {error}") from error
        return cls(**values.as_dict())


class LLMJudge:
    """Asks a model for the verdict.

    Args:
        model: Any model that continues a prompt.
        template: The prompt.
        evidence: What bears on each question; without it none is shown.
        max_tokens: The longest reply.
        asks: How often one case is asked for a verdict that can be read.
    """

    def __init__(
        self,
        model: Engine,
        template: Template,
        evidence: Evidence | None = None,
        max_tokens: int = 256,
        asks: int = 3,
    ) -> None:
        self.model, self.template, self.evidence = model, template, evidence
        self.max_tokens, self.asks = max_tokens, asks

    @classmethod
    def from_config(cls, config: JudgeConfig, evidence: Evidence | None = None) -> LLMJudge:
        """The judge that a configuration describes; nothing is sent yet.

        Args:
            config: As YAML has it.
            evidence: A search of one's own, say, instead of the configuration's file.

        Raises:
            CascadeError: If there are two sources of evidence, or a file is not what it has to be.
        """
        if evidence is not None and config.evidence is not None:
            raise CascadeError(f"Expected one source of `evidence`, but got a function and {config.evidence}")
        if config.evidence is not None:
            evidence = EvidenceFile(config.evidence)
        template = Template.read(config.prompt, with_evidence=evidence is not None)
        return cls(config.build(needs_confidence=False), template, evidence, config.max_tokens, config.asks)

    def judge(self, cases: Sequence[Case], on_verdict: Callable[[], None] | None = None) -> list[Verdict]:
        """See `cascade.judging.base.Judge`. Every case is asked before one without a verdict is complained of."""
        evidence = [() if self.evidence is None else tuple(self.evidence(case.question)) for case in cases]
        found: dict[int, Verdict] = {}
        wrong: dict[int, str] = {}
        left = list(range(len(cases)))
        for round in range(self.asks):
            prompts = [
                Prompt(
                    cases[i].question.id,
                    self.template.fill(cases[i], evidence[i], reminders=round),
                    answer_prefix=False,
                    max_new_tokens=self.max_tokens,
                )
                for i in left
            ]
            replies = self.model.answer(prompts, on_token=_counting(on_verdict) if round == 0 else None)
            again = []
            for i, reply in zip(left, replies, strict=True):
                if isinstance(reply, Failure):
                    wrong[i] = reply.reason
                    continue
                try:
                    found[i] = read_verdict(reply.text)
                except UnreadableVerdictError as error:
                    wrong[i] = str(error)
                    again.append(i)
            left = again
            if not left:
                break
        if lost := sorted(set(range(len(cases))) - set(found)):
            first = lost[0]
            raise CascadeError(
                f"Expected a verdict on every answer, but {len(lost):,} of {len(cases):,} have none, such as the one "
                f"to question {cases[first].question.id!r}: {wrong[first]}"
                + ("; what was judged is stored" if found else "")
            )
        return [found[i] for i in range(len(cases))]


def _counting(on_verdict: Callable[[], None] | None) -> Callable[[int, str], None] | None:
    """What counts a model's replies as they come: endpoints give each text in one piece."""
    return None if on_verdict is None else lambda place, text: on_verdict()
