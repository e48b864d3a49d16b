"""A wing: groups of images as files, and the choice of the epoch without labels."""
