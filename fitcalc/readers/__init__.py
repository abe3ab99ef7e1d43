"""Readers of a model's own files: bounded, headers only, nothing of the model is executed."""
