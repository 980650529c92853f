"""What a bus counts."""
