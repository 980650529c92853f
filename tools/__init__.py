"""What belongs to the project and not to the package: nothing here is installed with it."""
