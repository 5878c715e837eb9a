"""A page for teachers in each series: goals, a plan of ninety minutes, how to mark exercises."""

import re
from collections.abc import Mapping

from nbformat import NotebookNode

from kexue_lab.course.catalog import Article
from kexue_lab.exercises import Exercise, exercises_of

_KIND = re.compile(r"\*\*Exercise (\d+)\*\* \(([^)]*)\)")
_CAN = re.compile(r"[Aa]fter (?:this notebook|it) you can\n\n((?:- .*\n?)+)")

PLAN = """\
|minutes|what|
|---|---|
|0–10|The case by hand that opens the lesson, on the board, without a screen.|
|10–15|Everybody writes down an answer to the explorer's question. Nobody moves a slider yet.|
|15–45|The derivation, step by step; at each ruled out sentence (✗) first ask whether it is true.|
|45–55|The explorer: who was right, and why the others were not.|
|55–80|Two or three exercises, in pairs, with checks and hints.|
|80–90|The experiment's finding: what does it not say? Which control would you add?|
"""

HANDOUT = """\
`kexue-lab handout ARTICLE -o FOLDER` makes an nbgrader assignment of a lesson: one graded cell for
each exercise, no solutions. Checks are open: marks count with the source read."""

FOR_A_CLASS = {
    "mathematics": "Two sessions: random_sector as it is, and em or cross_counting after it. Both "
    "are begun without any knowledge beyond school.",
    "diffusion": "Four sessions: probability_flow, ddim, diffusion_ode, and one of the others by "
    "choice. Who knows DDPM can begin with ddim and take step 5 of it on trust.",
    "generative": "Three sessions: gumbel_softmax, vae_geometry, gan_reading_list. The other three "
    "suit talks by students: each has a claim of a paper to be judged.",
    "attention": "Two sessions: linear_attention, then low_rank_bottleneck or relative_position. "
    "synthesizer suits a discussion of what a toy task proves.",
    "text": "Two sessions: word_movers (transport by hand) and endless_decoding (a Markov chain by "
    "hand). The others suit projects: each has a small language with known answers.",
    "losses": "Two sessions: accuracy, then one of soft_top_k, total_variation and cosent. "
    "flat_nce is a lesson in testing an explanation, for a seminar.",
    "optimization": "Three sessions: gradient_clipping; simsiam up to step 3; generalization up "
    "to section 4. amos suits a seminar on fair comparisons.",
}


def goals(notebook: NotebookNode) -> list[str]:
    """What a reader can do after a lesson, as it promises."""
    match = _CAN.search(notebook.cells[0].source + "\n")
    return [line.removeprefix("- ").rstrip(",.") for line in match[1].splitlines()] if match else []


def kinds(notebook: NotebookNode) -> dict[int, str]:
    """What each exercise of a lesson asks to do: predict, derive, repair, and so on."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return {int(number): kind for number, kind in _KIND.findall(text)}


def marking(exercise: Exercise) -> str:
    """How an exercise can be marked."""
    if exercise.judge is not None:
        return "many right answers, judged by what they must do"
    if exercise.inputs is None:
        return "one value, which may be copied: better in class"
    return "fresh inputs at each check"


def teachers_page(
    series: str, articles: list[Article], notebooks: Mapping[str, NotebookNode]
) -> str:
    """The page of a series.

    Args:
        series: its name.
        articles: its finished articles.
        notebooks: of the articles, by name.
    """
    lines = [
        f"# For teachers: {series}",
        "",
        FOR_A_CLASS[series],
        "",
        "## Ninety minutes",
        "",
        PLAN,
    ]
    lines += [HANDOUT, ""]
    for article in articles:
        notebook = notebooks[article.name]
        lines += [
            f"## {article.title}",
            "",
            f"[The lesson]({article.name.split('/')[1]}.ipynb)",
            "",
        ]
        lines += ["Afterwards one can", "", *(f"- {goal}" for goal in goals(notebook)), ""]
        lines += ["|exercise|asks to|about|marking|", "|---|---|---|---|"]
        asked = kinds(notebook)
        for number, exercise in exercises_of(article.name).items():
            title = exercise.title.replace("|", r"\|")
            lines.append(f"|{number}|{asked.get(number, '')}|{title}|{marking(exercise)}|")
        lines.append("")
    return "\n".join(lines)
