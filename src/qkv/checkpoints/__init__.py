"""Published checkpoints: files read and written, and the tables that map them onto our models."""
