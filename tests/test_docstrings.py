"""The examples in the docstrings give what they say."""

import doctest
import importlib

import pytest

from kexue_lab.course.catalog import SERIES
from kexue_lab.course.places import PACKAGE

MODULES = sorted(
    f"kexue_lab.{series}.{path.stem}"
    for series in SERIES
    for path in (PACKAGE / series).glob("[a-z]*.py")
    if not path.stem.endswith("_exercises")
)
# Networks with their training, and readers of files: nothing of them fits into three lines.
WITHOUT = {"kexue_lab.diffusion.networks", "kexue_lab.text.loaders"}


@pytest.mark.parametrize("name", MODULES)
def test_its_examples_run_as_printed(name):
    module = importlib.import_module(name)
    failed, tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0
    assert bool(tried) is (name not in WITHOUT), "a module's main functions carry an example"
