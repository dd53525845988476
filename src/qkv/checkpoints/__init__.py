"""Published checkpoints: reading and writing files, and tables that map them to our models."""
