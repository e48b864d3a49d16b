"""Part of tools/gpu_check.py: milliseconds of the step by part, images per second, seconds of an epoch, memory."""

import ise_plugin  # noqa: F401  isort:skip  (first: it makes fastreid importable)

import argparse
import dataclasses
import statistics
import tempfile
import time
from typing import Iterator

import torch
from benchmarks import evaluation, training
from benchmarks.clustering import stages, synthetic_embeddings
from benchmarks.gpu import Row, Setting
from benchmarks.market import TrueLabels
from fastreid.utils.events import EventStorage
from torch.autograd import DeviceType

from ise_plugin.config import load_cfg
from ise_plugin.engine import ISETrainer
from ise_plugin.neighbors import exact

# What the paper's run is made of; the bars are those of one H100.
EPOCHS, STEPS, IMAGES = 50, 400, 12936
STEP_AIM, STOCK_AIM, MINUTES_AIM, LAUNCHES_AIM = 62, 2, 25, 1250
SEARCH_AIMS = 0.15, 0.5
# The first labelling compiles and loads what every later one has.
WARM_UP_ROWS, REPEATS = 1000, 2
LONGEST_KERNELS = 25  # that the log names


def checks() -> tuple:
    torch.backends.cudnn.benchmark = True  # for both sides, as both projects' configs have it
    measured: dict = {}  # what later figures are made of
    each = steps, stock, extraction, clustering, ranking, epoch, projection
    return tuple(_with(check, measured) for check in each)


def _with(check, measured):
    def rows(setting: Setting) -> Iterator[Row]:
        return check(setting, measured)

    rows.__doc__ = check.__doc__
    return rows


def network_cfg(setting: Setting, *opts):
    """The paper's configuration with random weights and the sizes of ``setting``."""
    size = str(list(setting.image))
    pairs = [*setting.network, "INPUT.SIZE_TRAIN", size, "INPUT.SIZE_TEST", size, "SOLVER.IMS_PER_BATCH", setting.batch]
    pairs += ["ISE.BN_GROUP_SIZE", setting.group, "MODEL.DEVICE", setting.device, "MODEL.BACKBONE.PRETRAIN", "False"]
    return load_cfg(str(training.CONFIGS / "ISE/market_r50.yml"), [str(word) for word in (*pairs, *opts)])


def steps(setting: Setting, measured: dict) -> Iterator[Row]:
    """a step of training"""
    torch.manual_seed(0)
    step, batch = training.training_step(network_cfg(setting), _arguments(setting))
    step.set_loader([batch] * (setting.warm_up + 2 * setting.steps * setting.rounds + 2))
    _reset_peak(setting)
    seconds = _seconds_per_step(step.run_step, setting)
    measured["step"] = seconds
    title = f"training step, {setting.batch} images, {str(step.precision).partition('.')[2]}"
    yield Row(title, f"{1000 * seconds:.1f} ms", f"≤ {STEP_AIM} ms")
    yield Row("training", f"{setting.batch / seconds:.0f} img/s")
    yield Row("training: peak memory", _peak(setting))
    yield from _parts(step, setting)
    yield _launches(step, setting)


def stock(setting: Setting, measured: dict) -> Iterator[Row]:
    """a step of stock fastreid"""
    amp = "stock_amp_train" if setting.device == "cuda" else "stock_train"
    trainer = training.stock_trainer(network_cfg(setting), _arguments(setting, measure=amp))
    _reset_peak(setting)
    with EventStorage():
        seconds = _seconds_per_step(trainer.run_step, setting)
    name = f"stock fastreid's {type(trainer).__name__}, the same network and images"
    yield Row(name, f"{1000 * seconds:.1f} ms, {_peak(setting)}")
    yield Row("times stock fastreid", f"{seconds / measured['step']:.2f}", f"≥ {STOCK_AIM}")


def extraction(setting: Setting, measured: dict) -> Iterator[Row]:
    """extraction"""
    for mixed in ("False", "True"):
        cfg = network_cfg(setting, "SOLVER.AMP.ENABLED", mixed)
        found = training.ise_extract(cfg, _arguments(setting))
        if mixed == "False":
            measured["extraction"] = found["images_per_second"]
        precision = "mixed precision" if mixed == "True" else "float32"
        yield Row(f"extraction, {precision}", f"{found['images_per_second']:.0f} img/s")


