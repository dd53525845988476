"""Trained models that ship in packages: the shipped models."""
