"""Experiments over many seeds: the figures of a run, their stored form, the claims about them."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue_lab import claims as claims_module
from kexue_lab.claims import ClaimFailed, ClaimRefused, Claims
from kexue_lab.recorded import Row, columns, figure, outside, read_rows, write_rows

ARTICLE = "optimization/gradient_clipping"
finite = st.floats(-1e300, 1e300)


def rows(count=20, **names):
    """Rows of one experiment: each figure is its value plus the seed."""
    return {
        seed: Row(figures={"E1": {name: value + seed for name, value in names.items()}})
        for seed in range(count)
    }


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A record's path that `Claims` reads in place of the article's own."""
    path = tmp_path / "recorded" / "article.json"
    monkeypatch.setattr(claims_module, "recorded_path", lambda _article: path)
    monkeypatch.delenv("KEXUE_RECORD", raising=False)
    return path


@given(finite)
def test_a_figure_keeps_six_digits(value):
    stored = figure(value, "loss")
    assert abs(stored - value) <= 5e-6 * abs(value)
    assert stored == json.loads(json.dumps(stored))


def test_a_figure_keeps_its_shape():
    assert figure(torch.tensor([[1.0, 2.0]]), "x") == [[1.0, 2.0]]
    assert figure(np.float32(0.1), "x") == 0.1
    assert figure(3, "x") == 3.0


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("inf")], [], "0.5", None, 1j])
def test_what_is_no_figure_is_refused(value):
    with pytest.raises((TypeError, ValueError), match="the figure loss"):
        figure(value, "loss")


def test_rows_come_back_as_they_were_stored(tmp_path):
    path = tmp_path / "folder" / "record.json"
    stored = {**rows(3, a=1.5), 7: Row(failed="cell 3: no", source="abc", made="today")}
    write_rows(path, stored)
    assert read_rows(path) == stored
    lines = path.read_text("utf8").splitlines()
    assert sum(line.startswith('"') for line in lines) == 4, "a line per seed"
    assert not [other for other in path.parent.iterdir() if other != path]


def test_each_scale_has_rows_of_its_own(tmp_path):
    path = tmp_path / "record.json"
    write_rows(path, rows(3, a=0))
    write_rows(path, rows(2, a=5), "gpu")
    write_rows(path, rows(4, a=0))
    assert (len(read_rows(path)), len(read_rows(path, "gpu"))) == (4, 2)
    assert read_rows(tmp_path / "none.json") == {}


@pytest.mark.parametrize("text", ["", "[]", '{"cpu": {"one": {}}}', '{"cpu": {"1": {"other": 1}}}'])
def test_a_file_that_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text, "utf8")
    with pytest.raises(ValueError, match=r"record\.json is no record"):
        read_rows(path)


def test_columns_leave_out_the_seeds_that_failed():
    stored = rows(4, a=np.array([10.0, 20.0])) | {4: Row(failed="no")}
    assert columns(stored, "E1")["a"].tolist() == [[10 + s, 20 + s] for s in range(4)]


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="nothing is recorded as E2"):
        columns(rows(3, a=1), "E2")
    with pytest.raises(ValueError, match="different figures"):
        columns(rows(3, a=1) | {3: Row(figures={"E1": {"b": 1}})}, "E1")


def test_the_spread_is_five_standard_deviations():
    seeds = np.array([-1.0, 0.0, 1.0])
    assert outside(4.9, seeds) < 1 < outside(5.1, seeds)
    assert outside([0.0, -5.1], np.stack([seeds, seeds], 1)) > 1
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        outside([0.0, 1.0], seeds)


def test_without_a_spread_only_rounding_is_allowed():
    assert outside(2.00001, np.full(20, 2.0)) <= 1 < outside(2.001, np.full(20, 2.0))
    assert outside(0.0, np.zeros(20)) == 0


def test_an_entry_that_was_alike_by_chance_may_differ():
    seeds = np.stack([np.linspace(0.4, 0.6, 20), np.zeros(20)], 1)
    assert outside([0.5, 0.01], seeds) <= 1 < outside([0.5, 0.5], seeds)


