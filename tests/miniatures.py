"""A few drawn images in the layout of each published data set."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def draw(path: Path) -> None:
    """A small picture of noise, another one for every name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(path.name.encode())).integers(256, size=(16, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def draw_all(folder: Path, *names: str) -> None:
    for name in names:
        draw(folder / name)


def market(root):
    home = root / "Market-1501-v15.09.15"
    draw_all(home / "bounding_box_train", "0002_c1s1_000451_03.jpg", "0002_c6s1_000500_01.jpg")
    draw_all(home / "query", "0001_c1s1_001051_00.jpg")
    draw_all(home / "bounding_box_test", "0001_c2s1_000301_00.jpg", "-1_c1s1_000401_03.jpg", "0000_c2s1_000301_00.jpg")


def duke(root):
    home = root / "DukeMTMC-reID"
    draw_all(home / "bounding_box_train", "0001_c1_f0000100.jpg", "0001_c8_f0000200.jpg", "0003_c1_f0000300.jpg")
    draw_all(home / "query", "0002_c2_f0000400.jpg")
    draw_all(home / "bounding_box_test", "0002_c5_f0000500.jpg", "0002_c2_f0000410.jpg", "0004_c5_f0000600.jpg")


def msmt17(root, version="MSMT17_V1", train="train", test="test"):
    lists = {
        "train": ("0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_000_14_0303noon_0016_1.jpg 1"),
        "val": ("0000/0000_001_02_0303morning_0017_0.jpg 0",),
        "query": ("0000/0000_000_03_0303morning_0018_0.jpg 0",),
        "gallery": ("0000/0000_000_04_0303morning_0019_0.jpg 0", "0001/0001_000_03_0303noon_0020_0.jpg 1"),
    }
    for name, lines in lists.items():
        write(root / version / f"list_{name}.txt", *lines)
        folder = root / version / (train if name in ("train", "val") else test)
        draw_all(folder, *(line.split()[0] for line in lines))


def msmt17_v2(root):
    msmt17(root, "MSMT17_V2", "mask_train_v2", "mask_test_v2")


def cuhk03_ready(root):
    for boxes, more in ("detected", ()), ("labeled", ("0003_c2_2.png",)):
        home = root / "CUHK03-NP" / boxes
        draw_all(home / "bounding_box_train", "0001_c1_1.png", "0001_c2_6.png", "0003_c1_1.png", *more)
        draw_all(home / "query", "0002_c1_1.png", "0002_c2_6.png")
        draw_all(home / "bounding_box_test", "0002_c1_2.png", "0002_c2_7.png", "0004_c1_1.png")


def cuhk03_release(root):
    """The images as stock programs take them out of cuhk-03.mat, and the files of the new protocol."""
    names = [
        *("1_001_1_01.png", "1_001_2_06.png", "2_001_1_01.png"),
        *("1_002_1_01.png", "1_002_2_06.png", "1_002_1_02.png", "1_002_2_07.png", "5_001_2_06.png"),
    ]
    file_list = np.empty((len(names), 1), object)
    file_list[:, 0] = names
    for boxes in "detected", "labeled":
        draw_all(root / f"cuhk03/images_{boxes}", *names)
        content = {"filelist": file_list, "labels": np.array([[1, 1, 3, 2, 2, 2, 2, 4]]).T}
        rows = {"train_idx": [[1, 2, 3]], "query_idx": [[4, 5]], "gallery_idx": [[6, 7, 8]]}
        savemat(root / f"cuhk03/cuhk03_new_protocol_config_{boxes}.mat", {**content, **rows})


def veri(root):
    draw_all(root / "veri/image_train", "0001_c001_00000100_0.jpg", "0001_c020_00000200_0.jpg")
    draw_all(root / "veri/image_query", "0002_c002_00000300_0.jpg")
    draw_all(root / "veri/image_test", "0002_c003_00000400_0.jpg", "0005_c003_00000500_0.jpg")


VEHICLEID_LISTS = {
    "800": 2,
    "1600": 3,
    "2400": 4,
    "13164": 5,
}  # name -> identities; real lists have as many as their names


def vehicleid(root):
    """Identity i of the test lists has the images 10 i + 1 ... 10 i + 4."""
    home = root / "vehicleid"
    write(home / "train_test_split/train_list.txt", "0000001 7", "0000002 7", "0000003 9")
    draw_all(home / "image", "0000001.jpg", "0000002.jpg", "0000003.jpg")
    for name, identities in VEHICLEID_LISTS.items():
        lines = [f"{10 * i + n:07d} {i}" for i in range(1, identities + 1) for n in range(1, 5)]
        write(home / f"train_test_split/test_list_{name}.txt", *lines)
        draw_all(home / "image", *(line.split()[0] + ".jpg" for line in lines))


VERIWILD_LISTS = {"3000": 1, "5000": 2, "10000": 3}


def veriwild(root):
    """Vehicle v of the test lists is seen by the cameras v (query) and v + 1, v + 2 (gallery)."""
    home = root / "VERI-Wild"
    seen = {"00001/000001": 5, "00001/000002": 174, "00002/000003": 5}
    write(home / "train_test_split/train_list.txt", *(f"{name}.jpg" for name in seen))
    for name, vehicles in VERIWILD_LISTS.items():
        images = {f"{v:05d}/{10 * v + n:06d}": v + n for v in range(11, 11 + vehicles) for n in range(3)}
        write(
            home / f"train_test_split/test_{name}_query.txt", *(f"{i}.jpg" for n, i in enumerate(images) if n % 3 == 0)
        )
        write(home / f"train_test_split/test_{name}.txt", *(f"{i}.jpg" for n, i in enumerate(images) if n % 3))
        seen |= images
    told = (f"{name};{camera};2018-03-11 06:59:32;Make Model;SUV;White" for name, camera in seen.items())
    write(home / "train_test_split/vehicle_info.txt", "id/image;Camera ID;Time;Model;Type;Color", *told)
    draw_all(home / "images", *(f"{name}.jpg" for name in seen))


def personx(root):
    draw_all(root / "PersonX/bounding_box_train", "0001_c3s1_24_01.jpg", "0001_c11s1_24_02.jpg", "0007_c3s1_3_00.jpg")
    draw_all(root / "PersonX/query", "0002_c4s1_1_01.jpg")
    draw_all(root / "PersonX/bounding_box_test", "0002_c12s1_1_01.jpg", "0003_c4s1_1_01.jpg")


# (file, entity, kind of query, [recording, camera, frame])
ATRW_TEST = [
    ("000010.jpg", 1, "multi", [1, 1, 10]),
    ("000011.jpg", 1, "multi", [1, 1, 13]),
    ("000012.jpg", 1, "multi", [1, 1, 17]),
    ("000013.jpg", 1, "multi", [1, 2, 13]),
    ("000020.jpg", 2, "sing", [2, 1, 10]),
    ("000021.jpg", 2, "sing", [2, 1, 100]),
    ("000030.jpg", -1, "sing", [2, 1, 10]),
]


def atrw(root):
    home = root / "ATRW"
    write(home / "atrw_anno_reid_train/reid_list_train.csv", "0,000001.jpg", "0,000002.jpg", "5,000003.jpg")
    write(home / "atrw_anno_reid_test/reid_list_test.csv", *(name for name, *_ in ATRW_TEST))
    draw_all(home / "atrw_reid_train/train", "000001.jpg", "000002.jpg", "000003.jpg")
    draw_all(home / "atrw_reid_test/test", *(name for name, *_ in ATRW_TEST))
    told = [
        {"imgid": int(name[:-4]), "entityid": entity, "query": kind, "frame": frame}
        for name, entity, kind, frame in ATRW_TEST
    ]
    (home / "gt_test_plain.json").write_text(json.dumps(told))
