"""Tables, pictures and a page of what the shipped sweeps found: `python -m studies [NAME ...]`, or `make study`."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from matplotlib import rc_context
from PIL import Image

from experiments.catalogue import CATALOGUE
from runner.api import load_sweep
from runner.figures.style import RC
from studies import (
    alpha_path,
    best_gaussians,
    digits,
    dimension,
    divergences,
    families_2d,
    fit_metrics,
    flows,
    gan_protocol,
    gradient_metrics,
    gradients,
    ladder,
    metrics,
    penalty,
    phase_diagram,
    textbook,
    vae_metrics,
)
from studies.finding import Finding

STUDIES: dict[str, ModuleType] = {
    "phase_diagram": phase_diagram,
    "textbook": textbook,
    "alpha_path": alpha_path,
    "divergences": divergences,
    "penalty": penalty,
    "ladder": ladder,
    "gan_protocol": gan_protocol,
    "dimension": dimension,
    "gradients": gradients,
    "flows": flows,
    "families_2d": families_2d,
    "digits": digits,
    "best_gaussians": best_gaussians,
    "metrics": metrics,
    "fit_metrics": fit_metrics,
    "vae_metrics": vae_metrics,
    "gradient_metrics": gradient_metrics,
}
FOLDER = Path(__file__).parents[1] / "results" / "studies"
DPI = 110
COLOURS = 256


def main() -> None:
    """Study the results asked for, and renew the page of all that is kept."""
    parser = argparse.ArgumentParser(prog="python -m studies", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(STUDIES)} [all]")
    parser.add_argument("--results", type=Path, default=FOLDER.parent, help="where `modesweep run` wrote")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where tables and pictures go")
    options = parser.parse_args()
    if unknown := set(options.name) - set(STUDIES):
        parser.error(f"no study {', '.join(sorted(unknown))}; there are {', '.join(STUDIES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.name or STUDIES:
        path = options.results / name / "cells.parquet"
        if name in CATALOGUE.sweeps and not path.exists():
            parser.error(f"{path} is not there: run `modesweep run {name}` first")
        cells = pd.read_parquet(path) if name in CATALOGUE.sweeps else pd.DataFrame()
        with rc_context(dict(RC)):
            finding = STUDIES[name].find(cells[cells["status"] == "ok"] if len(cells) else cells)
            if finding.figure is not None:
                save(finding.figure, options.out / f"{name}.png")
            for picture, figure in finding.pictures.items():
                path = options.out / f"{picture}.png"
                path.parent.mkdir(exist_ok=True)
                save(figure, path)
        finding.table.to_csv(options.out / f"{name}.csv", index=False)
        (options.out / f"{name}.md").write_text(section(name, finding))
        print(f"{name}\n" + "\n".join(f"- {line}" for line in finding.said) + "\n")
    page = [(options.out / f"{name}.md").read_text() for name in STUDIES if (options.out / f"{name}.md").exists()]
    (options.out / "README.md").write_text("\n".join([HEAD, *page]))


def save(figure: Any, path: Path) -> None:
    """As a png of few colours: pictures that are kept in git should be small."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    Image.open(buffer).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


HEAD = """# Studies

What the shipped sweeps found, with the tables (csv) behind the pictures. `make study` runs the sweeps and writes all of
this. `docs/studies.md` tells what to look for. The last five need no sweep and draw the pictures of `docs/metrics` and
`docs/divergences`.
"""


def section(name: str, finding: Finding) -> str:
    """A study as markdown."""
    lines = [f"## {name}", ""]
    if name in CATALOGUE.sweeps:
        lines += [" ".join(load_sweep(name).question.split()), "", f"`modesweep run {name}`", ""]
    lines += [f"- {sentence}" for sentence in finding.said]
    if finding.figure is not None:
        lines += ["", f"![{name}]({name}.png)", "", finding.caption]
    if finding.pictures:
        links = [f"[{picture.split('/')[1]}]({picture}.png)" for picture in finding.pictures]
        lines += ["", f"Pictures: {', '.join(links)}"]
    return "\n".join([*lines, "", f"Table: [{name}.csv]({name}.csv)", ""])


if __name__ == "__main__":
    main()
