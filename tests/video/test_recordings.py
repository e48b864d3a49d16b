"""Frames of recordings: their numbers, times and pictures, whatever is wrong with the file."""

import struct
import sys

import numpy as np
import pytest
from PIL import Image
from video_helpers import write_video

from ise_plugin.errors import UsageError
from ise_plugin.video.recordings import Recording

pytest.importorskip("av")


def stripe(frame):
    """Which of the pictures a frame shows."""
    return round(frame.image[8:24, 40:120].mean() / 6)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mjpeg"])
def test_frames_come_in_their_order_and_keep_their_numbers_where_some_are_corrupt(tmp_path, pictures, caplog, codec):
    path = write_video(tmp_path / "a.mp4", pictures, codec)
    recording = Recording(str(path))
    frames = list(recording.frames())
    assert recording.count() == len(frames) == 40 and recording.skipped == 0 and not caplog.records
    assert [(f.number, stripe(f)) for f in frames] == [(n, n) for n in range(1, 41)]
    np.testing.assert_allclose([f.time for f in frames], np.arange(40) / 25, atol=2e-3)
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat"), content.index(b"moov")
    middle, size = (start + end) // 2, (end - start) // 8
    content[middle : middle + size] = bytes(size)
    path.write_bytes(content)
    left = list(recording.frames())
    assert 0 < recording.skipped == 40 - len(left) < 20
    wrong = [f.number for f in left if stripe(f) != f.number]  # a decoder may conceal some of a broken picture
    assert len(wrong) <= 2 and left[-1].number == 40 == stripe(left[-1])
    assert [r.message for r in caplog.records] == [
        f"a: {recording.skipped} frames cannot be decoded; skipped, the others keep their numbers"
    ]


def test_times_are_the_files_own_and_sampling_follows_them(tmp_path, pictures):
    moments = [10 * n * n for n in range(40)]
    recording = Recording(str(write_video(tmp_path / "a.mp4", pictures, moments=moments)))
    frames = list(recording.frames())
    np.testing.assert_allclose([f.time for f in frames], np.array(moments) / 1000, atol=2e-3)
    assert [f.number for f in recording.frames(every=9)] == [9, 18, 27, 36]
    sampled = [f.time for f in recording.frames(fps=2)]
    assert [int(t * 2 + 1e-3) for t in sampled] == sorted({int(t * 2 + 1e-3) for t in np.array(moments) / 1000})
    assert max(f.time for f in recording.frames(seconds=1.0)) <= 1.0
    for wrong in ({"every": 0}, {"fps": 0.0}):
        with pytest.raises(UsageError, match="--every must be 1 or more and --fps above 0"):
            next(recording.frames(**wrong))


@pytest.mark.parametrize("matrix, turns", [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_a_rotated_video_is_upright(tmp_path, pictures, matrix, turns):
    path = write_video(tmp_path / "a.mp4", pictures[:2])
    lying = next(Recording(str(path)).frames()).image
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44  # ISO 14496-12: the matrix of a track header of version 0
    a, b, c, d = (value << 16 for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    np.testing.assert_array_equal(next(Recording(str(path)).frames()).image, np.rot90(lying, turns))


def test_what_is_no_video_gets_one_line_with_the_cure(tmp_path, pictures):
    import av

    whole = write_video(tmp_path / "whole.mp4", pictures[:3], "libx264").read_bytes()
    with av.open(str(tmp_path / "audio.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        samples.rate = 8000
        container.mux(stream.encode(samples))
    start, end = whole.index(b"mdat") + 4, whole.index(b"moov") - 4
    contents = {
        "empty.mp4": (b"", "cannot be opened (Invalid data"),
        "text.mp4": (b"no video", "cannot be opened (Invalid data"),
        "codec.mp4": (whole.replace(b"avc1", b"zzzz"), "of a codec that PyAV cannot decode"),
        "zeros.mp4": (whole[:start] + bytes(end - start) + whole[end:], "has no frame that can be decoded"),
        "none.mp4": (None, "cannot be opened (No such file"),
        "audio.wav": (None, "has no video, only audio"),
    }
    for name, (content, words) in contents.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError) as caught:
            list(Recording(str(tmp_path / name)).frames())
        said = str(caught.value)
        assert words in said and name in said and "\n" not in said, said
        assert name == "audio.wav" or "ffmpeg -i" in said


def test_what_is_not_installed_is_named_with_the_command(tmp_path, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match="videos need PyAV; install it with: pip install av "):
        Recording("a.mp4").count()


def test_a_folder_of_frames(tmp_path, pictures, caplog):
    folder = tmp_path / "cam1/img1"
    folder.mkdir(parents=True)
    for number in (4, 6, 9):
        Image.fromarray(pictures[number - 1]).save(folder / f"{number:06d}.png")
    (folder / "000006.png").write_bytes(b"")
    for source, rate, seconds in ((tmp_path / "cam1", 10, 0.5), (folder, None, 0.2)):
        recording = Recording(str(source), rate)
        frames = list(recording.frames())
        assert [(f.number, stripe(f)) for f in frames] == [(4, 4), (9, 9)] and recording.skipped == 1
        assert frames[-1].time == pytest.approx(seconds) and recording.numbers() == [4, 6, 9]
        assert recording.count() == 3
    (tmp_path / "cam1/seqinfo.ini").write_text("[Sequence]\nframeRate=50\n")
    assert list(Recording(str(tmp_path / "cam1")).frames())[-1].time == pytest.approx(0.1)


def test_an_address_is_named_without_its_secrets():
    recording = Recording("rtsp://user:secret@127.0.0.1:1/gate/1?key=2")
    assert recording.camera == "127.0.0.1_1_gate_1" and recording.name.startswith(recording.camera + "_")
    with pytest.raises(UsageError, match="check the address") as caught:
        list(recording.frames())
    assert "secret" not in str(caught.value) and "key" not in str(caught.value)
