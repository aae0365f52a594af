"""What a server has done: Prometheus metrics, and totals for the page.

One registry a server, so that several may live in one process.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from cascade.engines.passing import Passed
from cascade.policies.ledgers import LEDGERS
from cascade.policies.outcome import Outcome
from cascade.runtime.costs import last_model_alone
from cascade.runtime.engine import Cascade, Journey, Step
from cascade.serving.errors import told_failure
from cascade.serving.feedback import Feedback
from cascade.serving.logs import Log
from cascade.serving.replies import Told, outcome_name

_TENTHS = [i / 20 for i in range(1, 21)]
_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
_PASSED_ON = (Outcome.REJECTED_BY_P_IK, Outcome.REJECTED_BY_P_T, Outcome.PASSED_BY_READER)


class Metrics:
    """Counts what happens; an `Observer` of a `Batcher`.

    Args:
        cascade: That answers.
        log: Where failures of stages are written.
        feedback: That watches the cascade.
    """

    def __init__(self, cascade: Cascade, log: Log, feedback: Feedback) -> None:
        self.cascade, self.log = cascade, log
        self.feedback = feedback
        self.answered_by: Tally[str] = Tally()
        self.passed_through: Tally[str] = Tally()
        self.costs: dict[str, dict[str, float]] = {}
        self.alone = 0.0
        self.registry = registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"cascade_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: list[float], *labels: str) -> Histogram:
            return Histogram(f"cascade_{name}", what, labels, buckets=buckets, registry=registry)

        self._requests = counter("requests", "HTTP requests", "path", "status")
        self._rejected = counter("rejected", "Requests turned away with 429, since the queue was full")
        self._ends = counter("questions", "Questions accepted, by their end: answered, failed, abandoned", "end")
        self._stages = counter("stage_questions", "Questions by stage and outcome", "stage", "outcome")
        self._escalations = counter("escalations", "Questions that a stage passed on by its confidence", "stage")
        self._failures = counter("failures", "Questions that a stage failed on", "stage")
        self._passed = counter("passed_through", "Requests that the chain cannot judge", "model", "reason")
        self._passed_tokens = counter("passed_through_tokens", "Tokens of them, where the endpoint said so", "kind")
        self._passed_dollars = counter("passed_through_dollars", "US dollars counted for them")
        self._shadow = counter("shadow_questions", "Questions of shadow mode: written, incomplete, skipped", "end")
        what = "Who would have answered, and whether as the last model did"
        self._would = counter("shadow_would_answer", what, "model", "agrees")
        self._shadow_flops = counter("shadow_flops", "FLOPs of the models that are asked beside the last, full-path")
        self._shadow_dollars = counter("shadow_dollars", "US dollars of them")
        self._broken = counter("broken_batches", "Batches for which a stage could not be asked at all", "stage")
        self._flops = counter("flops", "FLOPs (2N a pass, eq. 5) by ledger", "ledger")
        self._dollars = counter("dollars", "US dollars by ledger", "ledger")
        self._alone = counter("last_model_alone_flops", "FLOPs had the last model answered all questions alone")
        self._seconds = histogram("stage_seconds", "Measured seconds of a question at a stage", _SECONDS, "stage")
        self._waited = histogram("queued_seconds", "Seconds that an answered question waited for stages", _SECONDS)
        self._batches = histogram("batch_questions", "Questions in a batch", [1, 2, 4, 8, 16, 32, 64, 128], "stage")
        self._p_ik = histogram("p_ik", "P(IK) by model", _TENTHS, "model")
        self._p_t = histogram("p_t", "P(T) by model", _TENTHS, "model")
        self._signal = histogram("free_text_signal", "What stands in P(T)'s place", _TENTHS, "model", "signal")
        self._depth = Gauge("cascade_queue_depth", "Questions that wait for a stage", ["stage"], registry=registry)
        self._under_way = Gauge("cascade_questions_under_way", "Questions accepted, not answered", registry=registry)
        registry.register(_Live(feedback))
        for kind in ("prompt", "completion"):
            self._passed_tokens.labels(kind)
        for ledger in LEDGERS:
            self._flops.labels(ledger)
            self._dollars.labels(ledger)
        for name in cascade.names:
            for family in (self._escalations, self._failures, self._broken):
                family.labels(name)

    def request(self, path: str, status: int) -> None:
        """A request has been replied to."""
        self._requests.labels(path, str(status)).inc()
        if status == 429:
            self._rejected.inc()

    def batch(self, place: int, size: int, seconds: float) -> None:
        """See `Observer`."""
        self._batches.labels(self.cascade.names[place]).observe(size)

    def step(self, journey: Journey, step: Step) -> None:
        """See `Observer`."""
        self._stages.labels(step.model, outcome_name(step)).inc()
        if step.outcome in _PASSED_ON:
            self._escalations.labels(step.model).inc()
        if step.outcome == Outcome.NOT_ASKED:
            self._failures.labels(step.model).inc()
            if told_failure(step.model, step.failure) != step.failure:
                self.log.failure(journey.prompt, step.model, step.failure)
        if step.reply is not None:
            self._seconds.labels(step.model).observe(step.reply.seconds)
        if step.p_ik is not None:
            self._p_ik.labels(step.model).observe(step.p_ik)
        if step.p_t is not None and journey.signal is None:
            self._p_t.labels(step.model).observe(step.p_t)
        elif step.p_t is not None:
            self._signal.labels(step.model, journey.signal).observe(step.p_t)
        self.feedback.step(journey, step)

    def end(self, told: Told, abandoned: bool, aside: bool) -> None:
        """See `Observer`. What an unanswered question cost is counted, too."""
        if aside:
            self._shadow_flops.inc(told.total.get("flops", {}).get("full-path", 0.0))
            self._shadow_dollars.inc(told.total.get("dollars", {}).get("full-path", 0.0))
            return
        model = None if abandoned else told.answer.model
        self._ends.labels("abandoned" if abandoned else "failed" if model is None else "answered").inc()
        if model is not None:
            self.answered_by[model] += 1
            self.feedback.end(told)
            self._waited.observe(told.queued_seconds)
            if (alone := last_model_alone(self.cascade)) is not None:
                self.alone += alone
                self._alone.inc(alone)
        for unit, ledgers in told.total.items():
            totals = self.costs.setdefault(unit, dict.fromkeys(LEDGERS, 0.0))
            for ledger, value in ledgers.items():
                totals[ledger] += value
                if unit in ("flops", "dollars"):
                    (self._flops if unit == "flops" else self._dollars).labels(ledger).inc(value)

    def shadow(self, end: str, would: str = "", agrees: bool = False) -> None:
        """A question of shadow mode is at its end: written, incomplete, or skipped since there was no room."""
        self._shadow.labels(end).inc()
        if end == "written":
            self._would.labels(would, str(agrees).lower()).inc()

    def passed(self, reason: str, model: str, reply: Passed | None) -> None:
        """A request went to a model unchanged, and is over; ``reply`` is ``None`` where none began."""
        self.passed_through[reason] += 1
        self._passed.labels(model, reason).inc()
        if reply is None:
            return
        self._passed_tokens.labels("prompt").inc(reply.prompt_tokens or 0)
        self._passed_tokens.labels("completion").inc(reply.completion_tokens or 0)
        self._passed_dollars.inc(reply.dollars or 0.0)

    def broken(self, place: int, error: Exception) -> None:
        """See `Observer`."""
        self._broken.labels(self.cascade.names[place]).inc()
        self.log.error("stage_failed", error, model=self.cascade.names[place])

    def page(self, waiting: list[int], under_way: int) -> bytes:
        """All of it in Prometheus' text format."""
        for name, depth in zip(self.cascade.names, waiting, strict=False):
            self._depth.labels(name).set(depth)
        self._under_way.set(under_way)
        return generate_latest(self.registry)


