"""Many runs for one table: a grid of configurations and seeds, trained side by side, and what came of them."""

from .grid import Grid, Job, Setting, read_grid
from .jobs import run_jobs
from .table import Row, gather, write_tables

__all__ = ["Grid", "Job", "Row", "Setting", "gather", "read_grid", "run_jobs", "write_tables"]
