from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from cascade.miniature.families import ASSETS
from tests.profile import LONG

SHARED = Path(__file__).parents[1].parent / "shared" / "data"

# No deadline and no check of speed, which a busy machine would fail.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", max_examples=40, **UNTIMED)
settings.register_profile("long", max_examples=1000, **UNTIMED)
settings.load_profile("long" if LONG else "default")


def pytest_collection_finish() -> None:
    """What is imported stays, and is not looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    if processes := sys.modules.get("tests.processes"):
        processes.end_server()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real questions and real models' records, where they lie beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Stores and probes of the miniatures that all workers share; see `tests.made_once`."""
    from tests.made_once import MadeOnce

    own = tmp_path_factory.getbasetemp()
    return MadeOnce((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "made-once")


@pytest.fixture(scope="module")
def chromium():
    """A real browser; see `tests.browser`. A module's, since no asyncio runs in its thread while it is open."""
    from tests.browser import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ASSETS / "mini-llama-small")
