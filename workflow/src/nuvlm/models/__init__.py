"""The classifiers and what they share: conditions, degradations, prediction tables, the choice of explained events.

One subpackage a family: cnn, bdt, vit and vlm. Of these only vit imports another: it classifies with the vision tower
of vlm. May import dataset and all below it.
"""
