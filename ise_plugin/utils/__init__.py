"""What every room may use. Imports nothing of the package but errors."""
