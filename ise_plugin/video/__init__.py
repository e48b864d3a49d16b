"""Recordings in, people out: frames, boxes, tracks, crops, identities over all cameras. Needs the extra ``video``."""
