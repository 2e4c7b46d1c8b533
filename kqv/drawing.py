"""Numbers as colours, and maps of them as PNG: what a still picture needs, without a drawing library."""

import struct
import zlib
from base64 import b64encode
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

VIRIDIS = """
440154 470d60 48186a 482374 472d7b 453781 424086 3e4989 3b528b 375b8d 33638d 2f6b8e 2c728e 297a8e 26828e 23898e 21918c
1f978b 1f9f88 21a685 27ad81 31b57b 3dbc74 4cc26c 5cc863 6ece58 81d34d 95d840 aadc32 c0df25 d5e21a eae51a fde725
"""
"""33 colours of matplotlib's viridis (CC0), evenly spaced: those between are within 2/255 of its own."""


def make_table() -> Array:
    """The 256 colours, [256, 3]."""
    stops = np.array([[*bytes.fromhex(colour)] for colour in VIRIDIS.split()])
    places = np.round(np.linspace(0, 255, len(stops)))
    return np.stack([np.round(np.interp(np.arange(256), places, stop)) for stop in stops.T], axis=1).astype(np.uint8)


def levels(values: Array, low: float, high: float) -> Array:
    """The place of each value in the table: 0 at `low` and below, 255 at `high` and above."""
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.clip(np.round(255 * np.nan_to_num(share)), 0, 255).astype(np.uint8)


def colour_of(level: int) -> tuple[str, str]:
    """A level's colour, and black or white to write on it, whichever can be read."""
    red, green, blue = (int(part) for part in make_table()[level])
    return f"#{red:02x}{green:02x}{blue:02x}", "#000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 110 else "#fff"


def to_png(image: Array) -> bytes:
    """Levels [rows, columns] as a PNG of the table's colours, a pixel each."""
    rows, columns = image.shape
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)  # 8 bits a pixel, which are places in a palette
    lines = b"".join(b"\0" + line.tobytes() for line in image)
    parts = [(b"IHDR", header), (b"PLTE", make_table().tobytes()), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(part(kind, data) for kind, data in parts)


def part(kind: bytes, data: bytes) -> bytes:
    """One part of a PNG: length, kind, data, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def to_data_url(image: Array) -> str:
    """The same within a page."""
    return f"data:image/png;base64,{b64encode(to_png(image)).decode()}"
