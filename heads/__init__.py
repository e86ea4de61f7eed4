"""Heads of pretrained networks: the network, its features and their cache, the head step, ways and folds, fine-tuning."""
