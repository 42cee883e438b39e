"""From energy deposits to pixel maps: geometry, voxel shards, readout, drift smearing, downsampling and cropping.

May import base.
"""
