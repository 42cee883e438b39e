"""GEANT4, loaded after its data sets are set up: everything of it comes from here.

Importing this module does both, so it is imported where a simulation starts and nowhere else.
"""

from nuvlm.simulation.geant4_tables import provide_data

DATA = provide_data()
"""``"official"`` or ``"formula"``: the data sets that GEANT4 reads in this process."""

# It looks for its data sets when it is imported.
import geant4_pybind as g4  # noqa: E402

__all__ = ["DATA", "g4"]
