"""What the notebooks' claims keep: oracles that are no copies of the result, keys in order."""

import ast
import re
from itertools import pairwise

import nbformat
import pytest
from reports import finished

from kexue_lab.course.catalog import catalog
from kexue_lab.course.places import notebook_path
from kexue_lab.ledger import read_claim

# A literal is no oracle, unless it is printed elsewhere (with a year, or in Sloane's
# encyclopedia), or is a whole number or fraction that the named step or theorem gives.
PUBLISHED = re.compile(r"\b(1[5-9]|20)\d\d\b|\bA\d{6}\b")
REASONED = re.compile(r"\bsteps? \d|theor|by hand|logic|symmetry|conservation")
STORED = re.compile(r"stored|\bdigits?\b|reference values")
MAKERS = {"array", "asarray", "tensor", "full", "ones", "zeros", "list", "tuple", "float", "int"}
MAKERS |= {"F", "Fraction", "Rational", "Integer", "zip", "enumerate", "dict"}


def assigned(trees):
    """What the notebook assigns to each name; for a loop's variables, what it runs over."""
    known: dict[str, list[ast.AST]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                targets, value = node.targets, node.value
            elif isinstance(node, (ast.For, ast.comprehension)):
                targets, value = [node.target], node.iter
            else:
                continue
            for name in (n for target in targets for n in ast.walk(target)):
                if isinstance(name, ast.Name):
                    known.setdefault(name.id, []).append(value)
    return known


def is_literal(node, known, seen=frozenset()):
    """Whether the expression holds nothing but constants, however they are wrapped.

    An empty list is none: it will be filled by what follows.
    """

    def inner(*parts):
        return bool(parts) and all(is_literal(part, known, seen) for part in parts)

    match node:
        case ast.Constant() | ast.JoinedStr():
            return True
        case ast.Name(id=name):
            values = [] if name in seen else known.get(name, [])
            return bool(values) and all(is_literal(v, known, seen | {name}) for v in values)
        case ast.UnaryOp(operand=part) | ast.Starred(value=part) | ast.Subscript(value=part):
            return inner(part)
        case ast.BinOp(left=left, right=right):
            return inner(left, right)
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            return inner(*parts)
        case ast.Dict(values=parts):
            return inner(*parts)
        case ast.ListComp(elt=part) | ast.GeneratorExp(elt=part):
            return inner(part)
        case ast.Call(func=ast.Name(id=name), args=parts) if name in MAKERS:
            return inner(*parts)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np" | "torch" | "sp"), attr=name)):
            return name in MAKERS and inner(*node.args)
        case ast.Call(func=ast.Attribute(value=part)):
            return inner(part)  # a method of a literal: .values(), .double()
    return False


def is_exact(node, known, seen=None):
    """Whether a literal holds round numbers only: nobody copies those from a result."""
    seen = set() if seen is None else seen  # each name is looked up once
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, float):
            if round(part.value, 2) != part.value:
                return False
        elif isinstance(part, ast.Name) and part.id not in seen:
            seen.add(part.id)
            if not all(is_exact(value, known, seen) for value in known.get(part.id, ())):
                return False
    return True


def copied_oracles(sources):
    """The calls of `claims.agree` in code cells whose oracle is a literal without a source."""
    trees = [ast.parse(source) for source in sources]
    known = assigned(trees)
    for tree in trees:
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "claims.agree":
                options = {k.arg: k.value for k in call.keywords}
                theirs = options.get("theirs", call.args[3] if len(call.args) > 3 else None)
                oracle = ast.unparse(options["oracle"])
                literal = is_literal(theirs, known) and not PUBLISHED.search(oracle)
                reasoned = literal and REASONED.search(oracle) and is_exact(theirs, known)
                if STORED.search(oracle) or (literal and not reasoned):
                    yield f"{ast.unparse(call.args[0])} {ast.unparse(call.args[1])}: {oracle}"


def notebook(name):
    return nbformat.read(notebook_path(name), as_version=4)


def code(name):
    return [cell.source for cell in notebook(name).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", finished())
def test_no_oracle_is_a_literal(name):
    assert not list(copied_oracles(code(name)))


@pytest.mark.parametrize(
    "theirs",
    [
        "0.125",
        "-0.125",
        "[0.125, [0.2]]",
        "np.array([0.125, 0.2])",
        "torch.tensor([0.125]).double()",
        "[0.125] * 3",
        "list(table.values())",
        "stored",
        "[float(v) for v in stored]",
        "first",
        'float(f"{0.125}")',
        "np.full(3, 0.125)",
    ],
)
@pytest.mark.parametrize("call", ["{}, oracle='digits'", "theirs={}, oracle='step 3'"])
def test_a_copied_number_is_found(theirs, call):
    before = "stored = [0.125, 0.2]\ntable = {1: 0.125}\nfor first in stored:\n    pass"
    source = f"claims.agree('N1', 'in words', ours, {call.format(theirs)})"
    assert len(list(copied_oracles([before, source]))) == 1


@pytest.mark.parametrize(
    "call",
    [
        "quad(f, 0, 1)[0], oracle='quad'",
        "[math.exp(t) for t in (1, 2)], oracle='exp'",
        "stored, oracle='table 3 of Abramowitz and Stegun 1964'",
        "2, oracle='theory: order 2'",
        "[F(1, 2)] * 3, oracle='step 4'",
        "computed, oracle='the sum'",
    ],
)
def test_what_is_computed_or_published_is_an_oracle(call):
    before = "stored = [0.1, 0.2]\ncomputed = sum(table)"
    assert not list(copied_oracles([before, f"claims.agree('N1', 'in words', ours, {call})"]))


def lesson_keys(name):
    for cell in notebook(name).cells:
        for output in cell.get("outputs", []):
            claim = read_claim(output.get("data", {}).get("text/markdown", ""))
            if claim is not None:
                yield claim.key


def order(key):
    return int(re.search(r"\d+", key)[0]), key[-1] if key[-1].isalpha() else ""


def steps_back(keys):
    """The keys of derivation steps that come after a later step's."""
    steps = [key for key in keys if key.startswith("D")]
    return [b for a, b in pairwise(steps) if order(b) < order(a)]


LESSONS = [name for name in finished() if getattr(catalog()[name], "state", "") == "lesson"]


@pytest.mark.parametrize("name", LESSONS)
def test_a_lessons_steps_are_numbered_in_order(name):
    assert not steps_back(lesson_keys(name))


def test_a_step_back_is_found():
    assert steps_back(["D1", "D1a", "N3", "D2", "N1", "D10", "E1"]) == []
    assert steps_back(["D4", "D1", "D2a", "D2"]) == ["D1", "D2"]
