"""Small videos and tables of boxes, written where a test wants them."""

from fractions import Fraction

import numpy as np

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
