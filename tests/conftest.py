"""Fixtures that run a test for every finished article."""

from typing import Any

import pytest
from reports import cached_report, finished


@pytest.fixture(params=finished())
def article(request) -> str:
    return request.param


@pytest.fixture
def report(article) -> dict[str, Any]:
    return cached_report(article)
