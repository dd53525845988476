"""What makes attention visible: shipped source, figures, records."""
