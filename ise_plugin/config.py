"""Every configuration key of the plug-in: default, unit, source. Reading config files with errors a person can act on.

The defaults are Market-1501's constants of Zhang et al., "Implicit Sample Extension for Unsupervised Person
Re-Identification", CVPR 2022 (called "paper" below), with the released program's values where the two differ
(``docs/method.md``). fastreid's own keys keep fastreid's meaning and are not repeated here.
"""

import ast
import difflib
import logging
import math
import os
from typing import Optional, Sequence

import yaml
from fastreid.config import CfgNode
from fastreid.config import get_cfg as get_fastreid_cfg
from fastreid.config.config import BASE_KEY

from .errors import UsageError
from .method import DEGREE_SCHEDULES
from .utils.imports import import_file, import_module

logger = logging.getLogger("fastreid.ise.config")

# Key of what is imported before names are looked up.
_IMPORT = "ISE.IMPORT"
# Below it any key may be set: components of the user's own read them.
_OWN = "ISE.OWN"
# Keys that registered parts read when they are built: set without such a part, they do nothing.
_OF_PARTS = (
    "ISE.SUPPORT.",
    "ISE.MEMORY.",
    "ISE.LABEL_PRESERVING.",
    "ISE.CAMERAS.PROXY.",
    "ISE.PSEUDO_LABEL.",
    f"{_OWN}.",
)
_OF_PARTS += ("DATALOADER.NUM_INSTANCE",)
# Keys of an earlier release that switched a hook on or off, and that hook.
_FORMER_SWITCHES = {"ISE.REPORT.ENABLED": "RunReport", "ISE.IDENTITIES.ENABLED": "IdentityChoice"}
# Keys of numbers that may also be the word AUTO, each with a number of its type.
AUTO = "auto"
_AUTOMATIC = {"ISE.PSEUDO_LABEL.EPS": 0.0, "ISE.ITERS_PER_EPOCH": 0}
# What the data may know of an image, and the word for none of it.
EVIDENCE, NONE = ("cameras", "tracks", "times"), "none"
# Steps of an epoch that is made by AUTO, at least: clusterings from a few steps to the next would cost more than they tell.
_FEWEST_STEPS = 36
_LARGEST_INT = 2**63 - 1
# What a number may be: in words, and as a test.
_RANGES = {
    "at least 0": lambda value: value >= 0,
    "at least 1": lambda value: value >= 1,
    "greater than 0": lambda value: value > 0,
    "at least 0 and at most 1": lambda value: 0 <= value <= 1,
    "at least 0 and less than 1": lambda value: 0 <= value < 1,
    "greater than 0 and at most 1": lambda value: 0 < value <= 1,
    "greater than 0 and less than 1": lambda value: 0 < value < 1,
}
# Keys with a range; infinity and NaN are outside of every range.
_BOUNDED = (
    ("at least 0", "ISE.CHECKPOINT_SECONDS", "ISE.KEEP_CHECKPOINTS", "ISE.MAX_SKIPPED_STEPS", "ISE.BN_GROUP_SIZE"),
    ("at least 0", "ISE.COLLAPSE.LABELLINGS", "ISE.EXTRACTION.IMS_PER_BATCH", "ISE.SUPPORT.BASE_DEGREE"),
    ("at least 0", "ISE.LABEL_PRESERVING.WEIGHT", "DATALOADER.CACHE_GIB", "DATALOADER.NUM_WORKERS", "TEST.EVAL_PERIOD"),
    ("at least 1", "ISE.ITERS_PER_EPOCH", "ISE.SUPPORT.NUM_NEIGHBORS", "ISE.PSEUDO_LABEL.PERIOD"),
    ("at least 1", "ISE.PSEUDO_LABEL.K1", "ISE.PSEUDO_LABEL.K2", "ISE.PSEUDO_LABEL.MIN_SAMPLES"),
    ("at least 1", "ISE.PSEUDO_LABEL.KMEANS.NUM_CLUSTERS"),
    ("at least 0 and at most 1", "ISE.PSEUDO_LABEL.SELF_PACED.GAP", "ISE.PSEUDO_LABEL.SELF_PACED.INDEPENDENT_SHARE"),
    ("at least 1", "SOLVER.MAX_EPOCH", "SOLVER.IMS_PER_BATCH", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.ACCUMULATE"),
    ("at least 1", "DATALOADER.NUM_INSTANCE", "TEST.IMS_PER_BATCH"),
    ("greater than 0", "ISE.MEMORY.TEMPERATURE", "ISE.LABEL_PRESERVING.TEMPERATURE", "ISE.CAMERAS.PROXY.TEMPERATURE"),
    ("greater than 0", "ISE.PROCESS_TIMEOUT", "SOLVER.BASE_LR"),
    ("at least 0 and at most 1", "ISE.IDENTITIES.MIN_CONFIDENCE", "DATASETS.FOLDER.MAX_BAD_SHARE"),
    ("at least 0 and at most 1", "DATASETS.VIEWS.PROB"),
    ("at least 0 and at most 1", "ISE.APPEARANCE.WEIGHT", "ISE.APPEARANCE.FINAL_WEIGHT"),
    ("at least 0", "ISE.APPEARANCE.SCENES", "ISE.CAMERAS.K2_INTER"),
    ("at least 1", "ISE.CAMERAS.K1_INTRA", "ISE.CAMERAS.K1_INTER", "ISE.CAMERAS.K2_INTRA"),
    ("at least 1", "ISE.APPEARANCE.EPOCHS"),
    ("at least 0", "ISE.CAMERAS.PROXY.INTRA_WEIGHT", "ISE.CAMERAS.PROXY.INTER_WEIGHT"),
    ("at least 1", "ISE.CAMERAS.PROXY.NEGATIVES"),
    ("at least 0 and less than 1", "ISE.MEMORY.MOMENTUM", "ISE.CAMERAS.PROXY.MOMENTUM"),
    ("at least 0 and less than 1", "ISE.MEMORY.INSTANCE_MOMENTUM"),
    ("at least 0", "ISE.TRACKS.MAX_GAP"),
    ("at least 0 and at most 1", "ISE.TRACKS.WEIGHT", "ISE.TRACKS.MAX_CUT_ERROR"),
    ("greater than 0 and at most 1", "ISE.COLLAPSE.MAX_CLUSTER_SHARE", "ISE.COLLAPSE.MAX_OUTLIER_SHARE"),
    ("greater than 0 and at most 1", "SOLVER.LAYER_DECAY"),
    ("greater than 0 and less than 1", "ISE.PSEUDO_LABEL.EPS"),
)
# those that fastreid.layers.get_norm knows; it says nothing of others but their name
_NORMS = ("BN", "syncBN", "GhostBN", "FrozenBN", "GN")
_CHOICES = {
    "MODEL.BACKBONE.NORM": _NORMS,
    "MODEL.HEADS.NORM": _NORMS,
    "DATALOADER.CACHE": ("none", "ram", "disk"),
    "ISE.PRECISION": ("auto", "float32", "bfloat16", "float16"),
    "ISE.ERASING": ("released", "fastreid"),
    "ISE.MEMORY.UPDATE": ("hard", "mean"),
    "ISE.SUPPORT.SCHEDULE": tuple(DEGREE_SCHEDULES),
    "ISE.TRACKS.MODE": ("hard", "soft", "off"),
    "ISE.PSEUDO_LABEL.AGGLOMERATIVE.LINKAGE": ("average", "complete", "single"),
    "ISE.REPORT.MAP_METHOD": ("tsne", "opentsne", "umap"),
}


def add_ise_config(cfg: CfgNode) -> None:
    """Adds the plug-in's keys with their defaults to a fastreid configuration, in place."""
    _C = cfg

    # Seed of every random choice; a negative number takes one from the clock and logs it. Same seed, same run on the CPU.
    _C.SEED = 0

    _C.ISE = CfgNode()
    # Python files, relative to the config file that names them, or dotted names of modules, imported before names are looked up:
    # they register distances, clusterers, losses, memories, samplers and hooks of your own.
    _C.ISE.IMPORT = ()
    # Training steps in an epoch; "auto": as many as show each image once on average. Unit: steps. Paper: 400.
    _C.ISE.ITERS_PER_EPOCH = 400
    # Evaluate once before the first step, so that a run shows what it added ("initial" in results.json).
    _C.ISE.EVAL_BEFORE_TRAIN = False

    # How long a process waits for the others before the run ends; longer than any of them works alone, such as the first one at
    # clustering. Unit: seconds.
    _C.ISE.PROCESS_TIMEOUT = 1800.0

    # What the network computes in where SOLVER.AMP.ENABLED: "auto" (what this device is fast in with this backbone), "float32",
    # "bfloat16" or "float16". Parameters, normalisation statistics, memory and losses stay float32.
    _C.ISE.PRECISION = "auto"
    # Memory layout of images and convolutions: channels-last (True), or contiguous as in stock fastreid.
    _C.ISE.CHANNELS_LAST = True
    # Images that share batch-norm statistics in training, whatever the number of processes: fewer than a process has (ghost
    # batches), as many, or more (exchanged between processes). Unit: images of the global batch; 0: what a process computes at
    # once. Released program: 256 images on four GPUs, so 64.
    _C.ISE.BN_GROUP_SIZE = 64
    # Rectangles of random erasing (INPUT.REA, whose VALUE is their colour before normalisation): "released" (area uniform in 0.02
    # to 0.4 of the image, aspect ratio uniform in 0.3 to 3.33), or "fastreid" (torchvision's: to 0.33, logarithmically uniform).
    _C.ISE.ERASING = "released"
    # Compile the backbone with torch.compile (docs/benchmarks.md: where it pays). On the CPU it needs a C++ compiler.
    _C.ISE.COMPILE = False
    # On the CPU with glibc: keep freed memory for the next step instead of giving it back to the system.
    _C.ISE.KEEP_FREED_MEMORY = True

    # Save inside an epoch when the last checkpoint is this old. Unit: seconds; 0 saves only at the end of epochs.
    _C.ISE.CHECKPOINT_SECONDS = 600.0
    # Periodic checkpoints that stay, the newest ones, beside model_best.pth and model_final.pth; 0 keeps all.
    _C.ISE.KEEP_CHECKPOINTS = 3
    # Steps of an epoch that may be left out because their loss or gradient is not finite; one more ends the run.
    _C.ISE.MAX_SKIPPED_STEPS = 10

    # When to end a run whose labels have collapsed.
    _C.ISE.COLLAPSE = CfgNode()
    # After this many such labellings in a row; 0 never ends the run.
    _C.ISE.COLLAPSE.LABELLINGS = 5
    # A labelling has collapsed when one cluster has more of the images than this, or outliers are more. Unit: share.
    _C.ISE.COLLAPSE.MAX_CLUSTER_SHARE = 0.8
    _C.ISE.COLLAPSE.MAX_OUTLIER_SHARE = 0.98

    # Extraction of the training images' embeddings for clustering.
    _C.ISE.EXTRACTION = CfgNode()
    # Its batch. Unit: images of all processes together; 0 takes TEST.IMS_PER_BATCH.
    _C.ISE.EXTRACTION.IMS_PER_BATCH = 0
    # Whether it takes the precision of SOLVER.AMP.ENABLED. Rounding changes who is whose neighbour, so float32 is the default,
    # without TF32, as in the released program.
    _C.ISE.EXTRACTION.AMP = False

    # Decoded, resized training images kept between epochs: "none", "ram" (shared by the workers of a process), or "disk" (a
    # file, shared by all processes and later runs). Where there is no room the next cheaper one is taken.
    _C.DATALOADER.CACHE = "none"
    # The most a cache may take. Unit: GiB; 0 allows half of the memory or disk that is free.
    _C.DATALOADER.CACHE_GIB = 0.0
    # Folder of the "disk" cache; empty means OUTPUT_DIR/cache.
    _C.DATALOADER.CACHE_DIR = ""
    # Flip, padded crop and erasing of whole batches on the device, equal in distribution to fastreid's on the CPU.
    _C.DATALOADER.AUGMENT_ON_DEVICE = False

    # One optimiser group for all parameters with equal hyper-parameters, and torch's fused kernel where it has one; False is one
    # group per parameter, as in stock fastreid.
    _C.SOLVER.FUSED = True
    # Factor on the learning rate from one layer to the one below it, nearer to the images; the head, above the backbone's last
    # layer, keeps SOLVER.BASE_LR. 1 is one rate for all, as in stock fastreid; BEiT (Bao et al., ICLR 2022): 0.65 for
    # vision transformers. For build_timm_backbone, which knows its layers.
    _C.SOLVER.LAYER_DECAY = 1.0
    # Pieces that a batch is computed in, one after the other, for less memory. IMS_PER_BATCH stays the batch of the method:
    # losses and memory see all of it; the embeddings are computed twice; a piece has whole groups of ISE.BN_GROUP_SIZE.
    _C.SOLVER.ACCUMULATE = 1

    # A network of timm is build_timm_backbone in MODEL.BACKBONE.NAME, with timm's name of it, or one of
    # ise_plugin.modeling.timm_backbone.VARIANTS, in MODEL.BACKBONE.DEPTH; FEAT_DIM is found by itself.
    # Never train its patch embedding, which steadies the training of vision transformers (Chen et al., MoCo v3, ICCV 2021).
    _C.MODEL.BACKBONE.FREEZE_PATCH_EMBED = False

    # The data set "Folder": crops without labels (ise_plugin.data.datasets.Folder). Paths, not below FASTREID_DATASETS.
    _C.DATASETS.FOLDER = CfgNode()
    # Folder with the training images, at any depth: JPEG, PNG, WebP, BMP.
    _C.DATASETS.FOLDER.ROOT = ""
    # What tells cameras, tracks and times; rules may complement one another. A regular expression searched in the path (its
    # groups "camera", else its first group, "track", "sequence", "frame" or "time"), a CSV file with the columns path and any
    # of these, the first sub-folder as the camera. Unit of times: frames or seconds, compared within a camera and sequence.
    _C.DATASETS.FOLDER.CAMERA_REGEX = ""
    _C.DATASETS.FOLDER.CAMERA_CSV = ""
    _C.DATASETS.FOLDER.CAMERA_FOLDERS = False
    # Labelled images for evaluation only: folders with a sub-folder for each identity. Empty: no evaluation.
    _C.DATASETS.FOLDER.QUERY = ""
    _C.DATASETS.FOLDER.GALLERY = ""
    # Unusable files that are tolerated, at the start and during the run. Unit: share of all files, in [0, 1].
    _C.DATASETS.FOLDER.MAX_BAD_SHARE = 0.05

    # Generated pictures of the training images, by GANs or from meshes (ise_plugin.data.views): in training one of an image's
    # views takes its place, with its label and camera. Never in clustering or evaluation. The paper has none.
    _C.DATASETS.VIEWS = CfgNode()
    # Folder with the views of NAME.jpg in NAME/; empty: none.
    _C.DATASETS.VIEWS.ROOT = ""
    # How often that happens to an image that has views. Unit: probability, in [0, 1].
    _C.DATASETS.VIEWS.PROB = 0.5

    # Hooks beside those that every run has: registered names (ise_plugin.registry.HOOK), or "module.Class" of your own. What
    # the package offers: "RunReport" (quality of the labels every epoch, OUTPUT_DIR/report.html), "IdentityChoice"
    # (identities.csv, identities/ with contact sheets, model_chosen.pth), "EpochSummary" (a line for every epoch).
    _C.ISE.HOOKS = ("RunReport", "EpochSummary")

    # What the hook IdentityChoice writes at the end of training.
    _C.ISE.IDENTITIES = CfgNode()
    # Groups of less confidence are written as outliers. Unit: estimated purity, in [0, 1]; 0 keeps all.
    _C.ISE.IDENTITIES.MIN_CONFIDENCE = 0.0

    # What the hook RunReport shows.
    _C.ISE.REPORT = CfgNode()
    # Figures and sheets of images in the report; False leaves numbers and tables.
    _C.ISE.REPORT.PICTURES = True
    # Compare the labels with the true identities of the training images, where the reader knows them. Training never sees them.
    _C.ISE.REPORT.IDENTITIES = True
    # Epochs whose embeddings and labels are kept (embeddings_0001.npz). Unit: epochs from 1; negative ones from the end.
    _C.ISE.REPORT.KEEP_EMBEDDINGS = ()
    # Identities that the map of embeddings shows, as "<data set> <identity>", 8 at most; empty picks some close together.
    _C.ISE.REPORT.MAP_IDENTITIES = ()
    # How the map is made: "tsne", or with their packages installed "opentsne" or "umap".
    _C.ISE.REPORT.MAP_METHOD = "tsne"

    # Support samples: synthetic embeddings near the boundary to neighbouring clusters (paper, section 3.2).
    _C.ISE.SUPPORT = CfgNode()
    _C.ISE.SUPPORT.ENABLED = True
    # Support samples made for each embedding, one for each of its K nearest other centroids. Released program: 1.
    _C.ISE.SUPPORT.NUM_NEIGHBORS = 1
    # The degree of extension at the end of training, as a factor on the difference of two centroids. The
    # paper's lambda of 1.0 is 0.25 here, because the released program halves it twice.
    _C.ISE.SUPPORT.BASE_DEGREE = 0.25
    # How it gets there: "progressive", from 0 by a logarithm (paper, section 3.2), or "constant", the same in every step.
    _C.ISE.SUPPORT.SCHEDULE = "progressive"
    # Support samples are contrasted with the memory and move it, as the embeddings do; False: the label-preserving loss alone has
    # them, so that the paper's parts can be told apart (projects/Ablation).
    _C.ISE.SUPPORT.IN_CONTRAST = True

    # Cluster memory (Dai et al., "Cluster Contrast", arXiv 2103.11568).
    _C.ISE.MEMORY = CfgNode()
    # Share of the old centroid kept at an update, in [0, 1).
    _C.ISE.MEMORY.MOMENTUM = 0.2
    # "hard": the member least similar to its centroid updates it; "mean": every member does, one after the other.
    _C.ISE.MEMORY.UPDATE = "hard"
    # Temperature of the sample-extension loss, > 0.
    _C.ISE.MEMORY.TEMPERATURE = 0.05
    # Share of an image's old row that the InstanceMemory keeps at an update, in [0, 1), for losses that want it. Ge et al.,
    # "Self-paced Contrastive Learning", NeurIPS 2020: 0.2.
    _C.ISE.MEMORY.INSTANCE_MOMENTUM = 0.2

    # Label-preserving loss (paper, section 3.3).
    _C.ISE.LABEL_PRESERVING = CfgNode()
    # Its weight beta in the total loss, >= 0; 0 leaves it out.
    _C.ISE.LABEL_PRESERVING.WEIGHT = 0.1
    # Its temperature, > 0.
    _C.ISE.LABEL_PRESERVING.TEMPERATURE = 0.6

    # Which images make a batch: "CrossCameraBatchSampler" (groups of clusters; outliers are not drawn), "RandomBatchSampler"
    # (all images, with outliers as label -1), or a sampler of your own by its registered name or as "module.Class".
    _C.ISE.SAMPLER = "CrossCameraBatchSampler"

    # What of the images' cameras, tracks and times is used beside their pixels: "auto" (what the data give), "none", or some of
    # them, as "cameras,tracks" (ise_plugin.engine.evidence). The paper uses none.
    _C.ISE.EVIDENCE = "none"

    # Cameras of the training images as evidence.
    _C.ISE.CAMERAS = CfgNode()
    # Neighbours of the distance "CameraJaccard" (ISE.PSEUDO_LABEL.DISTANCE) and of TEST.RERANK with ISE.CAMERAS.RERANK: in the
    # sets within a camera (the image itself included) and across cameras, and in the averaging of both. Chen et al., CVPR 2024.
    _C.ISE.CAMERAS.K1_INTRA = 5
    _C.ISE.CAMERAS.K1_INTER = 20
    _C.ISE.CAMERAS.K2_INTRA = 2
    _C.ISE.CAMERAS.K2_INTER = 4
    # Take the mean of each camera out of what neighbours are searched by, as ISE.APPEARANCE.SCENES does where none is known.
    _C.ISE.CAMERAS.CENTER = False
    # Re-rank evaluations (TEST.RERANK.ENABLED) with neighbours within and across cameras.
    _C.ISE.CAMERAS.RERANK = False
    # Camera proxies, a centroid for each camera of each cluster, for the loss CameraProxyLoss in MODEL.LOSSES.NAME (Wang et al.,
    # "Camera-aware Proxies", AAAI 2021, called CAP).
    _C.ISE.CAMERAS.PROXY = CfgNode()
    # Share of the old proxy kept at an update, in [0, 1). CAP: 0.2.
    _C.ISE.CAMERAS.PROXY.MOMENTUM = 0.2
    # Temperature of its two losses, > 0. CAP: 0.07.
    _C.ISE.CAMERAS.PROXY.TEMPERATURE = 0.07
    # Their weights in the total loss, >= 0; 0 leaves one out. CAP: 1 and 0.5.
    _C.ISE.CAMERAS.PROXY.INTRA_WEIGHT = 1.0
    _C.ISE.CAMERAS.PROXY.INTER_WEIGHT = 0.5
    # Nearest proxies of other clusters that an image is compared with across cameras. CAP: 50.
    _C.ISE.CAMERAS.PROXY.NEGATIVES = 50
    # Draw the groups of a batch by proxy instead of by cluster (CAP's proxy-balanced sampling), with or without that loss.
    _C.ISE.CAMERAS.PROXY.BALANCE = False

    # Pseudo labels: clustering of the training images' embeddings.
    _C.ISE.PSEUDO_LABEL = CfgNode()
    # Registered names (ise_plugin.registry), or "module.Class" of your own, of the hook that labels, and of the distance and
    # the clustering it uses.
    _C.ISE.PSEUDO_LABEL.HOOK = "DBSCANPseudoLabelHook"
    _C.ISE.PSEUDO_LABEL.DISTANCE = "Jaccard"
    _C.ISE.PSEUDO_LABEL.CLUSTERER = "DBSCAN"
    # Epochs from one labelling to the next. Unit: epochs. Paper: 1.
    _C.ISE.PSEUDO_LABEL.PERIOD = 1
    # Neighbours of the k-reciprocal Jaccard distance (Zhong et al., CVPR 2017): in the sets, and in the local query expansion.
    _C.ISE.PSEUDO_LABEL.K1 = 30
    _C.ISE.PSEUDO_LABEL.K2 = 6
    # Jaccard distance up to which two images are neighbours, in (0, 1); a larger value joins more. Paper: 0.4 on
    # Market-1501, 0.7 on MSMT17. "auto": chosen from the data at every labelling (ise_plugin.clustering.eps). "KMeans" and
    # "HDBSCAN" have none.
    _C.ISE.PSEUDO_LABEL.EPS = 0.4
    # Neighbours, itself included, that make an image the core of a cluster of DBSCAN; images of the smallest cluster of others.
    _C.ISE.PSEUDO_LABEL.MIN_SAMPLES = 4
    # Clusterer "KMeans": clusters, at most as many as images. Ge, Chen, Li, "Mutual Mean-Teaching", ICLR 2020, try 500 to 2000.
    _C.ISE.PSEUDO_LABEL.KMEANS = CfgNode()
    _C.ISE.PSEUDO_LABEL.KMEANS.NUM_CLUSTERS = 500
    # Clusterer "Agglomerative": what of the pairs of two clusters is their distance, "average", "complete" (the largest) or
    # "single" (the smallest). Clusters up to EPS apart are joined.
    _C.ISE.PSEUDO_LABEL.AGGLOMERATIVE = CfgNode()
    _C.ISE.PSEUDO_LABEL.AGGLOMERATIVE.LINKAGE = "average"
    # Clusterer "SelfPacedDBSCAN" (Ge et al., "Self-paced Contrastive Learning", NeurIPS 2020, called SpCL).
    _C.ISE.PSEUDO_LABEL.SELF_PACED = CfgNode()
    # From EPS to the looser and the stricter eps that clusters must stand. Unit: distance, in [0, 1]. SpCL: 0.02 (EPS 0.6).
    _C.ISE.PSEUDO_LABEL.SELF_PACED.GAP = 0.02
    # Clusters that the first labelling takes to be independent; the bound stays. Unit: share, in [0, 1]. SpCL: 0.9.
    _C.ISE.PSEUDO_LABEL.SELF_PACED.INDEPENDENT_SHARE = 0.9
    # Neighbour search: "exact", or "ivf" / "hnsw" (faiss) for sets too large for it.
    _C.ISE.PSEUDO_LABEL.SEARCH = "exact"

    # What images look like (colours and textures in stripes, ise_plugin.modeling.appearance) as evidence beside the embeddings
    # when neighbours are searched, for networks that have not learned people yet. Unit: share of the similarity, in [0, 1].
    _C.ISE.APPEARANCE = CfgNode()
    # In the first epoch, and linearly less until it is FINAL_WEIGHT in epoch EPOCHS and after it. The paper has none.
    _C.ISE.APPEARANCE.WEIGHT = 0.0
    _C.ISE.APPEARANCE.FINAL_WEIGHT = 0.0
    _C.ISE.APPEARANCE.EPOCHS = 8
    # Scenes, found by what is seen beside the persons, whose mean is taken out of what neighbours are searched by; 0: none.
    _C.ISE.APPEARANCE.SCENES = 0

    # Tracks of the training images, where they are known, as constraints of the clustering (ise_plugin.clustering.constraints):
    # images of one track are one person, tracks that one camera sees at the same moment are two. The paper has none.
    _C.ISE.TRACKS = CfgNode()
    # "hard": labels hold every constraint; "soft": constraints only change distances; "off".
    _C.ISE.TRACKS.MODE = "hard"
    # How far "soft" changes them, in [0, 1]: from not at all to as far as "hard" does.
    _C.ISE.TRACKS.WEIGHT = 0.5
    # A track counts as seen between two of its images that are no further apart. Unit: its camera's usual step, the median time
    # between two images of a track; 2: one image may be missing.
    _C.ISE.TRACKS.MAX_GAP = 2.0
    # Tracks whose images disagree are cut, if the embeddings tell tracks from artificially switched ones with no more errors of
    # either kind than this. Unit: share of tracks, in [0, 1]; 0 never cuts.
    _C.ISE.TRACKS.MAX_CUT_ERROR = 0.25

    # Pairs of images that a person says are one person, or two: a CSV file with the columns one, other (paths) and same (1 or 0).
    # Labels hold to them, and tracks give way. Empty: none. ise-identities corrections writes it (docs/howto/ledger.md).
    _C.ISE.CORRECTIONS = ""

    # Settings of distances, clusterers and hooks of your own, by their names: whatever keys their from_config reads.
    _C.ISE.OWN = CfgNode(new_allowed=True)


def get_cfg() -> CfgNode:
    """fastreid's default configuration with the plug-in's keys added."""
    cfg = get_fastreid_cfg()
    add_ise_config(cfg)
    return cfg


def load_cfg(config_file: Optional[str] = None, opts: Sequence[str] = ()) -> CfgNode:
    """Reads a config file over the defaults, then ``KEY VALUE`` pairs, and checks the values.

    Args:
        config_file: YAML file, with fastreid's ``_BASE_``, or the name of one of the package's own (``ISE/folder.yml``);
            None or empty takes the defaults alone.
        opts: keys and values in turn, as they stand on a command line.

    Raises:
        UsageError: a file is missing or no YAML, a key is unknown (the message names the nearest valid one), a value
            has the wrong type or an impossible value, what ``ISE.IMPORT`` names cannot be imported.
    """
    if len(opts) % 2:
        raise UsageError(f"command line: expected KEY VALUE pairs, but {opts[-1]!r} has no partner")
    cfg = get_cfg()
    for name, values in _read_chain(config_file) if config_file else ():
        _merge(cfg, values, name)
        if _IMPORT in flat(values):
            cfg.ISE.IMPORT = _absolute(cfg.ISE.IMPORT, os.path.dirname(resolve_config_file(name)))
    for key, value in zip(opts[0::2], opts[1::2]):
        _set_value(cfg, key, value, "command line")
    cfg.ISE.IMPORT = _absolute(cfg.ISE.IMPORT, os.getcwd())
    _import_parts(cfg)
    check_values(cfg)
    return cfg


def _import_parts(cfg: CfgNode) -> None:
    """Imports what ``ISE.IMPORT`` names."""
    for name in cfg.ISE.IMPORT:
        import_file(name, _IMPORT) if name.endswith(".py") else import_module(name, _IMPORT)


def _absolute(names, folder: str) -> tuple:
    """``ISE.IMPORT`` with the files relative to a folder as absolute paths."""
    given = [name for name in names if isinstance(name, str)]
    if len(given) < len(names):
        raise UsageError(f"{_IMPORT} must be Python files or names of modules, not {tuple(names)!r}")
    return tuple(os.path.abspath(os.path.join(folder, name)) if name.endswith(".py") else name for name in given)


class _Reads(set):
    """Names of keys that were read; the copies of a configuration share them."""

    def __deepcopy__(self, memo) -> "_Reads":
        return self


class _WatchedCfg(CfgNode):
    """A configuration that notes which of its values are asked for one by one, as parts do, and not all, as a dump does."""

    def __getitem__(self, name):
        value = super().__getitem__(name)
        if not isinstance(value, CfgNode):
            self.__dict__["_reads"].add(self.__dict__["_prefix"] + name)
        return value

    def get(self, name, default=None):
        return self[name] if name in self else default


def watched(cfg: CfgNode) -> CfgNode:
    """The configuration as one that :func:`unread_keys` can be asked of, frozen where it was."""
    return cfg if isinstance(cfg, _WatchedCfg) else _watched(cfg, "", _Reads())


def _watched(cfg: CfgNode, prefix: str, reads: _Reads) -> _WatchedCfg:
    watching = _WatchedCfg()
    watching.__dict__.update(cfg.__dict__, _prefix=prefix, _reads=reads)
    groups = {
        key: _watched(value, f"{prefix}{key}.", reads) for key, value in cfg.items() if isinstance(value, CfgNode)
    }
    dict.update(watching, {**cfg, **groups})
    return watching


def unread_keys(cfg: CfgNode) -> list[str]:
    """Keys of registered parts that have other values than their defaults and that no part has read so far.

    Args:
        cfg: what :func:`watched` gave, or a copy of it, when all parts are built; of any other nothing is known.
    """
    if not isinstance(cfg, _WatchedCfg):
        return []
    defaults, reads = flat(get_cfg()), cfg.__dict__["_reads"]
    changed = (key for key, value in flat(cfg).items() if value != defaults.get(key))
    return [key for key in changed if key.startswith(_OF_PARTS) and key not in reads]


def own_settings(cfg: CfgNode, name: str, **defaults) -> CfgNode:
    """The keys below ``ISE.OWN.<name>`` over their defaults, for the ``from_config`` of a part of the user's own.

    Args:
        cfg: configuration.
        name: of the group, such as a project's.
        defaults: its keys; a value has the type of its default.

    Raises:
        UsageError: another key is set there, or a value has the wrong type.

    Example::

        settings = own_settings(cfg, "SPCL", TEMPERATURE=0.05)
        settings.TEMPERATURE
    """
    group = f"{_OWN}.{name}"
    given = cfg.ISE.OWN.get(name, {})
    settings = CfgNode(dict(defaults))
    for key in given:
        if key not in defaults:
            nearest = difflib.get_close_matches(key, defaults, n=1, cutoff=0)
            raise UsageError(f"{group}: unknown key {key}; the nearest valid key is {nearest[0]}")
        settings[key] = _as_type_of(defaults[key], given[key], f"{group}.{key}", group)
    return settings


def resolve_config_file(path: str, folder: str = "") -> str:
    """Where a config file is: below ``folder``, or, where no such file exists, among the package's own (``ISE/folder.yml``)."""
    package = os.path.dirname(os.path.abspath(__file__))
    # inside an installed package, and beside the package in a checkout
    own = [os.path.join(home, "configs", path) for home in (package, os.path.dirname(package))]
    places = [os.path.join(folder, os.path.expanduser(path)), *own]
    return next(filter(os.path.isfile, places), places[0])


def load_base_cfg(config_file: str) -> tuple[str, CfgNode]:
    """The file at the end of a config file's ``_BASE_`` chain, and the configuration that it makes alone, unchecked."""
    cfg = get_cfg()
    name, values = _read_chain(config_file)[0]
    _merge(cfg, values, name)
    return name, cfg


def _read_chain(config_file: str, seen: tuple = ()) -> list:
    """[(file name, its values)], bases first, so that an error can name the file it comes from."""
    path = resolve_config_file(config_file)
    if os.path.abspath(path) in seen:
        raise UsageError(f"config file {config_file}: {BASE_KEY} leads back to itself; remove the loop")
    values = read_yaml(path, f"config file {config_file}")
    base = values.pop(BASE_KEY, None)
    if base is None:
        return [(config_file, values)]
    if not isinstance(base, str):
        raise UsageError(f"config file {config_file}: {BASE_KEY} must be the path of a config file, not {base!r}")
    base_path = resolve_config_file(base, os.path.dirname(path))
    return _read_chain(base_path, seen + (os.path.abspath(path),)) + [(config_file, values)]


def read_yaml(path: str, what: str) -> dict:
    """The keys and values of a YAML file; an empty one has none. ``what`` is its name in errors.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except UnicodeDecodeError as error:
        raise UsageError(f"{what}: it is not text; check its path") from error
    except (OSError, ValueError, RecursionError) as error:  # a date that is none, thousands of brackets
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{what}: cannot be read ({reason}); check its path and content") from error
    except yaml.YAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        reason = getattr(error, "problem", error)
        raise UsageError(f"{what}{line}: not valid YAML ({reason})") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UsageError(f"{what}: expected keys and values, found a {type(values).__name__}")
    return values


def _merge(cfg: CfgNode, values: dict, source: str) -> None:
    for key, value in flat(values).items():
        _set_value(cfg, key, value, source)


def flat(config: dict, prefix: str = "") -> dict:
    """{"A": {"B": 1}} -> {"A.B": 1}."""
    values = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        is_group = isinstance(value, dict) and (value or name == _OWN)
        values.update(flat(value, f"{name}.") if is_group else {name: value})
    return values


def _set_value(cfg: CfgNode, key: str, value, source: str) -> None:
    """Sets one key to a value of the type its default has; whole numbers serve as floats, lists and tuples as each other."""
    if key in _FORMER_SWITCHES:
        _switch_hook(cfg, _FORMER_SWITCHES[key], _as_type_of(True, value, key, source), key, source)
        return
    *parents, leaf = key.split(".")
    node = cfg
    if key.startswith(f"{_OWN}."):
        for parent in parents:
            node = node.setdefault(parent, CfgNode(new_allowed=True))
        node[leaf] = _literal(value) if isinstance(value, str) else value
        return
    for parent in parents:
        node = node.get(parent) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or leaf not in node:
        nearest = difflib.get_close_matches(key, flat(cfg), n=1, cutoff=0)
        hint = f"; the nearest valid key is {nearest[0]}" if nearest else ""
        raise UsageError(f"{source}: unknown key {key}{hint}")
    default = node[leaf]
    if isinstance(default, CfgNode):
        raise UsageError(f"{source}: {key} is a group of keys, not a value; set one of: {', '.join(sorted(default))}")
    node[leaf] = _as_type_of(default, value, key, source)


def _switch_hook(cfg: CfgNode, hook: str, on: bool, key: str, source: str) -> None:
    if on == (hook in cfg.ISE.HOOKS):
        return
    logger.warning(f"{source}: {key} is a key of an earlier release; name {hook} in ISE.HOOKS, or leave it out there")
    cfg.ISE.HOOKS = (*cfg.ISE.HOOKS, hook) if on else tuple(name for name in cfg.ISE.HOOKS if name != hook)


def _as_type_of(default, value, key: str, source: str):
    wanted = f"of type {type(default).__name__}, like {default!r}"
    if key in _AUTOMATIC:
        if value == AUTO:
            return value
        default, wanted = _AUTOMATIC[key], f"a number or {AUTO}"
    if isinstance(value, str) and not isinstance(default, str):
        value = _literal(value)  # YAML knows no tuples and reads 1e-4 as text; a command line knows text alone
    if type(value) is int and abs(value) > _LARGEST_INT:
        raise UsageError(f"{source}: {key} is a whole number of {value.bit_length()} bits; at most 63 can be used")
    if default is None or type(value) is type(default):
        return value
    if type(default) is float and type(value) is int:
        return float(value)
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        return type(default)(value)
    if isinstance(default, str) and type(value) in (int, float):
        return str(value)  # a folder named 2024, say
    raise UsageError(f"{source}: {key} must be {wanted}, not {value!r}")


def _literal(text: str):
    """The Python literal that a text spells, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def with_steps(cfg: CfgNode, images: int) -> CfgNode:
    """The configuration with ``ISE.ITERS_PER_EPOCH`` as a number, for a training set of so many images."""
    if cfg.ISE.ITERS_PER_EPOCH != AUTO:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.ISE.ITERS_PER_EPOCH = max(_FEWEST_STEPS, math.ceil(images / cfg.SOLVER.IMS_PER_BATCH))
    cfg.freeze()
    logger.info(
        f"ISE.ITERS_PER_EPOCH auto: {cfg.ISE.ITERS_PER_EPOCH} steps of {cfg.SOLVER.IMS_PER_BATCH} for {images} images"
    )
    return cfg


def check_values(cfg: CfgNode) -> None:
    """Refuses values that no run could use.

    Raises:
        UsageError: names the key, its value and the range.
    """
    values = flat(cfg)
    for wanted, *keys in _BOUNDED:
        for key in keys:
            value = values[key]
            if value != AUTO and not (math.isfinite(value) and _RANGES[wanted](value)):
                raise UsageError(f"{key} must be {wanted}, not {value}")
    for key, choices in _CHOICES.items():
        if values[key] not in choices:
            raise UsageError(f"{key} must be one of {', '.join(choices)}, not {values[key]!r}")
    asked = values["ISE.EVIDENCE"]
    if asked not in (AUTO, NONE) and not set(asked.split(",")) <= set(EVIDENCE):
        raise UsageError(f"ISE.EVIDENCE must be {AUTO}, {NONE}, or some of {','.join(EVIDENCE)}, not {asked!r}")
    for key in ("INPUT.SIZE_TRAIN", "INPUT.SIZE_TEST"):
        if not (1 <= len(values[key]) <= 2 and all(type(side) is int for side in values[key])):
            raise UsageError(f"{key} must be [height, width] in pixels, not {values[key]}")
    _check_batch(cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE, cfg.ISE.BN_GROUP_SIZE, cfg.DATALOADER.NUM_INSTANCE)
    kept = cfg.ISE.REPORT.KEEP_EMBEDDINGS
    if not all(type(epoch) is int and epoch for epoch in kept):
        raise UsageError(f"ISE.REPORT.KEEP_EMBEDDINGS must be epochs from 1, or negative ones from the end, not {kept}")
    if not cfg.OUTPUT_DIR:
        raise UsageError("OUTPUT_DIR is empty; name a folder for the run's files, . for the current one")
    if not cfg.DATASETS.NAMES:
        raise UsageError("DATASETS.NAMES is empty; name at least one data set to train on")


def _check_batch(batch: int, pieces: int, normalized: int, instances: int) -> None:
    """What the numbers of images, each possible alone, must be together."""
    if pieces > batch:
        raise UsageError(f"SOLVER.ACCUMULATE must be at least 1 and at most {batch}, not {pieces}")
    if normalized == 1:
        raise UsageError("ISE.BN_GROUP_SIZE must be 0 or at least 2: one image has no statistics; not 1")
    if pieces > 1 and normalized * pieces > batch:
        raise UsageError(
            f"SOLVER.ACCUMULATE {pieces} makes pieces of {batch // pieces} images, less than one group of "
            f"ISE.BN_GROUP_SIZE {normalized}; lower one of them, or set ISE.BN_GROUP_SIZE 0"
        )
    if batch % instances:
        raise UsageError(f"SOLVER.IMS_PER_BATCH ({batch}) must be a multiple of DATALOADER.NUM_INSTANCE ({instances})")
