"""The course in a real browser: JupyterLab, exercises, the static site, the app.

Every wait is for a state. The time limits are far larger than any wait seen, also on busy cores:
they only end what hangs. How quickly a slider answers is printed, not asserted.

On the site links and boxes are used by the keyboard: equations are typeset where the reader scrolls
to, what lies below them moves, and a mouse that has scrolled to a link may come down beside it.
"""

import json
import re
import statistics
import time

import nbformat
import pytest
from playwright.sync_api import TimeoutError
from waiting import wait_until

from kexue_lab.course.catalog import catalog

IDLE = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
BUSY = '.jp-Notebook-ExecutionIndicator[data-status="busy"]'
NOTEBOOK = "losses/multi_task"  # one of the quickest; the app serves another
SCROLLER = ".jp-WindowedPanel-outer"


def open_notebook(page, lab, name):
    address, token = lab
    page.goto(f"{address}/doc/tree/my/{name}.ipynb?token={token}&reset")
    # A notebook is shown as idle before it has a kernel; the status bar knows.
    page.wait_for_selector("#jp-main-statusbar :text('| Idle')")
    page.wait_for_selector(IDLE)


def run_all(page):
    """Run all cells and wait for the last. A kernel that has just come up may drop the command."""
    for _ in range(20):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try:
            page.wait_for_selector(BUSY, timeout=30_000)
        except TimeoutError:
            continue
        page.wait_for_selector(IDLE)
        return
    raise AssertionError("no cell was run")


def scroll_to(page, selector):
    """Scroll down until something matches: cells far away are not in the page.

    On a busy machine a cell may be passed before it is drawn: then another time, and slower.
    """
    for pause in (80, 200, 500, 1000):
        page.evaluate(f"document.querySelector('{SCROLLER}').scrollTop = 0")
        page.wait_for_timeout(200)
        for _ in range(80):
            if page.locator(selector).count():
                page.locator(selector).first.scroll_into_view_if_needed()
                return page.locator(selector).first
            page.evaluate(f"document.querySelector('{SCROLLER}').scrollTop += 700")
            page.wait_for_timeout(pause)
    raise AssertionError(f"nothing matches {selector}")


def is_whole(path):
    """Whether a file of JSON is written to its end."""
    try:
        json.loads(path.read_text("utf8"))
    except ValueError:
        return False
    return True


def seconds_to_new_picture(page, picture, key="ArrowRight"):
    """Press an arrow key on the focused slider and wait for another picture."""
    before = picture.get_attribute("src")
    start = time.perf_counter()
    page.keyboard.press(key)
    page.wait_for_function(
        "([image, old]) => image.src !== old && image.complete",
        arg=[picture.element_handle(), before],
    )
    return time.perf_counter() - start


def test_a_notebook_runs_and_its_slider_answers_in_jupyterlab(page, lab, course):
    open_notebook(page, lab, NOTEBOOK)
    run_all(page)
    handle = scroll_to(page, ".noUi-handle")
    picture = page.locator("img.widget-image").first
    handle.focus()
    # Up and down in turn: a slider may have few places.
    keys = ["ArrowRight", "ArrowLeft"] * 4
    times = [seconds_to_new_picture(page, picture, key) for key in keys]
    print(
        f"{NOTEBOOK}: key to new picture in {1e3 * statistics.median(times):.0f} ms (median of 8)"
    )

    stored, original = (course / folder / f"{NOTEBOOK}.ipynb" for folder in ("my", "notebooks"))
    before, untouched = stored.stat().st_mtime_ns, original.read_bytes()
    page.keyboard.press("Control+s")
    wait_until(lambda: stored.stat().st_mtime_ns != before and is_whole(stored))
    cells = [c for c in nbformat.read(stored, as_version=4).cells if c.cell_type == "code"]
    assert all(c.execution_count for c in cells)
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]
    assert original.read_bytes() == untouched


def test_jupyterlab_opens_on_the_map_and_asks_nothing(page, lab):
    address, token = lab
    page.goto(f"{address}/?token={token}")
    page.wait_for_selector(".jp-RenderedMarkdown h1:has-text('the map of the course')")
    page.wait_for_selector(IDLE)
    assert page.locator(".jp-toast-message, .Toastify__toast").count() == 0


def answer(page, code):
    """Type an answer to exercise 1 over the stub, run it, and return what its check says."""
    editor = page.locator(".jp-CodeCell", has_text="def all_apart").last
    editor.locator(".cm-content").focus()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(code)
    prompt = editor.locator(".jp-InputPrompt").first
    before = prompt.inner_text()
    page.keyboard.press("Control+Enter")
    wait_until(lambda: re.fullmatch(r"\[\d+\]:", now := prompt.inner_text()) and now != before)
    return editor.locator(".jp-OutputArea").inner_text()


