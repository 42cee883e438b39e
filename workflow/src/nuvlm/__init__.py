"""NuVLM: neutrino event classification in a liquid-argon TPC, from voxels to a report.

The package holds all the logic of the workflow and knows nothing of Snakemake. Stages hand each other
files whose formats are described in docs/formats.md.
"""

__version__ = "0.1.0"