def clustering(setting: Setting, measured: dict) -> Iterator[Row]:
    """clustering"""
    for count, aim in zip(setting.clustered, SEARCH_AIMS):
        rows = torch.from_numpy(synthetic_embeddings(count, setting.width, "late")[0]).to(setting.device)
        stages(rows[:WARM_UP_ROWS], exact)
        _reset_peak(setting)
        runs = [stages(rows, exact)[0] for _ in range(REPEATS)]
        search, graph, dbscan, total = (min(run[k] for run in runs) for k in ("search", "graph", "dbscan", "total"))
        measured.setdefault("labels", total)
        title = f"{count} × {setting.width}"
        yield Row(f"neighbours of {title}", f"{search:.3f} s", f"≤ {aim:g} s")
        yield Row(f"graph and labels of {title}, on the CPU", f"{graph:.2f} + {dbscan:.2f} s")
        yield Row(f"clustering {title}: peak memory", _peak(setting))


def ranking(setting: Setting, measured: dict) -> Iterator[Row]:
    """evaluation"""
    sizes = {"queries": setting.queries, "gallery": setting.gallery, "dim": setting.width}
    found = evaluation.measure(argparse.Namespace(**sizes, people=750, cameras=6, stock=False))
    measured["ranking"] = found["seconds"]
    yield Row(f"evaluation of {found['pairs']}, after extraction, on the CPU", f"{found['seconds']:.2f} s")


def epoch(setting: Setting, measured: dict) -> Iterator[Row]:
    """steps with their loader"""
    count, stamps = setting.epoch_steps, []
    with tempfile.TemporaryDirectory() as folder:
        trainer = ISETrainer(_epoch_cfg(setting, folder))
        run_step = trainer.run_step

        def timed_step() -> None:
            if len(stamps) in (count, 2 * count - 1):  # the first and the last step that count
                _wait(setting)
            stamps.append(time.perf_counter())
            run_step()

        trainer.run_step = timed_step
        trainer.train()
        labelled = trainer.pseudo_labels.labellings
    measured["loaded step"] = (stamps[-1] - stamps[count]) / (count - 1)
    waited = measured["loaded step"] / measured["step"] - 1
    how = f"{count} steps of the second epoch on {len(trainer.images)} drawn images"
    yield Row(f"step with its loader ({how})", f"{1000 * measured['loaded step']:.1f} ms ({waited:+.0%})")
    yield Row("extraction with its loader, float32", f"{len(trainer.images) / labelled[-1]:.0f} img/s")
    measured["extraction"] = len(trainer.images) / labelled[-1]


def projection(setting: Setting, measured: dict) -> Iterator[Row]:
    """the paper's run, computed"""
    labelling = IMAGES / measured["extraction"] + measured["labels"]
    steps_of_epoch = STEPS * measured["loaded step"]
    evaluated = (setting.queries + setting.gallery) / measured["extraction"] + measured["ranking"]
    yield Row(f"epoch of {STEPS} steps, computed", f"{steps_of_epoch + labelling:.1f} s (labelling {labelling:.1f} s)")
    minutes = EPOCHS * (steps_of_epoch + labelling + evaluated) / 60
    name = f"{EPOCHS} epochs with extraction and evaluation, computed"
    yield Row(name, f"{minutes:.1f} min", f"< {MINUTES_AIM} min")


class TimedLabels(TrueLabels):
    """Labels by the drawn identities, whatever the network finds, and the seconds of each extraction."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.labellings: list = []

    def label(self):
        start = time.perf_counter()
        found = super().label()
        found.features.cpu()
        self.labellings.append(time.perf_counter() - start)
        return dataclasses.replace(found, seconds=(self.labellings[-1], 0.0))


class Marks:
    """Moments of a step on the device's own clock, each with the name of what ended there."""

    def __init__(self, device: str):
        self._on_cuda = device == "cuda"
        self._steps: list = []

    def begin(self) -> None:
        self._steps.append([])
        self.end_of("")

    def end_of(self, name: str) -> None:
        moment = torch.cuda.Event(enable_timing=True) if self._on_cuda else time.perf_counter()
        if self._on_cuda:
            moment.record()
        self._steps[-1].append((name, moment))

    def milliseconds(self) -> dict:
        """Median of every part."""
        found: dict = {}
        for marks in self._steps:
            for (_, a), (name, b) in zip(marks, marks[1:]):
                found.setdefault(name, []).append(a.elapsed_time(b) if self._on_cuda else 1000 * (b - a))
        return {name: statistics.median(values) for name, values in found.items()}


