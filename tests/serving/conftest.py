from __future__ import annotations

import pytest

from cascade.runtime import Cascade
from cascade.runtime.build import build_cascade
from tests.serving.running import running


@pytest.fixture(scope="session")
def miniatures() -> Cascade:
    return build_cascade()


@pytest.fixture(scope="module")
def server(miniatures):
    with running(miniatures) as server:
        yield server
