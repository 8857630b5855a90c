"""Callbacks of a training: what they are told (protocol.py), and ready ones for MLflow and Weights & Biases."""
