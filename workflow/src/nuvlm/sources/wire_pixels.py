"""Settings of pixel maps that are made from hits on wires. Nothing heavy is imported: the configuration reads them."""

from typing import Annotated

from pydantic import Field

from nuvlm.base.settings import Settings


class WirePixels(Settings):
    """Pixels of the maps of wire planes: columns are wires, rows are time."""

    pixel_wires: Annotated[int, Field(ge=1, le=200)] = 8
    """Wires in a pixel."""
    pixel_ticks: Annotated[int, Field(ge=2, le=1000)] = 44
    """Time ticks in a pixel. In MicroBooNE 44 ticks of drift are as long as 8 wires are wide, 24 mm."""
    white_adc: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 6000
    """Sum of the hits' integrals in a pixel at which it is white (255), ADC x tick; grey values are linear below."""
