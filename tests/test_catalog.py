"""The catalogue: 38 articles, an order in which they can be read, and names that are found."""

import re
from datetime import date
from graphlib import TopologicalSorter

import pytest

from kexue_lab.course import places
from kexue_lab.course.catalog import SERIES, Article, UnknownArticle, catalog, find, next_articles

ARTICLES = list(catalog().values())


def test_there_are_38_articles_and_no_two_are_alike():
    assert len(ARTICLES) == 38
    for what in ("name", "number", "title", "title_zh", "source"):
        assert len({getattr(a, what) for a in ARTICLES}) == 38, what
    assert len({a.name.split("/")[1] for a in ARTICLES}) == 38


def test_series_stand_together_in_their_order():
    assert list(dict.fromkeys(a.series for a in ARTICLES)) == list(SERIES)
    places = [SERIES.index(a.series) for a in ARTICLES]
    assert places == sorted(places)


def test_prerequisites_exist_and_have_no_circle():
    graph = {a.name: a.prerequisites for a in ARTICLES}
    assert {p for before in graph.values() for p in before} <= graph.keys()
    assert set(TopologicalSorter(graph).static_order()) == graph.keys()


@pytest.mark.parametrize("article", ARTICLES, ids=lambda a: a.name)
def test_each_article(article):
    assert re.fullmatch(r"[a-z]+/[a-z][a-z_]*", article.name)
    assert article.title.isascii() or "θ" in article.title
    assert re.search(r"[\u4e00-\u9fff]", article.title_zh)
    assert not {"|", "\n"} & set(article.title + article.title_zh)
    assert isinstance(article.date, date)
    assert date(2009, 1, 1) < article.date < date.today()
    assert article.number > 0
    assert article.source == f"https://kexue.fm/archives/{article.number}"
    assert article.papers
    assert all(paper.strip() == paper and paper for paper in article.papers)
    assert article.state in ("planned", "landed", "lesson")
    assert article.finished == (article.seconds is not None) == bool(article.picture)
    assert article.seconds is None or article.seconds > 0


@pytest.mark.parametrize("article", ARTICLES, ids=lambda a: a.name)
def test_prerequisites_come_first(article):
    order = [a.name for a in ARTICLES]
    assert len(set(article.prerequisites)) == len(article.prerequisites)
    for before in article.prerequisites:
        if catalog()[before].series == article.series:
            assert order.index(before) < order.index(article.name)


@pytest.mark.parametrize(
    ("name", "number", "day", "title_zh"),
    [
        ("mathematics/em", 5239, date(2018, 3, 15), "从最大似然到EM算法:一致的理解方式"),
        (
            "mathematics/random_sector",
            9324,
            date(2022, 10, 25),
            "圆内随机n点在同一个圆心角为θ的扇形的概率",
        ),
        ("diffusion/ddim", 9181, date(2022, 7, 27), "生成扩散模型漫谈(四):DDIM = 高观点DDPM"),
        ("losses/soft_top_k", 10373, date(2024, 9, 19), "Softmax后传:寻找Top-K的光滑近似"),
    ],
)
def test_known_articles(name, number, day, title_zh):
    article = catalog()[name]
    assert (article.number, article.date, article.title_zh) == (number, day, title_zh)


def test_every_article_is_found_by_name_and_by_slug():
    for article in ARTICLES:
        assert find(article.name) is article
        assert find(article.name.split("/")[1]) is article


@pytest.mark.parametrize(
    "name", ["EM", " em ", "notebooks/mathematics/em.ipynb", "em.ipynb", "Mathematics/EM"]
)
def test_names_are_read_kindly(name):
    assert find(name).name == "mathematics/em"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("randm_sector", "mathematics/random_sector"),
        ("diffusion/dim", "diffusion/ddim"),
        ("probability", "diffusion/probability_flow"),
        ("word-movers", "text/word_movers"),
        ("mathematics/random_sectors", "mathematics/random_sector"),
    ],
)
def test_an_unknown_article_gets_the_nearest_names(name, near):
    with pytest.raises(UnknownArticle, match=rf"no article '{name}'; did you mean .*{near}"):
        find(name)


@pytest.mark.parametrize("name", ["", "zzzzzzzz", "1234", "/"])
def test_with_nothing_near_the_list_is_named(name):
    with pytest.raises(UnknownArticle, match="see `kexue-lab list`"):
        find(name)


def test_next_articles_turn_prerequisites_round():
    assert "diffusion/ddim" in [a.name for a in next_articles(find("probability_flow"))]
    pairs = {(a.name, after.name) for a in ARTICLES for after in next_articles(a)}
    assert pairs == {(before, a.name) for a in ARTICLES for before in a.prerequisites}


def test_an_article_is_not_to_be_changed():
    with pytest.raises(AttributeError):
        ARTICLES[0].title = "another"
    assert isinstance(ARTICLES[0], Article)


# --- where the files lie -----------------------------------------------------------------------


def test_the_course_is_here_or_above_or_where_the_package_lies(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "deep/er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep/er")
    monkeypatch.setattr(places, "PACKAGE", tmp_path / "site-packages/kexue_lab")
    (tmp_path / "notebooks/index.ipynb").write_text("{}")
    with pytest.raises(FileNotFoundError, match="run this inside a clone of the course"):
        places.course_root()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "kexue-lab"')
    assert places.course_root() == tmp_path
    assert places.notebook_path("a/b") == tmp_path / "notebooks/a/b.ipynb"
    assert places.solutions_path("a/b") == tmp_path / "notebooks/solutions/a/b.ipynb"


def test_the_package_leads_back_to_its_checkout(tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    (checkout / "notebooks").mkdir(parents=True)
    (checkout / "notebooks/index.ipynb").write_text("{}")
    (checkout / "pyproject.toml").write_text('[project]\nname = "kexue-lab"')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(places, "PACKAGE", checkout / "kexue_lab")
    assert places.course_root() == checkout
