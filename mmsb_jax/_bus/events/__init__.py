"""What a commit did, told to those who asked."""
