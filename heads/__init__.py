"""Heads of frozen backbones: lists of images, the backbone, features and their cache, the head step."""
