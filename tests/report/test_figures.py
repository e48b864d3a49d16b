"""Figures: equal data give equal text, colours come from the page, nothing points elsewhere."""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from ise_plugin.report import figures
from ise_plugin.report.figures import Figures, bars, distances, lines, reliability, scatter, sizes

CSS = (Path(figures.__file__).parent / "templates/style.css").read_text()

POINTS = {
    "places": np.random.default_rng(0).random((9, 2)).tolist(),
    "kind": ["real"] * 4 + ["centroid"] * 2 + ["support"] * 3,
    "group": [0, 0, 1, 1, 0, 1, 0, 0, 1],
    "outlier": [False, True] + [False] * 7,
}
HISTOGRAM = {"edges": [0, 0.5, 1], "eps": 0.4, "same": [3, 0], "different": [0, 9]}
DRAWN = {
    "lines": lambda f: f.draw(lines, "", [("a", [1, 2], [3, 4]), ("b", [2], [1])], "y", ("level", 2.0), low=0),
    "one point": lambda f: f.draw(lines, "", [("", [1], [0.5])], "y"),
    "many epochs": lambda f: f.draw(lines, "", [("a", list(range(100)), list(range(100)))], "y"),
    "bars": lambda f: f.draw(bars, "", {"a": [1, 2], "b": [3, 4]}, [1, 2], "seconds"),
    "sizes": lambda f: f.draw(sizes, "", [("first", [4, 5, 300]), ("last", [7])]),
    "distances": lambda f: f.draw(distances, "", HISTOGRAM, "Jaccard"),
    "distances without eps": lambda f: f.draw(distances, "", {**HISTOGRAM, "eps": None}, "Jaccard"),
    "reliability": lambda f: f.draw(reliability, "", {"stated": [0.1, 0.9], "true": [0.2, 0.8], "counts": [9, 1]}),
    "map": lambda f: f.draw(scatter, "", POINTS),
}


@pytest.mark.parametrize("name", DRAWN)
def test_figures_are_whole_coloured_by_the_page_and_point_nowhere(name):
    svg = DRAWN[name](Figures()).svg
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg" and root.attrib["viewBox"].startswith("0 0 400 ")
    assert not re.search(r"#[0-9a-f]{6}\b", svg)  # every colour is a variable
    assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(re.findall(r"--(\w+):", CSS))
    assert "http" not in svg and "<style" not in svg and "<metadata" not in svg
    ids = re.findall(r' id="([^"]+)"', svg)
    used = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg))
    assert len(ids) == len(set(ids)) and used == set(ids)


@pytest.mark.parametrize("name", DRAWN)
def test_equal_data_give_equal_text(name):
    assert DRAWN[name](Figures()) == DRAWN[name](Figures())


def test_marks_of_the_map_are_distinct():
    svg = Figures().draw(scatter, "", POINTS).svg
    marks = re.findall(r'<path id="[^"]*" d="([^"]+)"', svg)
    shapes = {re.sub(r"[\d.\-\s]+", "", mark) for mark in marks}
    assert len(shapes) >= 3  # circles (curves), diamonds (closed lines), crosses (open lines)
    assert svg != Figures().draw(scatter, "", {**POINTS, "outlier": [False] * 9}).svg  # outliers are hollow


def test_names_are_text_and_not_markup():
    svg = Figures().draw(lines, "", [("<b>$x_1^2$", [1, 2], [1, 2])], "a & b").svg
    assert "<b>" not in svg and ElementTree.fromstring(svg) is not None


def test_every_text_colour_can_be_read_on_its_ground():
    """WCAG 2: contrast of at least 4.5 for text, 3 for marks."""

    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a, b):
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part)) for part in CSS.split("@media (prefers", 1))
    for colors in (light, dark):
        assert len(colors) == 18
        for text in ("ink", "muted", "accent", "right", "wrong"):
            assert contrast(colors[text], colors["card"]) >= 4.5 and contrast(colors[text], colors["page"]) >= 4.5
        assert contrast(colors["warn-ink"], colors["warn"]) >= 4.5
        assert all(contrast(colors[f"s{i}"], colors["card"]) >= 3 for i in range(8))


def test_without_matplotlib_it_says_so(monkeypatch):
    assert figures.available()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not figures.available()


DRAWS = {
    "lines": (lambda f, end: f.draw(lines, "a", [("a", [1, 2], [3, end])], "y"), True),
    "bars": (lambda f, end: f.draw(bars, "a", {"a": [3, end]}, [1, 2], "y"), True),
    "sizes": (lambda f, end: f.draw(sizes, "a", [("a", [3, end])]), False),
}


@pytest.mark.parametrize("draw, reused", DRAWS.values(), ids=DRAWS)
def test_curves_are_reused_where_asked_and_the_rest_only_while_its_data_are_the_same(monkeypatch, draw, reused):
    drawing, calls, own = Figures(), [], figures._draw
    monkeypatch.setattr(figures, "_draw", lambda *data, **options: calls.append(1) or own(*data, **options))
    first = draw(drawing, 4)
    assert draw(drawing, 4) == first and len(calls) == 1
    drawing.reuse = True
    assert (draw(drawing, 9) == first) is reused and len(calls) == 2 - reused
    drawing.reuse = False
    assert draw(drawing, 9) == draw(Figures(), 9) != first


def test_small_values_have_ticks_that_differ():
    svg = Figures().draw(lines, "", [("outliers", [1, 2, 3], [0.001, 0.004, 0.024])], "share", low=0).svg
    ticks = [text for text in re.findall(r">([\d.]+)</text>", svg) if "." in text]
    assert len(ticks) > 3 and len(ticks) == len(set(ticks))
