"""Dates as people write them, and as ISO 8601 has them: what mini-t5 learns to translate.

Every example says which characters of its source hold the year, the month and the day, so that one can ask whether a head of
cross-attention looks there.
"""

import random
from dataclasses import dataclass
from datetime import date, timedelta
from string import Formatter
from typing import Literal

Part = Literal["year", "month", "day"]
Span = tuple[int, int]
"""Half-open, in characters."""

FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)

MONTHS = "January February March April May June July August September October November December".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
"""English whatever the machine's locale, as `strftime` is not."""

FORMATS = (
    "{day} {month} {year}",
    "{day} {month:.3} {year}",
    "{weekday}, {day} {month} {year}",
    "{weekday:.3} {day} {month:.3} {year}",
    "the {ordinal} of {month}, {year}",
    "{weekday} the {ordinal} of {month} {year}",
    "{month} {day}, {year}",
    "{month:.3} {day}, {year}",
    "{weekday}, {month} {ordinal}, {year}",
    "{weekday:.3}, {month:.3} {day} {year}",
    "{year}, {month} {day}",
    "{day:02}.{number:02}.{year}",
    "{weekday:.3} {day}.{number}.{year}",
    "{year}/{number:02}/{day:02}",
)
PARTS: dict[str, Part] = {"day": "day", "ordinal": "day", "month": "month", "number": "month", "year": "year"}
"""What a field of a format says; the weekday is there to be passed over."""


@dataclass(frozen=True)
class Example:
    """A date in two forms."""

    source: str
    target: str
    """Year, month and day: "2024-03-07"."""
    spans: dict[Part, Span]
    """Where in the source each part is."""

    def span_of(self, place: int) -> Span | None:
        """Where the source says what the target has at a place; None for a hyphen."""
        part: Part = "year" if place < 4 else "month" if place < 7 else "day"
        return None if self.target[place] == "-" else self.spans[part]


def write(when: date, form: str) -> Example:
    """A date in one of `FORMATS`."""
    fields = {
        "day": when.day,
        "ordinal": ordinal(when.day),
        "month": MONTHS[when.month - 1],
        "number": when.month,
        "year": when.year,
        "weekday": WEEKDAYS[when.weekday()],
    }
    source, spans = "", {}
    for literal, field, specification, _ in Formatter().parse(form):
        source += literal
        if field is not None:
            start = len(source)
            source += format(fields[field], specification or "")
            if field in PARTS:
                spans[PARTS[field]] = (start, len(source))
    return Example(source, when.isoformat(), spans)


def ordinal(number: int) -> str:
    """1st, 12th, 23rd."""
    ending = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def draw(generator: random.Random, count: int, *, held_out: bool) -> list[Example]:
    """Random dates in random formats. One date in ten is held out: mini-t5 has seen it in no format."""
    days = (LAST - FIRST).days + 1
    chosen: list[date] = []
    while len(chosen) < count:
        when = FIRST + timedelta(days=generator.randrange(days))
        if is_held_out(when) == held_out:
            chosen.append(when)
    return [write(when, generator.choice(FORMATS)) for when in chosen]


def is_held_out(when: date) -> bool:
    """Whether training left this date out: every tenth day, so that all months, weekdays and days of the month are met in both."""
    return when.toordinal() % 10 == 0
