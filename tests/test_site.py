"""The parts of the site's builder that read and draw: glossary, papers, map, openings, search."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

from course_map import course_map
from front import BEGIN, in_a_line, of_series, start_page
from glossary import Term, glossary_page, terms_of
from papers import bibliography, linked
from search import SearchBoth
from teaching import FOR_A_CLASS, goals, kinds, marking, teachers_page

from kexue_lab.course.catalog import SERIES, catalog
from kexue_lab.course.places import notebook_path
from kexue_lab.exercises import Exercise, exercises_of


def notebook(text):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])


@pytest.mark.parametrize(
    ("text", "english", "chinese"),
    [
        ("The *marginal* (边缘分布) is kept.", "marginal", "边缘分布"),
        ("**Relaxation** (松弛) helps.", "relaxation", "松弛"),
        ("Choose a weight decay (权重衰减).", "weight decay", "权重衰减"),
        ("by *Gauss's law* (高斯定理)", "Gauss's law", "高斯定理"),
        ("a *Cauchy law* (柯西分布)", "Cauchy law", "柯西分布"),
    ],
)
def test_a_term_is_read_from_its_first_use(text, english, chinese):
    assert terms_of(notebook(text), "losses/accuracy") == [
        Term(english, chinese, "losses/accuracy")
    ]


@pytest.mark.parametrize(
    "text", ["As (权重) says", "$x$ (权重)", "with many words before it (权重)"]
)
def test_what_is_no_term_is_left_out(text):
    assert terms_of(notebook(text), "losses/accuracy") == []


def test_of_two_lessons_the_glossary_names_the_first():
    terms = [Term("score", "得分", "a/first"), Term("the score", "得分", "a/second")]
    page = glossary_page(terms, {"a/first": "First", "a/second": "Second"})
    assert "| score | 得分 | [First](a/first.ipynb) |" in page
    assert "Second" not in page


def test_the_course_has_a_glossary():
    names = [article.name for article in catalog().values() if article.finished]
    read = {name: nbformat.read(notebook_path(name), as_version=4) for name in names}
    terms = [term for name, nb in read.items() for term in terms_of(nb, name)]
    assert len({term.chinese for term in terms}) > 120
    assert len({term.article for term in terms}) > 0.9 * len(names)


def test_arxiv_numbers_become_links_once():
    text = linked("Su, arXiv:2104.09864; [arXiv:2104.09864](https://arxiv.org/abs/2104.09864)")
    assert text.count("https://arxiv.org/abs/2104.09864") == 2
    assert linked(text) == text


def test_each_paper_stands_once_with_all_its_lessons():
    articles = list(catalog().values())
    page = bibliography(articles)
    for article in articles:
        assert page.count(f"({article.name}.ipynb)") == len(article.papers)
    entries = [line for line in page.splitlines() if line.startswith("- ")]
    assert len(entries) == len(set(entries))


def test_the_map_has_every_article_and_the_arrows_within_series():
    drawn = course_map({series: of_series(series) for series in SERIES})
    assert drawn.count("<rect") == len(catalog())
    inner = [
        name
        for article in catalog().values()
        for name in article.prerequisites
        if name.split("/")[0] == article.series
    ]
    assert drawn.count('class="kx-arrow"') == len(inner)
    places = re.findall(r'<rect x="(\d+)" y="(\d+)"', drawn)
    assert len(set(places)) == len(places), "no two boxes in one place"


@pytest.mark.parametrize("series", SERIES)
def test_an_opening_says_a_line_about_each_finished_article(series):
    said = in_a_line(series)
    for article in of_series(series):
        if article.finished:
            assert 20 < len(said[article.name]) < 200, article.name


def test_the_start_page_says_where_to_begin():
    page = start_page()
    for name in BEGIN:
        assert catalog()[name].prerequisites == ()
        assert f"({name}.ipynb)" in page


def test_search_splits_chinese_into_pairs_and_keeps_english():
    split = SearchBoth({}).split
    assert split("the score 扩散模型") == ["the", "score", "扩散", "散模", "模型"]
    assert split("迹") == ["迹"]


LESSONS = [article.name for article in catalog().values() if article.state == "lesson"]


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_promises_something_and_says_what_each_exercise_asks(name):
    lesson = nbformat.read(notebook_path(name), as_version=4)
    assert 3 <= len(goals(lesson)) <= 6
    assert set(kinds(lesson)) == set(exercises_of(name))


@pytest.mark.parametrize("series", SERIES)
def test_the_teachers_page_lists_every_exercise(series):
    articles = [article for article in of_series(series) if article.finished]
    read = {a.name: nbformat.read(notebook_path(a.name), as_version=4) for a in articles}
    page = teachers_page(series, articles, read)
    assert FOR_A_CLASS[series] in page
    rows = [line for line in page.splitlines() if re.match(r"\|\d+\|", line)]
    assert len(rows) == sum(len(exercises_of(article.name)) for article in articles)
    assert all(len(row.split("|")) == 6 or r"\|" in row for row in rows)


def test_marking_says_where_an_answer_could_be_copied():
    fixed = Exercise("a value", solution=lambda: 2)
    assert "copied" in marking(fixed)
    fresh = Exercise("a function", solution=abs, inputs=lambda rng: [(rng.normal(),)])
    assert "fresh" in marking(fresh)
    judged = Exercise("any", solution=abs, judge=lambda got: None)
    assert "judged" in marking(judged)
