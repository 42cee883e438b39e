"""Simulated events: neutrino final states, sampled or from GENIE, and their transport in argon by GEANT4.

May import detector and base.
"""
