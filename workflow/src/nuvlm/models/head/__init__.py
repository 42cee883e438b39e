"""A linear head on a part of the base model (`vlm.base`): settings, network, training, classification and explanation.

The families vit and vlm_head supply the part. Imports parts of vlm; may import dataset and all below it, and what all
models share.
"""
