"""What the commands share: options, output, opening a log."""
