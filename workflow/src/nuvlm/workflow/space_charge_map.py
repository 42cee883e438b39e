"""An example of a map of space charge for the detector of a configuration.

    python -m nuvlm.workflow.space_charge_map MAP.h5 --maximum-mm 10 config/config.yaml [OVERLAY.yaml ...]

docs/physics.md describes the file, and where the shape comes from.
"""

import argparse
import sys
from pathlib import Path

from nuvlm.base.errors import InputError
from nuvlm.detector.geometry import drift_cells
from nuvlm.detector.space_charge import check_displacements, example_map, expected_maximum_mm, write_map
from nuvlm.workflow.config import parse_config, read_overlays


def main(arguments: list[str] | None = None) -> int:
    """Write the map, and say how large the effect of cosmic rays is expected to be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("map", type=Path, help="file to write")
    parser.add_argument("config", type=Path, nargs="+", help="configuration file and overlays")
    parser.add_argument("--maximum-mm", type=float, help="largest displacement; default: expected at sea level")
    options = parser.parse_args(arguments)
    try:
        config = parse_config(read_overlays(options.config))
        detector, field = config.detector, config.input.recombination.field_kv_cm
        longest = max(cell.longest_mm for cell in drift_cells(detector))
        expected = expected_maximum_mm(longest, field)
        maximum = expected if options.maximum_mm is None else options.maximum_mm
        grid = example_map(detector, maximum)
        check_displacements(options.map, grid, detector)
        write_map(options.map, grid)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.map}: at most {maximum:.3g} mm along {detector.drift_axis}")
    print(f"expected of cosmic rays at sea level: {expected:.3g} mm ({longest:g} mm of drift, {field:g} kV/cm)")
    print(f"use it with: --config 'display={{readout: {{space_charge: {{map: {options.map}}}}}}}'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
