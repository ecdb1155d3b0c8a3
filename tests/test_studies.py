"""Studies: their closed forms against other mathematics, and what they make of cells."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from experiments.catalogue import CATALOGUE
from experiments.kl_fit import MEANINGS
from experiments.targets import Mixture
from studies import (
    __main__,
    damage,
    dimension,
    gan_protocol,
    gradient_metrics,
    gradients,
    inline,
    metrics,
    penalty,
    vae_metrics,
)

MODES = 4.0


@pytest.mark.parametrize("dim", [2, 3, 7, 64])
def test_what_correlation_costs(dim: int) -> None:
    """By determinants and inverses; and no other diagonal does better."""
    r = np.full((dim, dim), 0.5) + 0.5 * np.eye(dim)
    log_det, precision = np.linalg.slogdet(r)[1], np.diag(np.linalg.inv(r))
    forward, reverse = dimension.correlated(dim)
    assert forward == pytest.approx(-log_det / 2, rel=1e-9)
    assert reverse == pytest.approx((log_det + np.log(precision).sum()) / 2, rel=1e-9)

    def reverse_at(v: np.ndarray) -> float:
        return 0.5 * float(precision @ v - dim + log_det - np.log(v).sum())

    rng = np.random.default_rng(dim)
    assert reverse_at(1 / precision) == pytest.approx(reverse, rel=1e-9)
    assert all(reverse_at(rng.lognormal(0, 0.3, dim) / precision) > reverse for _ in range(20))


def log_p(x: np.ndarray) -> np.ndarray:
    """Of two modes along the diagonal of the plane, a point a row."""
    means = np.array([1, 1]) * MODES / math.sqrt(2)
    each = [stats.multivariate_normal(sign * means, np.eye(2)).logpdf(x) for sign in (-1, 1)]
    return np.logaddexp(*each) - math.log(2)


@pytest.mark.parametrize(("full", "seeking"), [(True, True), (True, False), (False, True), (False, False)])
def test_two_modes_in_the_plane(full: bool, seeking: bool) -> None:
    """Reverse KL at Gaussians with and without correlation: none is better, and the best is equal."""
    # Along the modes' line an even grid, as log p bends there; across it log p is a square, for which five nodes do.
    line = np.linspace(-9, 9, 1201)
    node, weight = np.polynomial.hermite_e.hermegauss(5)
    w = np.outer(stats.norm.pdf(line) * (line[1] - line[0]), weight / weight.sum()).ravel()
    diagonal, other = np.array([[1, 1], [1, -1]]) / math.sqrt(2)
    z = (line[:, None, None] * diagonal + node[None, :, None] * other).reshape(-1, 2)

    def value(a: float, along: float, across: float) -> float:
        root = across * np.eye(2) + (along - across) * np.outer(diagonal, diagonal)
        x = a * diagonal + z @ root
        entropy = math.log(2 * math.pi * math.e) + math.log(along * across)
        return float(-entropy - w @ log_p(x))

    known = dimension.reverse_pair(2, full, seeking)
    widths = np.linspace(0.5, 4, 201)
    starts = [MODES - 0.005, MODES] if seeking else [0.0]
    found = min(value(a, s, 1.0 if full else s) for a in starts for s in [*widths, 1.0, 1.0008])
    assert known <= found + 1e-6
    assert found == pytest.approx(known, abs=5e-4)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_forward_kl_of_two_modes(dim: int) -> None:
    """KL(P || Q) of moments, by its one-dimensional part and the determinant of the covariance."""
    line = integrate.quad(lambda x: math.exp(lp := _line(x)) * (lp - stats.norm.logpdf(x, 0, math.sqrt(17))), -16, 16)[
        0
    ]
    assert dimension.forward_pair(dim, full=True) == pytest.approx(line, abs=1e-8)
    variances = np.full(dim, 1 + 16 / dim)
    covariance = np.eye(dim) + 16 * np.full((dim, dim), 1 / dim)
    lost = 0.5 * (np.log(variances).sum() - np.linalg.slogdet(covariance)[1])
    assert dimension.forward_pair(dim, full=False) == pytest.approx(line + lost, abs=1e-8)


def _line(x: float) -> float:
    return float(np.logaddexp(stats.norm.logpdf(x, -4), stats.norm.logpdf(x, 4)) - math.log(2))


def test_the_middle_is_an_optimum_where_its_curvature_is_positive() -> None:
    """By finite differences of the divergence itself."""
    s = 1.7
    h = 1e-3
    values = [dimension.reverse_line(a, s) for a in (-h, 0.0, h)]
    second = (values[0] - 2 * values[1] + values[2]) / h**2
    z = np.random.default_rng(0).standard_normal(400_000)
    drawn = 1 - 16 * np.cosh(4 * s * z) ** -2.0
    assert second == pytest.approx(drawn.mean(), abs=5 * drawn.std() / math.sqrt(len(z)))
    assert dimension.curvature(2) < 0


@pytest.mark.parametrize("estimator", ["reparameterization", "sticking_the_landing"])
@pytest.mark.parametrize(("width", "offset", "dim"), [(0.4, 0.5, 1), (1.0, 0.5, 3), (1.9, 1.3, 2)])
def test_variances_of_gradients(estimator: str, width: float, offset: float, dim: int) -> None:
    """Against gradients written out and drawn."""
    e = np.random.default_rng(1).standard_normal((dim, 400_000))
    x = np.full((dim, 1), offset / math.sqrt(dim)) + width * e
    by_x = x if estimator == "reparameterization" else x - e / width
    squares = np.concatenate([by_x, by_x * width * e])
    squares = (squares - squares.mean(axis=1, keepdims=True)) ** 2
    total = squares.sum(axis=0)
    known = gradients.closed_form(estimator, width, offset, dim)
    assert known == pytest.approx(total.mean(), abs=5 * total.std() / math.sqrt(total.size))


def test_the_border_is_where_a_ratio_falls_through_one() -> None:
    widths = np.array([0.5, 0.6, 0.7, 0.8, 1.0])
    assert gradients.border(pd.Series((0.71 / widths) ** 3, index=widths)) == pytest.approx(0.71, rel=1e-6)
    both = [gradients.closed_form(name, 0.5**0.5, 0.8, 5) for name in ("reparameterization", "sticking_the_landing")]
    assert both[0] == pytest.approx(both[1], rel=1e-12)


def test_evenness_is_entropy_s_distance_from_that_of_equal_masses() -> None:
    masses = np.random.default_rng(2).dirichlet(np.ones(8))
    entropy = stats.entropy(masses)
    metrics = {"modes_captured": 8, "high_quality": 0.5, "entropic_coverage": entropy / math.log(8), "log_width": 0.0}
    row = gan_protocol._row("ring8", "fitted here", "any", metrics)
    assert row["kl_over_modes"] == pytest.approx(stats.entropy(masses, np.full(8, 1 / 8)), rel=1e-9)
    assert row["high_quality_percent"] == 50


def test_every_study_has_a_sweep_or_needs_none() -> None:
    without = ("penalty", "ladder", "best_gaussians", "metrics", "fit_metrics", "vae_metrics", "gradient_metrics")
    for name, module in __main__.STUDIES.items():
        assert module is importlib.import_module(f"studies.{name}")
        assert name in CATALOGUE.sweeps or name in without


def row(modes: int) -> Mixture:
    """Equal unit modes on a line, far apart."""
    return Mixture("row", np.full(modes, 1 / modes), 40.0 * np.arange(modes)[:, None], np.ones((modes, 1, 1)))


@pytest.mark.parametrize("kept", [1, 3, 4, 5])
def test_lost_modes_cost_the_logarithm_of_their_share(kept: int) -> None:
    """Of separate equal modes everything is known: Q is K / m times P where it is, and nothing elsewhere."""
    found = damage.exactly(row(5), damage.lose(row(5), 1 - kept / 5)).metrics
    invoice = math.log(5 / kept)
    for name, value in {
        "reverse_kl": invoice,
        "reverse_coverage_nats": invoice,
        "reverse_shape_nats": 0.0,
        "entropy_gap": -invoice,
        "log_z_reverse": -invoice,
        "collapse_invoice": invoice,
        "coverage": kept / 5,
        "sharpness": 1.0,
        "capture_area": kept / 5,
        "effective_modes": kept / 5,
        "entropic_coverage": math.log(kept) / math.log(5),
        "ess_reverse": 1.0,
        "modes_captured": kept,
        "log_width": 0.0,
    }.items():
        assert found[name] == pytest.approx(value, abs=1e-8), name
    m = np.array([0.5, 0.5 * kept / 5])  # Jensen-Shannon: log-ratios are constant on the modes kept and on those lost
    mean = [kept / 5 * math.log(0.2 / (m[0] * 0.2 + 0.5 / kept)), math.log((1 / kept) / (0.5 / kept + 0.1))]
    assert found["jensen_shannon"] == pytest.approx(
        0.5 * (mean[0] + (1 - kept / 5) * math.log(2)) + 0.5 * mean[1], abs=1e-8
    )


@pytest.mark.parametrize(("factor", "widths"), [(0.5, 0.0), (2.0, 0.0), (1.0, 1.5)])
def test_widths_and_shifts_cost_what_they_cost_one_gaussian(factor: float, widths: float) -> None:
    """Modes 40 sd apart do not know of each other."""
    q = damage.shift(damage.widen(row(4), factor), widths / factor)
    found = damage.exactly(row(4), q).metrics
    assert found["reverse_kl"] == pytest.approx((factor**2 + widths**2 - 1) / 2 - math.log(factor), abs=1e-8)
    assert found["forward_kl"] == pytest.approx(((1 + widths**2) / factor**2 - 1) / 2 + math.log(factor), abs=1e-8)
    assert found["log_width"] == pytest.approx(math.log(factor), abs=1e-6)
    assert found["entropy_gap"] == pytest.approx(math.log(factor), abs=1e-8)


def test_tilt_and_blur_keep_the_mass() -> None:
    target = row(6)
    tilted = damage.tilt(target, 100)
    assert tilted.weights.sum() == pytest.approx(1, abs=1e-14)
    assert tilted.weights[0] / tilted.weights[-1] == pytest.approx(100)
    found = damage.exactly(target, tilted).metrics
    assert found["reverse_kl"] == pytest.approx(stats.entropy(tilted.weights, target.weights), abs=1e-9)
    for share in (0.0, 0.3, 1.0):
        q = damage.blur(target, share)
        assert q.weights.sum() == pytest.approx(1, abs=1e-14)
        np.testing.assert_allclose(q.mean, target.mean)
        np.testing.assert_allclose(q.covariance, target.covariance)


def test_what_a_point_costs_is_what_the_search_of_optima_charges() -> None:
    """By the integrands of the search, which are another code; and sums of the two directions."""
    u = np.linspace(-9, 9, 37)
    known = penalty.charges(u)
    for name, divergence in penalty.DIVERGENCES.items():
        forward, reverse = divergence.kl_weights
        charged = forward * known["forward_kl"] + reverse * known["reverse_kl"]
        if divergence.has_rest:
            charged = charged + divergence.rest(u)[0]
        np.testing.assert_allclose(known[name], charged, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kl_weight", [1.0, 2.0])
def test_the_optimum_of_a_linear_vae(kl_weight: float) -> None:
    """Beside the elbo of its parameters written out: encoder and decoder along each direction."""
    noise, spectrum = vae_metrics.NOISE, vae_metrics.SPECTRUM
    gain = np.sqrt(np.maximum(spectrum - kl_weight * noise, 0))  # of the decoder; the encoder's best is then linear
    precision = 1 + gain**2 / (kl_weight * noise)
    code = gain / (kl_weight * noise) / precision
    rate = 0.5 * (1 / precision + code**2 * spectrum - 1 + np.log(precision)).sum()
    mse = ((1 - gain * code) ** 2 * spectrum + gain**2 / precision).sum()
    known = vae_metrics.optimum(kl_weight)
    assert known["rate"] == pytest.approx(rate, rel=1e-12)
    assert known["reconstruction_mse"] == pytest.approx(mse, rel=1e-12)
    made = gain**2 + noise
    nll = -(stats.norm(0, np.sqrt(made)).logpdf(np.sqrt(spectrum))).sum()  # the square is all that counts
    assert known["nll"] == pytest.approx(nll, rel=1e-12)
    assert known["elbo"] == pytest.approx(-rate - mse / (2 * noise) - 2.5 * math.log(2 * math.pi * noise), rel=1e-12)


def test_cells_run_inline_do_not_depend_on_each_other() -> None:
    target = gradient_metrics.normal(2)
    asked = [(target, {"estimator": name, "repeats": 20}) for name in ("naive", "reparameterization", "naive")]
    together = inline.run("gradients", asked)
    assert [o.metrics["evaluations"] for o in together] == [16, 32, 16]
    assert together[1].metrics == inline.run("gradients", asked[1:2])[0].metrics


DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS.parent / "results" / "studies"
METRIC_PAGES = {path.stem: path for path in sorted((DOCS / "metrics").glob("*.md")) if path.stem != "README"}
DIVERGENCE_PAGES = {path.stem: path for path in sorted((DOCS / "divergences").glob("*.md")) if path.stem != "README"}
PAGES = [*METRIC_PAGES.values(), *DIVERGENCE_PAGES.values()]
HEADINGS = {
    "metrics": ["Columns", "Formula", "Range", "What it tells", "Where it fails", "How it is estimated"],
    "divergences": [
        *("Formula", "Meaning", "Range", "Estimator and sampling distribution", "Gradient estimators"),
        *("Infinite or refused", "Where it fails"),
    ],
}
# Thresholds and closed forms, of which no table has a row: 1 / sqrt(2), ln 2, ln(2) / 2, shares of regions, ceilings.
KNOWN = {"0.95", "0.1", "0.01", "0.5", "0.71", "0.707", "0.693", "0.347", "0.969", "0.468", "0.989", "0.69", "0.25"}

SETTINGS = ("level", "kl_weight", "width", "start")


def linked(page: Path) -> list[str]:
    """Files that a page links to, relative to it."""
    return [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if not link.startswith("http")]


def test_every_sweep_is_told_of() -> None:
    told = (DOCS / "studies.md").read_text()
    assert all(f"\n## {name}\n" in told for name in CATALOGUE.sweeps if name != "smoke")


def test_every_link_of_the_docs_leads_somewhere() -> None:
    pages = sorted(DOCS.rglob("*.md"))
    assert sum(len(linked(page)) for page in pages) > 100
    assert [(page.name, link) for page in pages for link in linked(page) if not (page.parent / link).exists()] == []


def test_every_column_is_on_one_page() -> None:
    listed = [
        name
        for page in METRIC_PAGES.values()
        for line in re.findall(r"\*\*Columns\*\*: (.*?)\n\n", page.read_text(), re.DOTALL)
        for name in re.findall(r"`([a-z_]+)`", line)
    ]
    assert len(listed) == len(set(listed))
    reported = {metric.name for experiment in CATALOGUE.experiments.values() for metric in experiment.metrics}
    labels = {label for experiment in CATALOGUE.experiments.values() for label in experiment.labels}
    assert (reported | labels) - set(listed) == set()


def test_every_divergence_has_a_page() -> None:
    assert set(DIVERGENCE_PAGES) == set(MEANINGS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_a_page_has_its_headings_and_a_small_picture(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.stem}\n")
    assert re.findall(r"^\*\*([A-Z][^*]+)\*\*", text, re.MULTILINE) == HEADINGS[page.parent.name]
    (picture,) = re.findall(r"^!\[.*\]\((.*)\)\n\n\*", text, re.MULTILINE)
    assert picture == f"../../results/studies/{page.parent.name}/{page.stem}.png"
    assert (page.parent / picture).stat().st_size < 50_000
    assert f"]({page.stem}.md)" in (page.parent / "README.md").read_text()
    assert 15 <= text.count("\n") <= (40 if page.parent.name == "metrics" else 50)


@pytest.mark.parametrize("name", metrics.PAGES)
def test_a_page_prints_what_its_picture_shows(name: str) -> None:
    table, text = pd.read_csv(RESULTS / "metrics.csv"), METRIC_PAGES[name].read_text()
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    assert [cell.strip() for cell in rows[0][1:]] == list(metrics.QUOTED)
    assert len(rows) > 2
    for head, *cells in rows[1:]:
        column, target = ([name, *re.findall(r"`(\w+)`", head)])[-2:]
        assert [cell.strip() for cell in cells] == metrics.quoted(table, target, column)


def test_the_table_of_known_fits_is_the_study_s() -> None:
    table = pd.read_csv(RESULTS / "ladder.csv", index_col="fit")
    rows = [line.split("|")[1:-1] for line in (DOCS / "metrics" / "README.md").read_text().splitlines()]
    printed = {row[0].strip(): [cell.strip(" *") for cell in row[1:]] for row in rows if len(row) == 8}
    assert printed.pop("metric")[:-1] == list(table.index)[:-1]  # the last one's name is longer there
    known = {name: cells for name, cells in printed.items() if name in table}
    assert len(known) == len(table.columns)
    for name, cells in known.items():
        for cell, number in zip(cells, table[name], strict=True):
            half = 0.5 * 10.0 ** -len(cell.partition(".")[2])
            assert float(cell or math.nan) == pytest.approx(number, abs=half + 1e-6, nan_ok=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_numbers_of_a_page_are_in_its_tables(page: Path) -> None:
    """Every decimal number in the text is, to its last digit, in a table that the page is about."""
    text = page.read_text()
    prose = re.sub(r"^```text.*?```$", " ", text, flags=re.M | re.S)
    prose = re.sub(r"^(    |\|).*$|arXiv \d+\.\d+|\]\([^)]*\)", " ", prose, flags=re.M)
    prose = re.sub(r"`[^`]*`", " ", prose)
    held = {abs(x) for x in _held(page, text) if np.isfinite(x)}
    for word in set(re.findall(r"\d+\.\d+", prose)) - KNOWN:
        digits = len(word.split(".")[1])
        assert any(abs(x - float(word)) <= 0.5 * 10.0**-digits + 1e-6 for x in held), word


def _held(page: Path, text: str) -> list[float]:
    tables = [pd.read_csv(RESULTS / f"{name}.csv") for name in re.findall(r"studies/(\w+)\.csv", text)]
    if page.parent.name == "metrics":
        # Of the columns that the page speaks of, and of the fits that it prints or rings: all would hold any number.
        words = set(re.findall(r"\w+", text)) | set(SETTINGS)
        columns = [name for name in tables[0] if name.removesuffix("_se") in words]
        fits = (
            {*metrics.QUOTED.values(), *(at[1:] for at in metrics.PAGES[page.stem].fails)} if "level" in columns else ()
        )
        shown = [tables[0][tables[0]["damage"] == kind] for kind, _ in fits]
        near = [(rows["level"] - level).abs() < 0.04 for rows, (_, level) in zip(shown, fits, strict=True)]
        tables = [rows.loc[at, columns] for rows, at in zip(shown, near, strict=True)] or [tables[0][columns]]
    if page.parent.name == "divergences":
        tables += [pd.read_csv(RESULTS / f"{name}.csv") for name in ("divergences", "penalty", "alpha_path")]
        named = (tables[0]["divergence"], tables[1]["name"].str.split().str[0])
        tables[:2] = [rows[names.isin(re.findall(r"\w+", text))] for rows, names in zip(tables[:2], named, strict=True)]
    said = re.findall(r"\d+\.\d+", (RESULTS / "phase_diagram.md").read_text())
    numbers = [x for table in tables for x in table.select_dtypes("number").to_numpy().ravel()]
    return numbers + ([float(x) for x in said] if page.parent.name == "divergences" else [])
