"""Fixtures that run a test for every finished article."""

import gc
from importlib import import_module
from typing import Any

import pytest
from reports import cached_report, finished

from kexue_lab.course.kernels import LOADED


def pytest_collection_finish():
    """Spare garbage collection what stays to the end: thousands of tests and their modules."""
    gc.freeze()


@pytest.fixture(params=finished())
def article(request) -> str:
    return request.param


@pytest.fixture
def report(article) -> dict[str, Any]:
    return cached_report(article)


@pytest.fixture(scope="session")
def loaded():
    """Load what notebooks import: each process that is forked later would load it again."""
    for name in LOADED:
        import_module(name)
