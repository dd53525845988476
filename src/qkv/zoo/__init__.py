"""Trained models that ship in packages."""
