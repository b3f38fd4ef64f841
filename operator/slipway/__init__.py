"""Slipway, the operator: turns InferenceService objects into model-serving pods and keeps them right."""
