"""A grid: config files, axes of keys, seeds. Every point of it is a run with a folder of its own."""

import hashlib
import itertools
import os
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Mapping, Optional, Sequence

import yaml

from ..config import flat, load_cfg, read_yaml, resolve_config_file
from ..engine.checkpointing import is_finished
from ..errors import UsageError
from ..report.compare import QUANTITIES, differing, setting_of

# Of QUANTITIES, without their units.
METRICS = {title.removesuffix(" %"): (title, *how) for title, *how in QUANTITIES}
STANDARD_METRICS = ("mAP before training", "mAP", "rank-1", "clusters", "outliers", "ARI")
# The column that names the config file.
CONFIG = "config"
# What a run has come to.
DONE, STARTED, NEW = "done", "half done", "to do"
_FIELDS = (CONFIG, "seeds", "keys", "axes", "metrics")
_NOT_IN_NAMES = re.compile(r"[^\w.=,+-]+")
_LONGEST_NAME = 120
_DIGEST = 8  # hexadecimal digits


@dataclass(frozen=True)
class Job:
    """One run: a config file, keys over it, and the folder that it writes."""

    config: str
    keys: Mapping[str, Any]
    folder: str

    @property
    def options(self) -> list[str]:
        """KEY VALUE pairs as on a command line."""
        return [str(word) for pair in {**self.keys, "OUTPUT_DIR": self.folder}.items() for word in pair]

    @cached_property
    def asked(self) -> dict:
        """The whole configuration, flat, as a run writes it into its folder. A UsageError names what is wrong in it."""
        return flat(yaml.safe_load(load_cfg(self.config, self.options).dump()))

    def state(self) -> str:
        """:data:`DONE`, :data:`STARTED` or :data:`NEW`.

        Raises:
            UsageError: the folder holds a run of another configuration; the message names the keys.
        """
        path = os.path.join(self.folder, "config.yaml")
        if not os.path.isfile(path):
            return NEW
        there = flat(read_yaml(path, path))
        alike = lambda config: {**setting_of(config), "SEED": config.get("SEED")}
        if others := differing(alike(there), alike(self.asked)):
            keys = ", ".join(f"{key} is {there.get(key)!r}, not {self.asked[key]!r}" for key in sorted(others))
            raise UsageError(f"{self.folder} holds a run of other keys ({keys}); name another folder, or remove it")
        results = os.path.isfile(os.path.join(self.folder, "results.json"))
        return DONE if results and is_finished(self.folder) else STARTED


@dataclass(frozen=True)
class Setting:
    """A row of the table: what runs have in common that differ in their seed alone.

    Attributes:
        title: axis -> value, as shown.
        config: the config file.
        keys: key -> value over it.
        jobs: one for each seed.
    """

    title: dict[str, str]
    config: str
    keys: dict[str, Any]
    jobs: dict[int, Job]


@dataclass
class Grid:
    """All combinations of config files and the values of axes, each with all seeds.

    Attributes:
        configs: name shown -> config file.
        axes: name of the axis -> value shown -> {key: value}.
        seeds: not negative.
        keys: of all runs.
        metrics: columns of the table, out of :data:`METRICS`.
    """

    configs: dict[str, str]
    axes: dict[str, dict[str, dict]] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    keys: dict[str, Any] = field(default_factory=dict)
    metrics: Sequence[str] = STANDARD_METRICS

    def __post_init__(self) -> None:
        if not self.configs:
            raise UsageError("no config file; name one or several (--config-file, or config in the grid's file)")
        if not self.seeds or not all(type(seed) is int and seed >= 0 for seed in self.seeds):
            raise UsageError(f"seeds must be whole numbers of at least 0, not {list(self.seeds)}")
        for name in self.metrics:
            if name not in METRICS:
                nearest = get_close_matches(str(name), METRICS, n=1, cutoff=0)[0]
                raise UsageError(f"unknown metric {name}; the nearest is {nearest}, all are: {', '.join(METRICS)}")

    def settings(self, output: str) -> list[Setting]:
        """Every combination, in the order in which files and axes are written.

        A run's folder is named by the keys of the axes that change something, so the same point of another grid is the
        same run, and a grid with more values adds to those that are there.

        Raises:
            UsageError: some configuration is impossible.
        """
        found = []
        for name, config in self.configs.items():
            base = flat(load_cfg(config, _words(self.keys)))
            for point in itertools.product(*(values.items() for values in self.axes.values())):
                title = dict(zip(self.axes, (shown for shown, _ in point)))
                if len(self.configs) > 1 or not title:
                    title = {CONFIG: name, **title}
                varied = {key: value for _, keys in point for key, value in keys.items()}
                keys = {**self.keys, **varied}
                folder = os.path.join(output, _folder_name(config, base, keys, varied))
                jobs = {s: Job(config, {**keys, "SEED": s}, os.path.join(folder, f"seed_{s}")) for s in self.seeds}
                found.append(Setting(title, config, keys, jobs))
        return found


