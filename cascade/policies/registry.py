"""The policies there are. A new one is a file beside this and an entry here.

The study compares the best of each kind, and the recommendation is one of them; policies are read from JSON as one of
them. Runtime, server and reports take any.
"""

from __future__ import annotations

from cascade.policies.base import LivePolicy, Policy
from cascade.policies.expected_utility import ExpectedUtilityPolicy
from cascade.policies.fused import FusedPolicy
from cascade.policies.oracle import OraclePolicy
from cascade.policies.random_mixing import RandomPolicy
from cascade.policies.thresholds import ThresholdPolicy

POLICIES: list[type[LivePolicy]] = [ThresholdPolicy, FusedPolicy, ExpectedUtilityPolicy]
"""Those that can be run. In JSON the key of a later one decides before that of an earlier one."""

REFERENCES: list[type[Policy]] = [RandomPolicy, OraclePolicy]
"""Those that stand beside them for comparison, and cannot be recommended."""
