"""The parts of the site's builder that read and draw: glossary, papers, map, openings, search."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

from course_map import course_map
from equations import equations_of, with_equations
from front import BEGIN, in_a_line, of_series, start_page
from glossary import Term, glossary_page, symbols_of, terms_of
from papers import bibliography, linked
from pictures import in_words, name_pictures
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
    assert "| score | 得分 |  | [First](a/first.ipynb) |" in page
    assert "Second" not in page


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        ("$f_t$ is the *drift* (漂移), a velocity", "f_t"),
        ("the *perplexity* (困惑度) $e^H$, with $H=1$", "e^H"),
        ("with a *feature map* (特征映射) $\\phi:\\mathbb R\\to\\mathbb R$", r"\phi"),
        ("Call it the *state* (状态):\n\n$$S_t=S_{t-1}+k_t$$", "S_t"),
        ("the *bias* (偏差), where $b=1$", ""),
        ("the *chain* (链):\n\n$$\\boxed{a=b}$$", ""),
    ],
)
def test_a_term_has_the_symbol_that_stands_beside_it(text, symbol):
    (term,) = terms_of(notebook(text), "losses/accuracy")
    assert term.symbol == symbol


def test_the_glossary_carries_the_lessons_tables_of_symbols():
    table = "|symbol|meaning|\n|---|---|\n|$n$|number of tokens|"
    assert symbols_of(notebook(f"Before.\n\n{table}\n\nAfter.")) == table
    assert symbols_of(notebook("|a|b|\n|---|---|\n|1|2|")) == ""
    page = glossary_page([], {"a/first": "First"}, {"a/first": table})
    assert table in page
    assert "{dropdown} First" in page


@pytest.mark.parametrize(
    ("text", "linked_text"),
    [
        ("By (2) it falls.", 'By <a href="#equation-2">(2)</a> it falls.'),
        ("By (7), which is none.", "By (7), which is none."),
        ("In $f(2)$, `g (2)` and f(2).", "In $f(2)$, `g (2)` and f(2)."),
        ("Write down: (1) where? (2) how?", "Write down: (1) where? (2) how?"),
        ("Optimisation as dynamics (2): why", "Optimisation as dynamics (2): why"),
        (
            "(2) of [the other](ddim.ipynb)",
            '<a href="ddim.html#equation-2">(2)</a> of [the other](ddim.ipynb)',
        ),
        ("$$a=b\\tag{1}$$", '<span id="equation-1"></span>\n\n$$a=b\\tag{1}$$'),
        ("$$a=b$$", "$$a=b$$"),
    ],
)
def test_equations_are_anchored_and_named_ones_linked(text, linked_text):
    assert with_equations(text, {"1", "2"}) == linked_text


def test_every_numbered_equation_of_the_course_gets_its_anchor():
    for article in catalog().values():
        if article.finished:
            lesson = nbformat.read(notebook_path(article.name), as_version=4)
            texts = [cell.source for cell in lesson.cells if cell.cell_type == "markdown"]
            tags = re.findall(r"\\tag\{(\d+)\}", "\n".join(texts))
            assert len(set(tags)) == len(tags), article.name
            assert equations_of(lesson) == set(tags), article.name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Picture: the loss falls; n = 3", "the loss falls; n = 3"),
        (r"Picture: the part $c\,x_1$ along $\bar\alpha_t$", "the part c x_1 along bar alpha_t"),
    ],
)
def test_a_pictures_words_have_no_marks_of_latex(text, words):
    assert in_words(text) == words


def test_a_picture_is_named_by_its_notebooks_text():
    shown = nbformat.v4.new_output(
        "display_data", {"image/png": "", "text/plain": "Picture: the loss falls"}
    )
    cell = nbformat.v4.new_code_cell("plt.show()", outputs=[shown])
    name_pictures(nbformat.v4.new_notebook(cells=[cell]))
    assert cell.metadata["mystnb"]["image"]["alt"] == "the loss falls"


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
