"""Just enough SVG for the report's charts: a canvas, scales, axes, marks.

Colours are CSS classes that the page defines for light and dark; nothing here knows one. Elements are built as a tree, so
whatever a name holds is escaped when it is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from offramp.specs import FINAL

SERIES = 5
"""Colours for early exits; after that the shape of the mark and the dashes of the line change."""
SHAPES = ("circle", "square", "triangle", "diamond")
DASHES = ("", "7 3", "2 3", "8 3 2 3")
CHARACTER = 6.6
"""About the width of a character of chart text, to keep labels apart."""


@dataclass(frozen=True)
class Mark:
    """How one exit looks in every chart of a page."""

    css: str
    shape: str = "circle"
    dash: str = ""


def marks_for(exits: Sequence[str]) -> dict[str, Mark]:
    """Give each exit its look; the final one is in the colour of the text."""
    early = [name for name in exits if name != FINAL]
    marks = {
        name: Mark(f"s{index % SERIES}", SHAPES[index // SERIES % len(SHAPES)], DASHES[index // SERIES % len(DASHES)])
        for index, name in enumerate(early)
    }
    return {name: marks.get(name, Mark("final")) for name in exits}


@dataclass(frozen=True)
class Scale:
    """From values lo..hi to coordinates start..stop."""

    lo: float
    hi: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        span = self.hi - self.lo
        return self.start + (self.stop - self.start) * ((value - self.lo) / span if span else 0.5)

    def ticks(self, count: int) -> list[float]:
        """Round values within the scale, about `count` of them."""
        step = nice_step((self.hi - self.lo) / max(count, 1))
        first, last = math.ceil(self.lo / step - 1e-9), math.floor(self.hi / step + 1e-9)
        return [round(index * step, 10) for index in range(first, last + 1)]


def nice_step(rough: float) -> float:
    """The first of 1, 2, 2.5 and 5 times a power of ten that is not below `rough`."""
    if rough <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))


def widened(values: Iterable[float], *, floor: float | None = None, margin: float = 0.06) -> tuple[float, float]:
    """Ends of a scale that holds all values with some air; `floor` is a lower end that must not be passed."""
    held = list(values)
    lo, hi = min(held), max(held)
    air = margin * (hi - lo) or max(abs(hi) * margin, 1e-3)
    return (lo - air if floor is None else max(lo - air, floor)), hi + air


class Canvas:
    """An SVG picture under construction."""

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width, self.height = width, height
        attributes = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": label}
        self._root = ET.Element("svg", attributes)

    def add(self, tag: str, css: str, *, title: str = "", text: str = "", **attributes: float | str) -> None:
        """Add an element; `title` is shown when the pointer rests on it. Underscores in attributes become hyphens."""
        written = {
            name.replace("_", "-"): value if isinstance(value, str) else f"{value:.5g}" for name, value in attributes.items()
        }
        element = ET.SubElement(self._root, tag, {"class": css, **written})
        if title:
            ET.SubElement(element, "title").text = title
        if text:
            element.text = text

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """A straight line."""
        self.add("line", css, x1=x1, y1=y1, x2=x2, y2=y2)

    def rect(self, x: float, y: float, width: float, height: float, css: str, *, title: str = "") -> None:
        """A filled box; its width is never below half a unit, so that it can be seen."""
        self.add("rect", css, title=title, x=x, y=y, width=max(width, 0.5), height=max(height, 0.0))

    def text(self, x: float, y: float, text: str, css: str = "label", *, anchor: str = "start") -> None:
        """One line of text."""
        self.add("text", css, text=text, x=x, y=y, text_anchor=anchor)

    def path(self, points: Sequence[tuple[float, float]], css: str, *, dash: str = "", title: str = "") -> None:
        """A line through points."""
        drawn = " ".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))
        self.add("path", css, title=title, d=drawn, **({"stroke_dasharray": dash} if dash else {}))

    def mark(self, x: float, y: float, mark: Mark, *, title: str = "", size: float = 5.0, css: str = "mark") -> None:
        """A point."""
        outlines: dict[str, list[tuple[float, float]]] = {
            "circle": [],
            "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
            "triangle": [(0, -1.25), (1.15, 0.9), (-1.15, 0.9)],
            "diamond": [(0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)],
        }
        outline = outlines[mark.shape]
        if not outline:
            self.add("circle", f"{css} {mark.css}", title=title, cx=x, cy=y, r=size)
            return
        points = " ".join(f"{x + size * right:.1f},{y + size * down:.1f}" for right, down in outline)
        self.add("polygon", f"{css} {mark.css}", title=title, points=points)

    def axes(self, x: Scale, y: Scale, x_label: str, y_label: str) -> None:
        """Horizontal grid lines with their values, ticks below, and what both mean."""
        across, down = abs(x.stop - x.start), abs(y.stop - y.start)
        for value in y.ticks(max(2, round(down / 45))):
            self.line(x.start, y(value), x.stop, y(value), "grid")
            self.text(x.start - 6, y(value) + 4, f"{value:g}", "tick", anchor="end")
        for value in x.ticks(max(2, round(across / 80))):
            self.line(x(value), y.start, x(value), y.start + 4, "axis")
            self.text(x(value), y.start + 17, f"{value:g}", "tick", anchor="middle")
        self.line(x.start, y.start, x.stop, y.start, "axis")
        self.text(x.stop, y.start + 33, x_label, "tick", anchor="end")
        self.text(0, 12, y_label, "tick")

    def tell_scales(self, x: Scale, y: Scale) -> None:
        """Say where values lie, for a script that draws into the picture later."""
        for name, scale in (("data-x", x), ("data-y", y)):
            self._root.set(name, f"{scale.lo!r} {scale.hi!r} {scale.start!r} {scale.stop!r}")

    def write(self) -> str:
        """The finished picture."""
        return ET.tostring(self._root, encoding="unicode")

    def as_file(self, style: str) -> str:
        """The finished picture as a file of its own, on white, in this style (CSS)."""
        head, rest = self.write().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).split(">", 1)
        white = f'<rect width="{self.width:g}" height="{self.height:g}" fill="white"/>'
        return f"{head}><style>{style}</style>{white}{rest}\n"


class Labels:
    """Places labels beside points so that none covers another or a point; one that finds no place is left out."""

    def __init__(self, canvas: Canvas, x: Scale, y: Scale, points: Iterable[tuple[float, float]]) -> None:
        self._canvas = canvas
        self._area = (x.start, y.stop - 12, x.stop, y.start)
        self._taken = [(px - 6, py - 6, px + 6, py + 6) for px, py in points]

    def reserve(self, left: float, top: float, right: float, bottom: float) -> None:
        """Keep labels off a line or a box."""
        self._taken.append((left - 2, top - 2, right + 2, bottom + 2))

    def place(self, x: float, y: float, text: str) -> bool:
        """Write the label at the first free place around (x, y); say whether there was one."""
        wide = len(text) * CHARACTER
        candidates = (
            (x + 10, y + 4, "start", x + 10),
            (x - 10, y + 4, "end", x - 10 - wide),
            (x, y - 11, "middle", x - wide / 2),
            (x, y + 20, "middle", x - wide / 2),
            (x + 10, y - 8, "start", x + 10),
            (x + 10, y + 16, "start", x + 10),
            (x - 10, y - 8, "end", x - 10 - wide),
            (x - 10, y + 16, "end", x - 10 - wide),
        )
        for at_x, at_y, anchor, left in candidates:
            box = (left, at_y - 11, left + wide, at_y + 3)
            inside = self._area[0] <= box[0] and box[2] <= self._area[2] and self._area[1] <= box[1] and box[3] <= self._area[3]
            if inside and not any(_overlap(box, taken) for taken in self._taken):
                self._canvas.text(at_x, at_y, text, "label", anchor=anchor)
                self._taken.append(box)
                return True
        return False


Box = tuple[float, float, float, float]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
