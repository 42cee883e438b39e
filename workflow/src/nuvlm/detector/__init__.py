"""From energy deposits to event displays: geometry, voxel shards, readout, drift smearing, downsampling and cropping.

May import base.
"""
