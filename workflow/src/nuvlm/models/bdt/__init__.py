"""Boosted decision trees on hand-made features, the classical control."""
