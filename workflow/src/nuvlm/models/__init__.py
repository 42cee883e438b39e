"""The classifiers and what they share: conditions, degradations, prediction tables, the choice of explained events.

One subpackage a family: cnn, bdt and vlm, which do not import each other. May import dataset and all below it.
"""
