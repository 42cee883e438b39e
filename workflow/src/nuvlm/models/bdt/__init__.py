"""A boosted decision tree (BDT) on engineered features, the classical baseline."""
