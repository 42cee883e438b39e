"""The labelled dataset: the event table with class, split and part of every event, and the reader of pixel maps.

May import sources, simulation, detector and base.
"""
