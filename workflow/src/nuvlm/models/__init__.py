"""The classifiers and what they share: conditions, degradations, prediction tables, the choice of explained events.

One subpackage a family: cnn, bdt, vit, vlm_head and vlm. Of these vit and vlm_head import others: they classify with
parts of vlm, and vlm_head trains as vit does. May import dataset and all below it.
"""
