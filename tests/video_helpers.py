"""Small videos and tables of boxes, written where a test wants them."""

from fractions import Fraction

import numpy as np

from ise_plugin.data.reading import ReadFile, read_rgb

SIZE = (160, 96)
MILLISECOND = Fraction(1, 1000)
BIT_RATE = 20_000_000  # so that every frame is its own


def write_video(path, pictures, codec="mjpeg", moments=None):
    """Pictures (H, W, 3) as a video; ``moments`` in milliseconds, by default 25 frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size, stream.time_base, stream.bit_rate = 10, MILLISECOND, BIT_RATE
        stream.codec_context.time_base = MILLISECOND
        for place, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = 40 * place if moments is None else moments[place], MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# Places of four people beside one another; each sways a little.
PLACES, TOP, PERSON = (10, 46, 82, 118), 18, (24, 64)


def write_world(folder, cameras, frames=16):
    """Recordings of people with clothes of their own, two frames a second; boxes without tracks, and the truth.

    Args:
        cameras: name -> whom it sees, from left to right.
    """
    for name in ("boxes", "truth"):
        (folder / name).mkdir()
    for number, (camera, people) in enumerate(cameras.items()):
        random, pictures, boxes, truth = np.random.default_rng(number), [], [], []
        back = random.integers(90, 130, (SIZE[1], SIZE[0], 3))
        for frame in range(1, frames + 1):
            light = 12 * (-1) ** frame  # or crops would be like the ones before
            picture = back + random.integers(-8, 9, back.shape)
            for person, left in zip(people, PLACES):
                left = left + round(3 * np.sin(frame + person))
                picture[TOP : TOP + PERSON[1], left : left + PERSON[0]] = clothes(person) + random.integers(
                    -25, 26, (PERSON[1], PERSON[0], 3)
                )
                box = f"{left},{TOP},{PERSON[0]},{PERSON[1]},1,-1,-1,-1\n"
                boxes.append(f"{frame},-1,{box}")
                truth.append(f"{frame},{person},{box}")
            picture = picture + light
            pictures.append(picture.clip(0, 255).astype(np.uint8))
        boxes.append(f"2,-1,400,{TOP},24,64,1,-1,-1,-1\n")  # outside the frame
        write_video(folder / f"{camera}.mp4", pictures, moments=[500 * i for i in range(frames)])
        (folder / "boxes" / f"{camera}.txt").write_text("".join(boxes))
        (folder / "truth" / f"{camera}.txt").write_text("".join(truth))


class Colours:
    """A network in the place of one that has to be loaded: the colours of a crop, as unit vectors."""

    run = weights = "colours"
    fingerprint, input_size = "0123456789abcdef", (64, 32)

    def __call__(self, paths):
        return np.stack([found.value for found in self.stream(paths)]) if len(paths) else np.zeros((0, 48), np.float32)

    def stream(self, paths):
        for path in paths:
            pixels = np.asarray(read_rgb(path).resize((2, 8)), np.float32).ravel()
            pixels = pixels - pixels.mean()
            yield ReadFile(path, pixels / np.linalg.norm(pixels))


def clothes(person):
    """(64, 24, 3): head, shirt and trousers of a person, each with a pattern."""
    random = np.random.default_rng(1000 + person)
    blocks = random.integers(0, 256, (3, 1, 3)) + random.integers(-60, 61, (3, 6, 3))
    return blocks.clip(0, 255).repeat([12, 26, 26], 0).repeat(4, 1)
