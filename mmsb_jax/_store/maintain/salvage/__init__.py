"""What of a damaged log still reads back, and can be shown to be right."""
