"""What a canvas shows, and what it should."""

import matplotlib as mpl
import numpy as np
from playwright.sync_api import Locator

VIRIDIS = np.rint(np.array(mpl.colormaps["viridis"].colors) * 255).astype(np.uint8)
"""matplotlib's own table."""

READ = """canvas => {
  const {width, height} = canvas;
  return {width, height, data: Array.from(canvas.getContext("2d").getImageData(0, 0, width, height).data)};
}"""


def pixels_of(canvas: Locator) -> np.ndarray:
    """Its pixels as [rows, columns, RGBA]."""
    found = canvas.evaluate(READ)
    return np.array(found["data"], dtype=np.uint8).reshape(found["height"], found["width"], 4)


def colors_of(weights: np.ndarray) -> np.ndarray:
    """The colours that weights from 0 to 1 have on the linear scale."""
    return VIRIDIS[np.rint(np.clip(weights, 0, 1) * 255).astype(int)]
