from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cascade.miniature.families import ASSETS

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


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
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ASSETS / "mini-llama-small")
