"""Long work says where it is, in a terminal and out of one."""

from __future__ import annotations

import io
import re

import pytest

from cascade import progress as module
from cascade.progress import progress


class Clock:
    """Seconds that pass as told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("tqdm.std.time", made)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)  # its thread would look at another clock
    return made


def work(clock: Clock, seconds: float, steps: int = 100) -> str:
    stream = io.StringIO()  # no terminal
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.sys, "stderr", stream)
        with progress(steps, "small · mmlu") as bar:
            for _ in range(steps):
                clock.now += seconds / steps
                bar.update()
    return stream.getvalue()


def test_work_of_less_than_half_a_minute_says_nothing_in_a_log(clock):
    assert work(clock, 29) == ""


def test_longer_work_says_rows_rate_and_time_left_every_half_minute(clock):
    lines = work(clock, 100).splitlines()
    assert len(lines) == 3  # after 30, 60 and 90 seconds
    for line, done in zip(lines, (30, 60, 90), strict=True):
        found = re.fullmatch(r"small · mmlu: +(\d+) of 100 q, (.+)q/s, 0?(\d:\d\d|\d\d:\d\d) gone, (\S+) left", line)
        assert found is not None, line
        assert int(found[1]) == done
        assert float(found[2]) == pytest.approx(1, rel=0.05)
        assert found[4] == f"{(100 - done) // 60:02d}:{(100 - done) % 60:02d}"


def test_a_terminal_has_a_bar(clock, monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(module.sys, "stderr", stream)
    with progress(10, "small") as bar:
        clock.now += 1
        bar.update(5)
    assert "50%|" in stream.getvalue()
    assert "\r" in stream.getvalue()
