"""What the dashboard's tests share: a page that is watched, and what its canvases show."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

import matplotlib as mpl
import numpy as np
from playwright.sync_api import ConsoleMessage, Locator, Page

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


@dataclass
class Watched:
    """A page, and what it did."""

    page: Page
    url: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def look_out(self) -> "Watched":
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return self

    def hear(self, message: ConsoleMessage) -> None:
        """Chromium itself complains of every answer that is an error, which tests provoke; the page may complain of nothing."""
        if message.type == "error" and "/v1/" not in message.location["url"]:
            self.complaints.append(message.text)

    def open(self, path: str = "/") -> Page:
        self.page.goto(self.url + path)
        self.page.wait_for_selector("kqv-heads canvas")
        return self.page

    @property
    def hosts(self) -> set[str]:
        """Whom it asked anything."""
        return {urlsplit(url).netloc for url in self.requests if not url.startswith(("data:", "blob:"))}
