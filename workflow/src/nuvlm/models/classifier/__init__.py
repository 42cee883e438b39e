"""Classifiers that map the pixel maps of an event to logits: their training loop, data, classification and saliency.

The families cnn, vit and vlm_head supply networks. May import dataset and all below it, and what all models share.
"""
