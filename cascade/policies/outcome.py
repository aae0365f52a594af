"""What becomes of a question at a model: the word that policies, ledgers and reports share."""

from __future__ import annotations

from enum import IntEnum


class Outcome(IntEnum):
    """What became of a question at a model."""

    NOT_ASKED = 0
    REJECTED_BY_P_IK = 1
    REJECTED_BY_P_T = 2
    ANSWERED = 3
    PASSED_BY_READER = 4
