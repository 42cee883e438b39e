"""The classifiers and what they share: conditions, degradations, prediction tables, the choice of explained events.

One subpackage a family: cnn, bdt, vit, vlm_head and vlm. They do not import each other, but vit and vlm_head,
which share :mod:`nuvlm.models.head`, classify with parts of vlm. May import dataset and all below it.
"""
