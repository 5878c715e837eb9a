"""Outputs are compared as a reader would: what passes, and what still fails."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexue_lab.course.outputs import outputs_differ, text_differs

SAME = [
    ("0.9999", "1.000"),
    ("loss 0.123 after 40 steps", "loss 0.124 after 40 steps"),
    ("9.99e-06", "1.00e-05"),
    ("-0.00 and 0.01", "0.00 and -0.00"),
    ("[0.25 1.  ]", "[0.25 0.99]"),
    (" 9.99 |", "10.00 |"),
    ("9.99  |", "10.00 |"),
    ("−1.25", "−1.24"),
    ("x = 0.5.", "x = 0.4."),
    ("(1.5, nan)", "(1.6, nan)"),
]
DIFFERENT = {
    "a word": ("loss falls to 0.123", "loss rises to 0.123"),
    "a decimal off by two units": ("0.123", "0.125"),
    "a decimal off by two units of 10": ("9.99", "10.01"),
    "a whole number": ("after 40 steps", "after 41 steps"),
    "a whole number beside a decimal": ("0.5 in 40", "0.5 in 41"),
    "a whole number made a decimal": ("1 and 2", "1.0 and 2"),
    "an exponent in a formula": ("$x^{2}$", "$x^{3}$"),
    "an exponent of a decimal": ("1.5e-05", "1.5e-06"),
    "an exponent without a point": ("1e-05", "2e-05"),
    "a decimal in a formula": ("$0.5 x$", "$0.6 x$"),
    "a decimal in a long formula": ("$$a\n+ 0.5$$", "$$a\n+ 0.6$$"),
    "a fraction": ("1/3", "2/3"),
    "a missing line": ("one\ntwo", "one"),
    "an empty line": ("one\n\ntwo", "one\ntwo"),
    "nan": ("0.5", "nan"),
    "nan the other way": ("nan", "0.5"),
    "infinity": ("0.5", "inf"),
    "a sign": ("-0.01", "0.01"),
    "a sign in words": ("+ 0.50", "- 0.50"),
    "a typographic sign": ("−1.5", "1.5"),
    "layout": ("0.5  0.6", "0.5 0.6"),
    "order": ("0.5 0.9", "0.9 0.5"),
    "a version": ("sympy 1.14.0", "sympy 1.13.0"),
    "a number of decimals": ("1. 2.25 3.75", "2. 2.25 3.75"),
    "one more number": ("0.5", "0.5 0.5"),
    "a name with a number": ("x1.5", "x1.6"),
}


@pytest.mark.parametrize(("stored", "fresh"), SAME)
def test_a_reader_sees_the_same(stored, fresh):
    assert text_differs(stored, fresh) is None
    assert text_differs(fresh, stored) is None


@pytest.mark.parametrize(("stored", "fresh"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_reader_sees_the_difference(stored, fresh):
    assert text_differs(stored, fresh)
    assert text_differs(fresh, stored)


def test_the_message_shows_the_line():
    found = text_differs("one 0.10\ntwo 0.50\nthree", "one 0.11\ntwo 0.90\nthree")
    assert found == "line 2: stored 'two 0.50', came 'two 0.90'"


@given(st.integers(-(10**6), 10**6), st.integers(-9, 9), st.integers(1, 5))
def test_one_unit_agrees_and_two_do_not(whole, units, places):
    shown, other = (f"{n / 10**places:.{places}f}" for n in (whole, whole + units))
    across = whole * (whole + units) < 0
    assert (text_differs(shown, other) is None) == (abs(units) <= 1 and not across)


@given(st.text(alphabet="ab 01.-e$\n[]±", max_size=30))
def test_a_text_is_the_same_as_itself(text):
    assert text_differs(text, text) is None


MARKDOWN = "✓ **E1** · *{kind}* — clipping helps <small>[{bracket}]</small>"
PLAIN = "✓ E1 {kind}: clipping helps [{bracket}]"


@pytest.mark.parametrize("form", [MARKDOWN, PLAIN])
@pytest.mark.parametrize("kind", ["estimated", "observed"])
def test_what_was_drawn_is_free_in_claims_of_chance(form, kind):
    old = form.format(kind=kind, bracket="difference +12 ± 3 over 5 seeds, p < 0.001, z = -0.3")
    new = form.format(kind=kind, bracket="difference +9.5 ± 0.8 over 5 seeds, p = 0.002, z = +1.2")
    assert text_differs(old, new) is None
    assert text_differs(old, new.replace("5 seeds", "6 seeds"))
    assert text_differs(old, new.replace("helps", "hurts"))


def test_elsewhere_a_claims_figures_are_compared():
    old = MARKDOWN.format(kind="measured", bracket="largest 0.25, below 0.5")
    assert text_differs(old, old.replace("0.25", "0.31"))
    words = "✓ D1 proved: what is observed: a mean of [0.5]"
    assert text_differs(words, words.replace("0.5", "0.9"))


def test_an_experiments_decimals_are_free_and_its_words_are_not():
    assert text_differs("loss   0.97 in 40", "loss  -10.36 in 40", free=True) is None
    assert text_differs("loss 0.97 in 40", "loss 0.97 in 41", free=True)
    assert text_differs("loss 0.97", "gain 0.97", free=True)
    assert text_differs("loss 0.97", "loss nan", free=True)


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data):
    content = {key.replace("_", "/"): value for key, value in data.items()}
    return {"output_type": "display_data", "data": content, "metadata": {}}


def test_outputs_of_each_kind():
    picture = shown(image_png="AAAA", text_plain="<Figure>")
    stored = [stream("0.10\n"), picture, shown(text_latex="$x^2$")]
    assert outputs_differ(stored, [stream("0.11\n"), *stored[1:]]) is None
    assert outputs_differ(stored, [*stored[1:], stream("0.1"), stream("1\n")]) is None
    redrawn = shown(image_png="BBBB", text_plain="<Figure>")
    assert outputs_differ(stored, [stored[0], redrawn, stored[2]]) is None


def test_a_widgets_view_is_not_stored():
    stored = shown(image_png="AAAA", text_plain="Explorer(f: a = 1)")
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    assert outputs_differ([stored], [{**stored, "data": stored["data"] | view}]) is None


def test_what_fails_between_outputs():
    picture = shown(image_png="AAAA", text_plain="<Figure>")
    stored = [stream("0.10\n"), picture, shown(text_latex="$x^2$")]
    assert "stdout" in outputs_differ(stored, [stream("0.13\n"), *stored[1:]])
    assert "stderr" in outputs_differ(stored, [*stored, stream("warning", "stderr")])
    assert "3 outputs" not in outputs_differ(stored, stored[:-1])
    assert "2 outputs are stored, 1 came" in outputs_differ(stored, stored[:-1])
    assert "came" in outputs_differ(stored, [stored[0], shown(text_plain="<Figure>"), stored[2]])
    assert "text/latex" in outputs_differ(stored, [*stored[:-1], shown(text_latex="$x^3$")])
    swapped = [stored[0], stored[2], stored[1]]
    assert outputs_differ(stored, swapped)
    error = {"output_type": "error", "ename": "E", "evalue": "no", "traceback": []}
    assert outputs_differ([], [error])


def test_an_experiments_cell():
    stored, fresh = [stream("loss 0.97")], [stream("loss 0.36")]
    assert outputs_differ(stored, fresh)
    assert outputs_differ(stored, fresh, experiment=True) is None


def test_the_text_in_place_of_a_picture_has_free_decimals_and_fixed_words():
    def shown(text):
        data = {"image/png": "", "text/plain": text}
        return [{"output_type": "display_data", "data": data, "metadata": {}}]

    assert outputs_differ(shown("Picture: loss 0.5"), shown("Picture: loss 0.7")) is None
    assert outputs_differ(shown("Picture: loss 0.5"), shown("Picture: gain 0.5"))
    assert outputs_differ(shown("Picture: 3 lines"), shown("Picture: 4 lines"))