class _Live:
    """What is watched, measured when it is asked for."""

    def __init__(self, feedback: Feedback) -> None:
        self.feedback = feedback

    def collect(self) -> Iterable[Metric]:
        def gauge(name: str, what: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"cascade_{name}", what, labels=labels)

        of_it = "of the promise (loss, accuracy) or a signal; its alarm is false with a stated probability, ever"
        alarm, e_value = (
            gauge("alarm", f"1 where a test {of_it}, has raised one", "test"),
            gauge("e_value", f"Evidence against H0 of a test {of_it}", "test"),
        )
        told = gauge("feedback", "Verdicts that were counted")
        distance = gauge(
            "drift",
            "Kolmogorov-Smirnov distance of a live confidence from that of the questions of reference which the "
            "cascade's own policy brings to the model; the cascade's own policy only",
            "model",
            "confidence",
        )
        size = gauge("drift_values", "Live values it is taken of", "model", "confidence")
        found = self.feedback.to_json()
        told.add_metric([], found["feedback"])
        for name, test in found["tests"].items():
            alarm.add_metric([name], test["alarm"])
            e_value.add_metric([name], test["e_value"])
        for one in found["signals"]:
            name, labels = f"{one['confidence']} of {one['model']}", [one["model"], one["confidence"]]
            alarm.add_metric([name], one["alarm"])
            e_value.add_metric([name], one["e_value"])
            size.add_metric(labels, one["observations"])
            if one["distance"] is not None:
                distance.add_metric(labels, one["distance"])
        return alarm, e_value, told, distance, size