def test_an_exercise_shows_a_hint_and_then_its_check_mark(page, lab):
    open_notebook(page, lab, "solutions/mathematics/random_sector")
    run_all(page)
    scroll_to(page, "text=def all_apart")
    check = 'exercise("mathematics/random_sector", 1).check(all_apart)'
    wrong = answer(page, f"def all_apart(n, y): return (1 - y) ** (n - 1)\n\n{check}")
    assert "✗ Exercise 1" in wrong
    assert "hint: " in wrong
    right = answer(
        page, f"def all_apart(n, y): return max(1 - n * y, Fraction(0)) ** (n - 1)\n\n{check}"
    )
    assert "✓ Exercise 1" in right
    assert "hint" not in right


def test_the_site(page, site):
    page.goto(f"{site}/index.html")
    finished = [article for article in catalog().values() if article.finished]
    assert page.locator(".kx-map a").count() == len(finished)
    page.locator(".kx-map a").first.press("Enter")
    page.wait_for_selector("mjx-container")
    assert page.locator("article h1").count() == 1
    page.goto(f"{site}/mathematics/index.html")
    assert page.locator(".sd-card").count() == sum(a.series == "mathematics" for a in finished)
    page.goto(f"{site}/verified.html")
    page.locator("details.sd-dropdown summary").first.press("Enter")
    page.locator("table a[href*='#claim-']").first.press("Enter")
    page.wait_for_url("**/*#claim-*")
    assert not page.errors
    assert all(url.startswith((site, "data:", "blob:")) for url in page.requests)


def test_a_lesson_is_light_its_equations_linked_and_its_pictures_named(page, site):
    page.goto(f"{site}/mathematics/em.html")
    page.wait_for_selector("mjx-container")
    assert page.evaluate("document.querySelectorAll('*').length") < 25_000
    assert page.evaluate(
        "[...document.querySelectorAll('article img')].every(i => i.alt.length > 9)"
    )
    page.locator("a[href='#equation-3']").first.press("Enter")
    page.wait_for_url("**/em.html#equation-3")
    page.wait_for_function(
        "e => { const {top} = e.getBoundingClientRect(); return 0 <= top && top < innerHeight; }",
        arg=page.locator("#equation-3").element_handle(),
    )
    assert not page.errors


def test_what_a_search_shows_has_no_latex(page, site):
    page.goto(f"{site}/search.html?q=variance+eigenvalue")
    page.wait_for_selector("#search-results li p.context")
    assert "\\(" not in page.locator("#search-results").inner_text()
    assert not page.errors


def test_paper_shows_what_is_folded_but_not_the_plumbing(page, site):
    page.goto(f"{site}/mathematics/em.html")
    page.wait_for_selector("mjx-container")
    closed = "document.querySelectorAll('details:not([open])').length"
    before, plumbing = page.evaluate(closed), page.locator("details.hide:not([open])").count()
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(closed) == plumbing < before
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(closed) == before


def test_what_is_verified_is_filtered_by_its_kind(page, site):
    page.goto(f"{site}/verified.html")
    page.locator("details.sd-dropdown summary").first.press("Enter")
    rows = page.locator(".kx-ledger tbody tr").filter(has_text="proved")
    assert rows.first.is_visible()
    page.locator(".kx-filter label").filter(has_text="proved").first.locator("input").press("Space")
    assert not rows.first.is_visible()
    assert page.locator(".kx-ledger tbody tr").filter(has_text="ruled out").first.is_visible()


# A whole title, and a term of two characters.
@pytest.mark.parametrize("query", [catalog()["diffusion/probability_flow"].title_zh, "得分"])
def test_the_site_is_searched_in_chinese(page, site, query):
    page.goto(f"{site}/search.html?q={query}")
    page.wait_for_selector("#search-results a[href*='diffusion/probability_flow']")
    assert not page.errors


def test_a_frame_slider_moves_on_the_site(page, site):
    page.goto(f"{site}/mathematics/random_sector.html")
    box = page.locator(".kx-frames").first
    slider, picture = box.locator("input"), box.locator("img")
    slider.scroll_into_view_if_needed()
    before, label = picture.get_attribute("src"), box.locator("output").inner_text()
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert picture.get_attribute("src") != before
    assert box.locator("output").inner_text() != label
    page.wait_for_function("(image) => image.naturalWidth > 0", arg=picture.element_handle())
    assert not page.errors


def test_the_site_fits_a_phone(browser, site):
    phone = browser.new_page(viewport={"width": 390, "height": 800})
    for name in ("index", "mathematics/random_sector", "verified"):
        phone.goto(f"{site}/{name}.html")
        # What is typeset late may be too wide.
        phone.wait_for_function("!window.MathJax || MathJax.startup.promise.then(() => true)")
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390, name
    phone.close()


def test_the_app_serves_an_articles_explorers(page, app):
    page.goto(app)
    page.wait_for_selector(".noUi-handle")
    page.locator(".noUi-handle").first.focus()
    seconds_to_new_picture(page, page.locator("img.widget-image").first)
    assert page.locator("pre").filter(has_text="Error").count() == 0