def _words(keys: dict) -> list[str]:
    return [str(word) for pair in keys.items() for word in pair]


def _folder_name(config: str, base: dict, keys: dict, varied: dict) -> str:
    """The config's name, and what the axes change in it, sorted; with a digest where that is no good name of a folder."""
    values = flat(load_cfg(config, _words(keys)))
    changed = {key: values[key] for key in sorted(varied) if values[key] != base.get(key)}
    # the last two words of a key tell ISE.MEMORY.TEMPERATURE from ISE.LABEL_PRESERVING.TEMPERATURE
    text = ",".join([config_name(config), *(f"{_last_words(key)}={value}" for key, value in changed.items())])
    name = _NOT_IN_NAMES.sub("_", text)
    if name == text and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(repr(changed).encode()).hexdigest()[:_DIGEST]}"


def _last_words(key: str) -> str:
    return ".".join(key.split(".")[-2:])


def config_name(path: str) -> str:
    """Folder and stem: configs/ISE/folder.yml -> ISE_folder, projects/BUC/configs/synthetic.yml -> BUC_synthetic."""
    parts = [part for part in os.path.splitext(os.path.abspath(path))[0].split(os.sep) if part != "configs"]
    return "_".join(parts[-2:])


def read_grid(
    path: Optional[str] = None,
    configs: Sequence[str] = (),
    axes: Sequence[Sequence[str]] = (),
    opts: Sequence[str] = (),
    seeds: Sequence[int] = (),
    metrics: Sequence[str] = (),
) -> Grid:
    """A grid from its file, and from words of a command line, which replace (configs, seeds, metrics) or add (axes, opts).

    Args:
        path: YAML with the fields ``config`` (a file, several, or {name: file}; relative to the grid's file, or one of the
            package's), ``seeds``, ``keys`` {KEY: value} of all runs, ``axes`` {KEY: [values]} or {name: {value: {KEY:
            value}}}, ``metrics``. None: the words alone.
        axes: each a key and its values.
        opts: KEY VALUE pairs of all runs.

    Raises:
        UsageError: the file cannot be read or has other fields, or there is no grid.
    """
    content = read_yaml(path, f"grid {path}") if path else {}
    for name in content:
        if name not in _FIELDS:
            nearest = get_close_matches(str(name), _FIELDS, n=1, cutoff=0)[0]
            raise UsageError(f"grid {path}: unknown field {name}; the nearest valid one is {nearest}")
    if len(opts) % 2:
        raise UsageError(f"--opts: expected KEY VALUE pairs, but {opts[-1]!r} has no partner")
    named = content.get("axes") or {}
    if not isinstance(named, dict):
        raise UsageError(f"grid {path}: axes must be a mapping, KEY: [values] or name: {{value: {{KEY: value}}}}")
    every = {**named, **{key: values for key, *values in axes}}
    return Grid(
        _configs(list(configs) or content.get(CONFIG) or [], "" if configs else os.path.dirname(path or "")),
        {name: _axis(name, values, path) for name, values in every.items()},
        list(seeds) or content.get("seeds") or [0],
        {**(content.get("keys") or {}), **dict(zip(opts[0::2], opts[1::2]))},
        list(metrics) or content.get("metrics") or STANDARD_METRICS,
    )


def _configs(given: Any, folder: str) -> dict[str, str]:
    given = [given] if isinstance(given, str) else given
    if isinstance(given, dict):
        return {str(name): resolve_config_file(file, folder) for name, file in given.items()}
    found: dict[str, str] = {}
    for path in (resolve_config_file(file, folder) for file in given):
        if found.setdefault(config_name(path), path) != path:
            raise UsageError(
                f"two config files would have the folder {config_name(path)}: {found[config_name(path)]}, {path}"
            )
    return found


def _axis(name: str, values: Any, path: Optional[str]) -> dict[str, dict]:
    """{value shown: {key: value}}"""
    if isinstance(values, dict) and all(isinstance(keys, dict) for keys in values.values()) and values:
        return {str(shown): keys for shown, keys in values.items()}
    if isinstance(values, list) and values:
        return {str(value): {name: value} for value in values}
    where = f"grid {path}: " if path else ""
    raise UsageError(f"{where}axis {name} needs values: KEY: [values], or name: {{value: {{KEY: value}}}}")
