"""Nearest neighbours of unit rows, exact and approximate, on any device. Knows nothing of fastreid."""
