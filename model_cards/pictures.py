"""The drawing of a circuit as PNG, because the Hub shows no SVG in a card.

The only font is Roboto, from a package, and the machine's own are not looked at: the same drawing gives the same bytes
wherever the same versions of the two packages are installed.
"""

from pathlib import Path

from interpbench_hub.errors import SettingError

SCALE = 2
"""Pixels of the PNG for one of the SVG."""


def png_of(svg: str) -> bytes:
    """A PNG of an SVG text, twice as large, on white; raises `SettingError` without the packages it takes."""
    try:
        import font_roboto
        import resvg_py
    except ImportError as error:
        raise SettingError(
            f"drawing the circuit as PNG needs resvg-py and font-roboto ({error}); "
            'pip install "interpbench-hub[publish]", or leave the PNG out (picture=False)'
        ) from error

    files = Path(font_roboto.__file__).parent / "files"
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg,
            zoom=SCALE,
            background="white",
            skip_system_fonts=True,
            font_files=[str(files / f"Roboto-{weight}.ttf") for weight in ("Regular", "Bold")],
            font_family="Roboto",
            sans_serif_family="Roboto",
        )
    )
