"""The benchmarks' pages: what docs and results say is what was measured."""

from __future__ import annotations

from benchmarks.__main__ import SECTIONS
from benchmarks.figures import DOCUMENT, FOLDER, Figure, at_least, markdown, page, renewed


def test_pages_show_the_figures_that_are_kept() -> None:
    assert renewed(DOCUMENT.read_text()) == DOCUMENT.read_text()
    assert page(tuple(SECTIONS)) == (FOLDER / "README.md").read_text()


def test_a_marked_table_is_made_anew_and_the_rest_of_a_document_stays() -> None:
    made = renewed("before\n<!-- benchmarks: startup -->\nold\n<!-- end -->\nafter, <!-- end --> too\n")
    assert made.startswith("before\n<!-- benchmarks: startup -->\n| | measured | bar |\n")
    assert "modesweep plan quickstart" in made
    assert "old" not in made
    assert made.endswith("<!-- end -->\nafter, <!-- end --> too\n")


def test_figures_by_stack_become_a_column_for_each_case() -> None:
    figures = [
        Figure("KL on ring", 2.0, "ms", stack=1),
        Figure("KL on ring", 1.5, "ms", stack=16),
        Figure("VAE on ring", 7.0, "ms", stack=1),
    ]
    assert markdown(figures) == [
        "| stack | KL on ring | VAE on ring |",
        "|---:|---:|---:|",
        "| 1 | 2 ms | 7 ms |",
        "| 16 | 1.5 ms |  |",
    ]


def test_other_figures_stand_beside_their_bars() -> None:
    rows = markdown([Figure("wall", 1234.0, "s", 60), at_least("cheaper", 20.5, 20, "times"), Figure("a cell", 3.25)])
    assert rows[2:] == [
        "| wall | 1,234 s | at most 60: NO |",
        "| cheaper | 20.5 times | at least 20: yes |",
        "| a cell | 3.25 |  |",
    ]
