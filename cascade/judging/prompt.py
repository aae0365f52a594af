"""What an LLM judge is asked, from a template that users may change, and how its verdict is read.

Questions, answers and evidence are data, and must not give orders to the judge. Each stands between marks with a code
that is made from the contents, so that no text can close its own block or open another.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cascade.errors import CascadeError
from cascade.judging.base import Case
from cascade.tasks.judging import Verdict

DEFAULT_TEMPLATE = Path(__file__).with_name("prompt.txt")
PLACEHOLDERS = ("question", "answers", "prediction", "evidence")

_VERDICT_LINE = re.compile(r"[\s*_#>`\"'-]*verdict\s*[*_`]*\s*:[\s*_`\"']*([a-z _-]+?)[\s*_`\"'.]*", re.IGNORECASE)
_WORDS = {"correct": Verdict.CORRECT, "incorrect": Verdict.INCORRECT, "not attempted": Verdict.NOT_ATTEMPTED}


class UnreadableVerdictError(Exception):
    """A judge's reply that holds no verdict, or several. The message is one line."""


@dataclass(frozen=True)
class Template:
    """A judge's prompt with its placeholders ``{question}``, ``{answers}``, ``{prediction}`` and ``{evidence}``.

    Attributes:
        text: With each placeholder once or more; a brace that is meant as such is doubled. ``{evidence}`` may be left
            out where there is none to show.
        source: Names it in errors.
        with_evidence: Whether there is evidence to show.

    Raises:
        CascadeError: If a placeholder is missing or unknown, or a brace stands alone.
    """

    text: str
    source: str
    with_evidence: bool = False

    def __post_init__(self) -> None:
        try:
            fields = _fields(self.text)
        except ValueError as error:
            raise CascadeError(
                f"Expected the judge's prompt {self.source} to have placeholders {_named(PLACEHOLDERS)} and all other "
                f"braces doubled, but {error}"
            ) from error
        wanted = PLACEHOLDERS if self.with_evidence else PLACEHOLDERS[:-1]
        missing = [name for name in wanted if name not in fields]
        unknown = sorted(set(fields) - set(PLACEHOLDERS))
        if missing or unknown:
            wrong = [f"{_named(missing)} missing"] if missing else []
            wrong += [f"{_named(unknown)} unknown"] if unknown else []
            raise CascadeError(
                f"Expected the judge's prompt {self.source} to have placeholders {_named(wanted)}, but got "
                f"{' and '.join(wrong)}"
            )

    @classmethod
    def read(cls, path: Path | None, with_evidence: bool = False) -> Template:
        """From a file; ours where there is none.

        Raises:
            CascadeError: If there is no such file, or it is not what a template has to be.
        """
        path = path or DEFAULT_TEMPLATE
        if not path.is_file():
            raise CascadeError(f"Expected the judge's prompt at {path}, but there is no such file")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CascadeError(f"Expected the judge's prompt {path} to be text in UTF-8, but {error}") from error
        return cls(text, str(path), with_evidence)

    def fill(self, case: Case, evidence: Sequence[str] = (), reminders: int = 0) -> str:
        """The prompt for one case.

        Args:
            case: The question and the answer to be judged.
            evidence: What may help.
            reminders: How many replies to it had no verdict that could be read; each makes another prompt, so that
                a cache does not give the same reply again.
        """
        contents = {
            "question": case.question.text,
            "answers": "\n".join(case.question.answers),
            "prediction": case.prediction,
            "evidence": "\n\n".join(evidence) or "(none)",
        }
        # A text would have to hold its own hash to write the mark that ends it.
        code = hashlib.sha256("\0".join(contents.values()).encode("utf-8", "surrogatepass")).hexdigest()[:12]
        blocks = {name: f"<<begin {name} {code}>>\n{text}\n<<end {name} {code}>>" for name, text in contents.items()}
        reminder = (
            f"\n\n(Reminder {reminders}: an earlier reply to this did not end with one of the three verdict lines. The "
            f'last line has to be "Verdict: correct", "Verdict: incorrect" or "Verdict: not attempted".)'
        )
        return self.text.format(**blocks) + (reminder if reminders else "")


def _fields(text: str) -> list[str]:
    """Names of a template's placeholders; raises ValueError for what is none of ours."""
    found = []
    for _, name, spec, conversion in string.Formatter().parse(text):
        if spec or conversion:
            raise ValueError(f"{{{name}}} has a format or a conversion")
        if name is not None:
            found.append(name)
    return found


def _named(names: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


def read_verdict(reply: str) -> Verdict:
    """The verdict of a judge's reply: its last line, ``Verdict: correct``, ``incorrect`` or ``not attempted``.

    Raises:
        UnreadableVerdictError: If the last line is none of these, or an earlier one says another verdict.
    """
    lines = [line for line in reply.strip().splitlines() if line.strip()]
    said = [match[1] for line in lines if (match := _VERDICT_LINE.fullmatch(line))]
    verdicts = [_WORDS.get(" ".join(re.split(r"[\s_-]+", words.lower().strip()))) for words in said]
    if not lines or not _VERDICT_LINE.fullmatch(lines[-1]) or verdicts[-1] is None:
        last = lines[-1].strip()[:80] if lines else ""
        raise UnreadableVerdictError(f"expected a last line such as 'Verdict: correct', but got {last!r}")
    if len(set(verdicts)) > 1:
        raise UnreadableVerdictError(f"expected one verdict, but got {', '.join(said)[:80]!r}")
    return verdicts[-1]
