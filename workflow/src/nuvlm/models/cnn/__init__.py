"""The Siamese CNN: network, recipes, training, classification, ONNX export and saliency maps."""
