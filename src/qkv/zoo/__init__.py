"""Trained models that come with a package: the catalogue of their names."""
