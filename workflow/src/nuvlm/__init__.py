"""NuVLM: neutrino event classification in a liquid-argon TPC, from voxels to a report.

The package holds all logic of the workflow and does not import Snakemake. Its packages are layers, highest first:
workflow, report, evaluation, models, dataset, sources, simulation, detector, base. Each imports only those below it.
Stages exchange files whose formats docs/formats.md describes.
"""

__version__ = "0.1.0"
