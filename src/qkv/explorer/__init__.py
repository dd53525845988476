"""The explorer: what a model computes for one input, as a record, and a page that shows it."""
