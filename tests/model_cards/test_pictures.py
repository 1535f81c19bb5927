"""PNGs of circuits."""

import struct
import sys

import pytest

from interpbench_hub import get_case
from interpbench_hub.errors import SettingError
from model_cards.pictures import SCALE, png_of


def test_a_png_is_twice_as_large_as_the_drawing_and_always_the_same() -> None:
    svg = get_case("case_3").circuit.to_svg()
    png = png_of(svg)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (float(svg.split(f'{name}="', 1)[1].split('"', 1)[0]) for name in ("width", "height"))
    assert struct.unpack(">II", png[16:24]) == (round(SCALE * width), round(SCALE * height))
    assert png_of(svg) == png


def test_text_of_a_drawing_is_drawn() -> None:
    label = '<text x="5" y="20" font-size="12" font-family="ui-sans-serif, sans-serif">{}</text>'
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="60" height="30">{}</svg>'
    empty, one, two = (png_of(svg.format(part)) for part in ("", label.format("m0"), label.format("m1")))
    assert len({empty, one, two}) == 3


def test_the_error_without_the_packages_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(SettingError, match=r'pip install "interpbench-hub\[publish\]"'):
        png_of("<svg/>")
