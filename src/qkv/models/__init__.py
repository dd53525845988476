"""Complete models, one family per file."""
