"""Scores of predictions: metrics with intervals, paired comparison, calibration, cuts, faithfulness of rationales.

May import models and all below it.
"""
