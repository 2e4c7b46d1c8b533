"""Draw the pictures of the documentation from real answers: `python docs/pictures.py`."""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

import kqv
from benchmarks.variants import FIGURES
from service.cli.tables import describe


def draw_analyze(path: Path) -> None:
    """What `kqv analyze` prints, as a terminal shows it."""
    [analysis] = kqv.load("minilm").analyze(["The cat sat on the mat."], weights="top", outputs=())
    console = Console(record=True, width=100, highlight=False)
    for part in describe(analysis):
        console.print(part)
    no_fonts = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)  # rich would fetch them from elsewhere
    svg = console.export_svg(title='kqv analyze "The cat sat on the mat."', code_format=no_fonts)
    path.write_text(svg, encoding="utf-8")


LOOKS = {
    "dense": ("dense, by definition", "#444444", "s"),
    "sdpa": ("torch SDPA, output alone", "#999999", "o"),
    "kqv, all diagnostics": ("kqv, all diagnostics", "#d62728", "D"),
    "longformer, window 512": ("Longformer, window 512", "#1f77b4", "^"),
    "linformer, rank 256": ("Linformer, rank 256", "#2ca02c", "v"),
    "performer, 256 features": ("Performer, 256 features", "#9467bd", "P"),
}
"""What the plot of costs shows: its name there, colour and marker."""


def draw_costs(path: Path) -> None:
    """Time and peak memory against the number of tokens, as `python -m benchmarks variants` last measured them."""
    measured = json.loads(FIGURES.read_text(encoding="utf-8"))
    plt.rcParams |= {"svg.hashsalt": "kqv", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axis, (what, unit) in zip(axes, {"seconds": "seconds", "megabytes": "MB at the peak"}.items(), strict=True):
        for name, (label, colour, marker) in LOOKS.items():
            points = sorted((int(n), value) for n, value in measured[what][name].items())
            axis.loglog(*zip(*points, strict=True), color=colour, marker=marker, markersize=5, label=label)
        axis.set(xlabel="tokens", title=unit)
        axis.set_xticks(sorted(int(n) for n in measured[what]["sdpa"]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.grid(which="major", color="#dddddd", linewidth=0.6)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw_analyze(Path(__file__).with_name("analyze.svg"))
    draw_costs(Path(__file__).with_name("costs.svg"))
