"""What follows from the paper's own numbers: savings from its counts, and which answers its tests were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scipy import stats

from cascade.statistics.significance import mcnemar
from experiments.paper.numbers import Paper, PaperTable
from experiments.paper.scales import ARROW

# Questions on which two of the paper's models disagree: no more than this, or its accuracies would lie further apart
# than any two of a chain do.
MOST = 160


def reduced_cc(answered: Sequence[float], sizes: Sequence[float], ledger: str) -> float:
    """Share of the last model's compute saved, per cent (eq. 6).

    Args:
        answered: Questions answered at each stage.
        sizes: Parameters of each stage's model.
        ledger: *answered-only* or *full-path*; counts do not say where a question left a model early.
    """
    if ledger == "answered-only":
        passes = list(answered)
    elif ledger == "full-path":
        passes = [sum(answered[stage:]) for stage in range(len(answered))]
    else:
        raise ValueError(f"Expected `ledger` to be answered-only or full-path, but got {ledger!r}")
    spent = sum(n * size for n, size in zip(passes, sizes, strict=True))
    return 100 * (1 - spent / (sum(answered) * sizes[-1]))


def from_counts(paper: Paper, ledger: str, exact: bool = True) -> dict[str, float]:
    """Reduced CC of each chain of Table 8, per cent, by the exact or the nominal numbers of parameters."""
    found = {}
    for label, row in paper.tables[8].rows.items():
        models = label.split(ARROW)
        sizes = [paper.models[m].parameters if exact else paper.models[m].nominal for m in models]
        found[label] = reduced_cc([float(row[m] or 0) for m in models], sizes, ledger)
    return found


def drop(accuracy: float, last: float, relative: bool) -> float:
    """PD: accuracy minus the last model's, as given or as per cent of the latter."""
    return 100 * (accuracy / last - 1) if relative else accuracy - last


def last_of(label: str) -> str:
    """The model that a chain ends with."""
    return label.split(",", 1)[0].split(ARROW)[-1]


def drops(table: PaperTable, relative: bool) -> dict[str, float]:
    """PD of each chain, from the table's own accuracies."""
    rows: Mapping[str, Mapping[str, float]] = table.rows  # type: ignore[assignment]
    return {
        label: drop(row["accuracy"], rows[last_of(label)]["accuracy"], relative)
        for label, row in rows.items()
        if ARROW in label
    }


def discordant(chi2: float | None, p: float | None, most: int, corrected: bool | None) -> list[tuple[int, int]]:
    """The tables of disagreement, (fewer, more), that a printed test can be of.

    Args:
        chi2: As printed, to two places; ``None`` for the exact test.
        p: As printed, to four places (the smallest to five).
        most: At most so many questions disagree.
        corrected: χ² with Edwards' continuity correction, or without.
    """
    found = []
    for n in range(1, most + 1):
        for difference in range(n % 2, n + 1, 2):
            pair = (n - difference) // 2, (n + difference) // 2
            # The paper cuts some digits off and rounds others: a whole unit of the last place is allowed.
            if chi2 is not None and abs(max(difference - bool(corrected), 0) ** 2 / n - chi2) >= 0.01:
                continue
            if chi2 is None and p is not None and abs(stats.chi2.sf(max(difference - 1, 0) ** 2 / n, 1) - p) > 0.1:
                continue  # the exact p lies near the corrected one, and takes a thousand times as long
            test = mcnemar(*pair)
            of_pair = test.p_exact if chi2 is None else test.p_chi2_corrected if corrected else test.p_chi2
            if p is None or abs(of_pair - p) < 1e-4:
                found.append(pair)
    return found


def kept_share_note(paper: Paper) -> str:
    """Table 4's tokens beside Table 8's counts."""
    counts, tokens = paper.tables[8].rows, paper.tables[4].rows
    said = []
    for size, chain in (("3B", "3B → 70B"), ("8B", "8B → 70B")):
        kept = 100 * float(counts[chain][size] or 0) / paper.questions["mmlu"]
        saved = tokens[f"{size}{ARROW}GPT-4o"]["reduced_tokens"]
        said.append(f"{size} keeps {kept:.1f} % of the questions in Table 8 and saves {saved} % of the tokens here")
    each = float(tokens["GPT-4o"]["tokens"] or 0) / paper.questions["mmlu"]
    return (
        f"In the paper {' and '.join(said)}, by the same thresholds: either the questions kept are those that GPT-4o "
        f"answers in few words (it writes {each:.0f} tokens a question), or not only its tokens are counted."
    )


