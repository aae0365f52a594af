"""Confidences beside P(T) and P(IK): what they are, what they cost, and what they come from.

All lie in [0, 1], and larger is surer. `distributions` and `samples` are pure functions; `asking` asks models.
"""
