"""Readers of input files, one module a format: edep-sim, larnd-sim, PNG folders, DUNE CVN pixel maps.

A reader writes voxel shards, or pixel maps if the format holds those. May import simulation, detector and base.
"""