def disagreement_notes(paper: Paper) -> tuple[str, ...]:
    """Which answers Table 9's tests can be of, held against the accuracies of Tables 1 and 4.

    A discordant table fits if its test rounds to what is printed and its difference to the printed accuracies'.
    """
    table = paper.tables[9]
    fits, unfit = [], []
    for label in table.rows:
        chain, _, last = label.partition(" vs ")
        accuracies = paper.tables[4 if last == "GPT-4o" else 1].rows
        points = float(accuracies[last]["accuracy"] or 0) - float(accuracies[chain]["accuracy"] or 0)
        wanted = round(abs(points) * paper.questions["mmlu"] / 100)
        chi2, p = (None if (value := table.rows[label].get(name)) is None else float(value) for name in ("chi2", "p"))
        ways = {"exact": None} if label in table.more["exact"] else {"corrected": True, "plain": False}
        possible = [
            (name, pair)
            for name, way in ways.items()
            for pair in discordant(chi2, p, MOST, way)
            if pair[1] - pair[0] == wanted
        ]
        if possible:
            fits.append(f"{label} {possible[0][0]} {' or '.join(str(pair) for _, pair in possible)}")
        else:
            unfit.append(f"{label} (accuracies differ by {wanted} questions)")
    notes = [
        f"The paper's tests that fit its own accuracies, with how many questions only one of the two got right: "
        f"{'; '.join(fits)}."
    ]
    if unfit:
        shared = sorted(set(_both(paper)))
        notes.append(
            f"These fit no such table: {'; '.join(unfit)}. Both χ² come from one and the same, "
            f"{', '.join(map(str, shared))}, with and without the correction."
        )
    return tuple(notes)


def _both(paper: Paper) -> list[tuple[int, int]]:
    """Discordant tables whose corrected and plain χ² are Table 9's for 3B → 8B → 70B and for 3B → 70B."""
    rows = paper.tables[9].rows
    first, second = (float(rows[f"{chain} vs 70B"]["chi2"] or 0) for chain in ("3B → 8B → 70B", "3B → 70B"))
    return [p for p in discordant(first, None, MOST, True) if p in discordant(second, None, MOST, False)]


def dollars_from_counts(paper: Paper, ledger: str) -> dict[str, float]:
    """Table 13's dollars of each chain of Table 8, had every question cost the same."""
    alone, found = {size: float(row["cost"] or 0) for size, row in paper.tables[13].rows.items() if "cost" in row}, {}
    for label, row in paper.tables[8].rows.items():
        models = label.split(ARROW)
        counts = [float(row[m] or 0) for m in models]
        saved = reduced_cc(counts, [alone[m] for m in models], ledger)
        found[label] = alone[models[-1]] * (1 - saved / 100)
    return found


def dollars_note(paper: Paper) -> str:
    """In which ledger Table 13 counts."""
    answered, full = dollars_from_counts(paper, "answered-only"), dollars_from_counts(paper, "full-path")
    said = [
        f"{label} {paper.tables[13].rows[label]['cost']} printed, {answered[label]:.3f} answered-only, "
        f"{full[label]:.3f} full-path"
        for label in answered
    ]
    return (
        f"The paper's dollars from its Table 8's counts and its single models' dollars, were all questions as long: "
        f"{'; '.join(said)}. They are answered-only, of questions that are a little longer where they are passed on."
    )


def lowest_f1(accuracy: float, right: float) -> float:
    """The least F1 of the class of right answers that a classifier of this accuracy can have.

    2TP / (2TP + FP + FN), where FP + FN = 1 − accuracy and TP is at least the share of right answers minus that.

    Args:
        accuracy: Of the classifier, a share.
        right: Share of right answers of the model that it judges.
    """
    wrong = 1 - accuracy
    hit = max(right - wrong, 0.0)
    return 2 * hit / (2 * hit + wrong)


def f1_note(paper: Paper) -> str:
    """Which F1 Table 14's can be."""
    said = []
    for size, row in paper.tables[14].rows.items():
        right = float(paper.tables[1].rows[size]["accuracy"] or 0)
        least = 100 * lowest_f1(float(row["accuracy"] or 0) / 100, right / 100)
        said.append(f"{size} is at least {least:.1f} % where {row['f1']} % is printed")
    return (
        f"The paper does not say whose F1 it is. It cannot be that of right answers: with the accuracies of this "
        f"table and of its Table 1, {' and '.join(said)}. Ours beside it is the mean over "
        f"both classes, at P(IK) ≥ {paper.p_ik}."
    )
