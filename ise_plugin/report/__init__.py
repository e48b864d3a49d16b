"""The report of a run: what is kept of it, figures, and one self-contained page. Writes nothing and never trains."""
