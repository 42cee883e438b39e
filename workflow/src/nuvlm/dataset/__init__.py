"""The labelled dataset: the event table with class, split and part of every event, and reading of pixel maps.

May import sources, simulation, detector and base.
"""