def _parts(step, setting: Setting) -> Iterator[Row]:
    """Where the milliseconds of a step go, by hooks at the borders of its parts."""
    marks, model = Marks(setting.device), step.model
    first = next(p for p in model.backbone.parameters() if p.requires_grad)  # its gradient is the last
    ends = lambda name: lambda *_: marks.end_of(name)
    handles = [
        model.register_forward_pre_hook(ends("gradients zeroed, buffers kept")),
        model.backbone.register_forward_pre_hook(ends("images uploaded, augmented")),
        model.backbone.register_forward_hook(ends("backbone, forward")),
        model.register_forward_hook(ends("head, memory, losses")),
        first.register_post_accumulate_grad_hook(ends("backward")),
        step.optimizer.register_step_pre_hook(ends("finite guard")),
        step.optimizer.register_step_post_hook(ends("optimiser")),
    ]
    for _ in range(setting.steps):
        marks.begin()
        step.run_step()
    _wait(setting)
    for handle in handles:
        handle.remove()
    for name, value in marks.milliseconds().items():
        yield Row(f"of it: {name}", f"{value:.2f} ms")


def _launches(step, setting: Setting) -> Row:
    """Kernels and copies of one step, as the profiler sees them; the longest go into the log."""
    activity = torch.profiler.ProfilerActivity
    kinds = [activity.CPU] + [activity.CUDA] * (setting.device == "cuda")
    with torch.profiler.profile(activities=kinds) as profile:
        step.run_step()
        _wait(setting)
    events = profile.events()
    if setting.device == "cuda":
        count = sum(event.device_type == DeviceType.CUDA for event in events)
    else:
        count = sum(event.name.startswith("aten::") for event in events)
    order = "self_cuda_time_total" if setting.device == "cuda" else "self_cpu_time_total"
    print(profile.key_averages().table(sort_by=order, row_limit=LONGEST_KERNELS))
    return Row("kernels and copies in a step", str(count), f"≤ {LAUNCHES_AIM}")


def _epoch_cfg(setting: Setting, folder: str):
    name = "SyntheticPersons" + ("" if setting.demo_data == "demo" else "Tiny")
    opts = ["DATASETS.NAMES", f"('{name}',)", "DATASETS.TESTS", "()", "ISE.HOOKS", "()", "OUTPUT_DIR", folder]
    opts += ["SOLVER.MAX_EPOCH", 2, "SOLVER.STEPS", "[1]", "ISE.ITERS_PER_EPOCH", setting.epoch_steps]
    opts += ["ISE.PSEUDO_LABEL.HOOK", f"{__name__}.TimedLabels", "SOLVER.CHECKPOINT_PERIOD", 2, "SEED", 0]
    if setting.device == "cpu":  # few images, few people
        opts += ["DATALOADER.NUM_INSTANCE", 4, "DATALOADER.NUM_WORKERS", 0]
    return network_cfg(setting, *opts)


def _arguments(setting: Setting, measure: str = "") -> argparse.Namespace:
    return argparse.Namespace(batch=setting.batch, size=list(setting.image), repeats=setting.steps, measure=measure)


def _seconds_per_step(run_step, setting: Setting) -> float:
    """Median of rounds of steps with one wait at the end of each."""
    for _ in range(setting.warm_up):
        run_step()
    rounds = []
    for _ in range(setting.rounds):
        _wait(setting)
        start = time.perf_counter()
        for _ in range(setting.steps):
            run_step()
        _wait(setting)
        rounds.append((time.perf_counter() - start) / setting.steps)
    return statistics.median(rounds)


def _wait(setting: Setting) -> None:
    if setting.device == "cuda":
        torch.cuda.synchronize()


def _reset_peak(setting: Setting) -> None:
    if setting.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(setting: Setting) -> str:
    return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if setting.device == "cuda" else "not counted"
