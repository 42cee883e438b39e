"""The GEANT4 bindings, imported after their data sets are set up. All other modules import GEANT4 from here.

Importing this module sets up the data sets, so it is imported only when a simulation starts.
"""

from nuvlm.simulation.geant4_tables import provide_data

DATA = provide_data()
"""``"official"`` or ``"formula"``: the data sets of this process."""

# The bindings look for the data sets on import.
import geant4_pybind as g4  # noqa: E402

__all__ = ["DATA", "g4"]
