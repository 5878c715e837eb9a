"""What the notebooks take, in units of a reference load that ran in the same kernel.

Run with `make bench`. Nothing is asserted: the slowest are listed.
"""

import pytest
from reports import cached_report, finished

SLOWEST = 5


def listed(title, rows):
    print(f"\n{title}, slowest {SLOWEST} of {len(rows)} (1 unit = the reference load there)")
    for value, reference, unit, name in sorted(rows, key=lambda r: -r[0] / r[1])[:SLOWEST]:
        print(f"  {value / reference:8.2f} units  {value:8.1f} {unit}  {name}")


@pytest.mark.benchmark(group="course")
def test_notebooks_and_explorers(benchmark):
    reports = benchmark.pedantic(lambda: [cached_report(name) for name in finished()])
    notebooks, explorers = [], []
    for report in reports:
        reference = report["reference_ms"]
        cpu = 1e3 * report["cpu_seconds"]
        notebooks.append((cpu, reference, "ms of processor time", report["article"]))
        explorers += [
            (found["redraw_ms"], reference, "ms a redraw", f"{report['article']}: {found['name']}")
            for found in report["explorers"]
        ]
    listed("Notebooks", notebooks)
    listed("Explorers", explorers)
