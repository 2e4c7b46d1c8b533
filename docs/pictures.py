"""Draw the pictures of the documentation from real answers: `python docs/pictures.py`."""

import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

import kqv
from service.tables import describe


def draw_analyze(path: Path) -> None:
    """What `kqv analyze` prints, as a terminal shows it."""
    [analysis] = kqv.load("minilm").analyze(["The cat sat on the mat."], weights="top", outputs=())
    console = Console(record=True, width=100, highlight=False)
    for part in describe(analysis):
        console.print(part)
    no_fonts = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)  # rich would fetch them from elsewhere
    svg = console.export_svg(title='kqv analyze "The cat sat on the mat."', code_format=no_fonts)
    path.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    draw_analyze(Path(__file__).with_name("analyze.svg"))