def test_a_run_within_the_recorded_spread_is_claimed(record):
    write_rows(record, rows(a=0.0, b=100.0))
    claims = Claims(ARTICLE)
    claims.record("E1", a=torch.tensor(9.5), b=130.0)
    (entry,) = claims.entries
    assert (entry.key, entry.kind) == ("E1", "observed")
    assert "20 seeds" in entry.statement
    assert entry.detail == "at most 3.5 standard deviations from the mean"


def test_a_run_outside_is_a_failure(record):
    write_rows(record, rows(a=0.0))
    with pytest.raises(ClaimFailed, match=r"a: 15\.3 standard deviations"):
        Claims(ARTICLE).record("E1", a=100.0)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"a": float("nan")}, "E1: the figure a must be finite"),
        ({"b": 1.0}, "E1: recorded are a; this run has b"),
        ({"a": [1.0, 2.0]}, "E1: the live figure has shape"),
    ],
)
def test_figures_that_cannot_be_compared_are_refused(record, figures, said):
    write_rows(record, rows(a=0.0))
    with pytest.raises(ClaimRefused, match=said):
        Claims(ARTICLE).record("E1", **figures)


def test_without_a_record_nothing_is_claimed_silently(record):
    with pytest.raises(ClaimRefused, match="run kexue-lab record optimization/gradient_clipping"):
        Claims(ARTICLE).record("E1", a=1.0)
    with pytest.raises(ClaimRefused, match="nothing is recorded as E1"):
        Claims(ARTICLE).recorded("E1")
    larger = Claims(ARTICLE, scale="gpu")
    larger.record("E1", a=1.0)
    assert not larger.entries


def test_a_scale_without_rows_shows_those_of_the_cpu(record):
    write_rows(record, rows(a=0.0))
    assert Claims(ARTICLE, scale="gpu").recorded("E1")["a"].tolist() == list(range(20))
    write_rows(record, rows(3, a=5.0), "gpu")
    assert Claims(ARTICLE, scale="gpu").recorded("E1")["a"].tolist() == [5, 6, 7]


@pytest.mark.parametrize(("count", "holds"), [(20, True), (18, True), (17, False), (0, False)])
def test_what_holds_on_nine_of_ten_seeds(count, holds):
    claims = Claims(ARTICLE)
    each = np.arange(20) < count
    if not holds:
        with pytest.raises(ClaimFailed, match=f"on {count} of 20 seeds"):
            claims.hold("E1a", "it is better", each)
        return
    claims.hold("E1a", "it is better", each)
    assert claims.entries[-1].detail == f"on {count} of 20 seeds"


@pytest.mark.parametrize("each", [[0.5] * 20, [True, True], True, [[True] * 3]])
def test_hold_needs_one_truth_for_each_seed(each):
    with pytest.raises(ClaimRefused, match="E1"):
        Claims(ARTICLE).hold("E1", "it is better", each)


def test_a_run_that_is_recorded_notes_its_claims_and_goes_on(record, tmp_path, monkeypatch):
    monkeypatch.setenv("KEXUE_RECORD", str(tmp_path / "handed"))
    claims = Claims(ARTICLE)
    claims.prove("D1", "not looked at here", 1, 2)
    claims.refute("D1", "not looked at here", 1, 1)
    claims.bound("N1", "it is small", 0.5, below=1)
    claims.bound("N2", "it is small", 2.0, below=1)
    claims.bound("N2", "it is large", 2.0, above=1)
    claims.record("E1", a=[1.0, 2.0])
    seeds = claims.recorded("E1")
    assert seeds["a"].tolist() == [[1, 2], [1, 2]]
    claims.hold("E1a", "about all seeds, which are not there yet", seeds["a"][:, 0] > 5)
    claims.ledger()
    handed = json.loads((tmp_path / "handed").read_text("utf8"))
    assert handed == {"figures": {"E1": {"a": [1.0, 2.0]}}, "held": {"N1": True, "N2": False}}
    assert not record.exists()
