import os
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refinenet_edge.errors import InputError
from refinenet_edge.frames import images, open_frames, open_source, parse
from refinenet_edge.frames.images import image_size, list_images, read_image, turn_of, write_image
from refinenet_edge.records import MAX_SIDE
from refinenet_edge.scenes import scene
from tests.demo.fakes import grey, levels

PICTURE = np.random.default_rng(0).integers(0, 256, (13, 21, 3), np.uint8)
# orientation 6 in a big-endian EXIF block: the camera was turned, the picture is shown a quarter turn clockwise
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"


def encoded(suffix: str, image: np.ndarray = PICTURE, *flags: int) -> bytes:
    done, data = cv2.imencode(suffix, image, flags)
    assert done
    return data.tobytes()


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".PNG"])
def test_an_image_comes_back(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"a{suffix}", PICTURE)
    image = read_image(tmp_path / f"a{suffix}")
    assert image.shape == PICTURE.shape
    assert suffix == ".webp" or np.array_equal(image, PICTURE)
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]


def test_a_label_map_comes_back(tmp_path: Path) -> None:
    labels = PICTURE[:, :, 0]
    write_image(tmp_path / "labels.png", labels)
    assert np.array_equal(read_image(str(tmp_path / "labels.png")), np.stack([labels] * 3, axis=2))


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (np.full((4, 5), 40_000, np.uint16), [156, 156, 156]),
        (np.full((4, 5), 7, np.uint8), [7, 7, 7]),
        (np.full((4, 5, 4), (1, 2, 3, 0), np.uint8), [1, 2, 3]),
        (np.full((4, 5, 3), (256, 512, 768), np.uint16), [1, 2, 3]),
    ],
    ids=["16-bit grey", "grey", "alpha", "16-bit colour"],
)
def test_other_pixels_become_bgr_bytes(tmp_path: Path, image: np.ndarray, pixel: list[int]) -> None:
    read = read_image(saved(tmp_path / "a.png", encoded(".png", image)))
    assert read.dtype == np.uint8
    assert read.shape == (4, 5, 3)
    assert (read == pixel).all()


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    data = encoded(".jpg", PICTURE)
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", len(EXIF) + 2) + EXIF + data[2:]
    upright = read_image(saved(tmp_path / "upright.jpg", data))
    assert np.array_equal(read_image(saved(tmp_path / "turned.jpg", turned)), np.rot90(upright, -1))


@pytest.mark.parametrize("flags", [(), (cv2.IMWRITE_WEBP_QUALITY, 50)], ids=["VP8L", "VP8"])
def test_size_of_webp(flags: tuple[int, ...]) -> None:
    assert image_size(encoded(".webp", PICTURE, *flags)) == (13, 21)


@pytest.mark.parametrize("flags", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)], ids=["baseline", "progressive"])
def test_size_of_jpeg(flags: tuple[int, ...]) -> None:
    assert image_size(encoded(".jpg", PICTURE, *flags)) == (13, 21)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (encoded(".png"), (13, 21)),
        (encoded(".bmp"), (13, 21)),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, 21, -13), (13, 21)),
        (b"BM" + bytes(12) + struct.pack("<IHH", 12, 21, 13), (13, 21)),
        (b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + b"\x14\0\0\x0c\0\0", (13, 21)),
        (b"GIF89a" + bytes(20), None),
        (b"\xff\xd8\xff", None),
        (b"", None),
    ],
)
def test_size_of_a_header(data: bytes, size: tuple[int, int] | None) -> None:
    assert image_size(data) == size


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    bomb = bytearray(encoded(".png"))
    bomb[16:24] = struct.pack(">II", MAX_SIDE + 1, MAX_SIDE)
    with pytest.raises(InputError, match=rf"bomb\.png is 16384x16385 pixels, the limit is {MAX_SIDE}"):
        read_image(saved(tmp_path / "bomb.png", bytes(bomb)))


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="is larger than 100 bytes"):
        read_image(saved(tmp_path / "a.png", encoded(".png")))


@pytest.mark.parametrize("data", [b"", b"hello", encoded(".png")[:200], encoded(".png")[:20], encoded(".jpg")[:30]])
def test_a_damaged_image_is_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError, match=r"broken\.png"):
        read_image(saved(tmp_path / "broken.png", data))


@settings(deadline=None, database=None, max_examples=200)
@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF\0\0\0\0WEBPVP8", b""]), st.binary())
def test_any_bytes_have_a_size_or_none(head: bytes, tail: bytes) -> None:
    image_size(head + tail)


@pytest.mark.parametrize("path", ["missing.png", ".", "nul\0.png"])
def test_no_file(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError):
        read_image(tmp_path / path)


@pytest.mark.parametrize(
    "image", [PICTURE.astype(np.float32), PICTURE[:, :, :2], PICTURE[0, 0], PICTURE[:0]], ids=lambda a: str(a.shape)
)
def test_other_arrays_are_not_written(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"a\.png"):
        write_image(tmp_path / "a.png", image)
    assert not list(tmp_path.iterdir())


def test_another_format_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.gif"):
        write_image(tmp_path / "a.gif", PICTURE)


def test_a_full_disk_keeps_the_old_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", PICTURE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"a\.png cannot be written.*No space"):
        write_image(tmp_path / "a.png", PICTURE[::-1])
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert np.array_equal(read_image(tmp_path / "a.png"), PICTURE)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/a\.png cannot be written"):
        write_image(tmp_path / "nowhere" / "a.png", PICTURE)


def test_a_folder_lists_its_images_by_name(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "._a.png", "notes.txt", "c.webp"):
        (tmp_path / name).touch()
    (tmp_path / "d.png").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["a.png", "b.JPG", "c.webp"]
    assert list_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


def test_a_list_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image in"):
        list_images(tmp_path)
    with pytest.raises(InputError, match="no image or folder"):
        list_images(tmp_path / "missing")


def test_images_of_a_folder_but_the_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, level in (("a", 20), ("b", 40), ("c", 60)):
        write_image(tmp_path / f"{name}.png", grey(level))
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert levels(open_source(str(tmp_path), every_frame=True)) == [20, 60]
    assert "b.png" in caplog.text
    assert levels(open_source(str(tmp_path), every_frame=True, repeat=True), 5) == [20, 60, 20, 60, 20]


def test_images_none_of_which_can_be_read(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match="none of the 2"):
        levels(open_source(str(tmp_path), every_frame=True))
    with pytest.raises(InputError, match=r"a\.png"):
        levels(open_source(str(tmp_path / "a.png"), every_frame=True))


def test_the_frames_of_a_folder(tmp_path: Path) -> None:
    for name in "ba":
        write_image(tmp_path / f"{name}.png", grey(ord(name)))
    frames = open_frames(parse(str(tmp_path)))
    assert frames.names == ("a.png", "b.png")
    assert frames.read(1)[0, 0, 0] == ord("b")


def test_what_is_no_file_is_named_where_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    write_image(tmp_path / "b.png", grey(1))
    frames = open_frames(parse(str(tmp_path)))
    assert frames.names == ("a.png", "b.png")
    with pytest.raises(InputError, match=r"no image at .*a\.png"):
        frames.read(0)


def test_images_in_sub_folders_are_not_taken_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    write_image(tmp_path / "day" / "a.png", grey(1))
    with pytest.raises(InputError, match="not in its sub-folders"):
        open_frames(parse(str(tmp_path)))


# the decoder alone passes all but the first two in OpenCV 4 and 5, and those in 4.8 to 4.10
DAMAGED = {
    "cut in half": lambda whole: whole[: len(whole) // 2],
    "without its end": lambda whole: whole[:-2],
    "cut in half, with a preview": lambda whole: preview(whole)[: len(preview(whole)) // 2],
    "cut in half, with an end": lambda whole: whole[: len(whole) // 2] + b"\xff\xd9",
    "with a hole": lambda whole: whole[: len(whole) // 2] + whole[len(whole) // 2 + 4096 :],
    "with zeros": lambda whole: whole[: len(whole) // 2] + bytes(4096) + whole[len(whole) // 2 + 4096 :],
    "with something else": lambda whole: whole[: len(whole) // 2] + 512 * bytes(range(1, 9)) + whole[-9000:],
}


def preview(whole: bytes) -> bytes:
    """With a small JPEG in its header, which has an end of its own."""
    small = encoded(".jpg")
    return whole[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + whole[2:]


@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]])
@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_jpeg_is_refused_by_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], how: str, options
) -> None:
    whole = cv2.imencode(".jpg", scene(5, 0, (400, 500))[0], options)[1].tobytes()
    assert read_image(saved(tmp_path / "whole.jpg", whole + b"\0 and what some cameras add")).shape == (400, 500, 3)
    assert read_image(saved(tmp_path / "preview.jpg", preview(whole))).shape == (400, 500, 3)
    with pytest.raises(InputError, match=r"image .*half\.jpg (cannot be .*cut short|is damaged: its decoder)"):
        read_image(saved(tmp_path / "half.jpg", DAMAGED[how](whole)))
    assert capfd.readouterr().err == ""


def test_what_others_write_to_stderr_meanwhile_is_not_lost(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = cv2.imdecode

    def noisy(*arguments):
        os.write(2, b"Corrupt JPEG data: of a thread\nand this\n")
        return decode(*arguments)

    monkeypatch.setattr(cv2, "imdecode", noisy)
    with pytest.raises(InputError, match="its decoder says 'Corrupt JPEG data: of a thread'"):
        images.decode_image(encoded(".jpg"), "a.jpg")
    assert capfd.readouterr().err == "and this\n"


class TestByPillow:
    def test_a_tiff_comes_as_it_is(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.tif", encoded(".tiff"))
        assert np.array_equal(read_image(path), PICTURE)
        assert np.array_equal(open_frames(parse(str(path))).read(0), PICTURE)

    def test_its_pixels_become_bgr_bytes(self, tmp_path: Path) -> None:
        for image, pixel in (
            (np.full((4, 5), 40_000, np.uint16), [156] * 3),
            (np.full((4, 5), 7, np.uint8), [7] * 3),
            (np.full((4, 5, 4), (1, 2, 3, 0), np.uint8), [1, 2, 3]),
        ):
            assert read_image(saved(tmp_path / "a.tif", encoded(".tiff", image)))[0, 0].tolist() == pixel
        with pytest.raises(InputError, match="numbers of 32 bits"):
            read_image(saved(tmp_path / "a.tif", encoded(".tiff", np.zeros((4, 5), np.float32))))

    def test_it_is_turned_as_its_exif_says(self, tmp_path: Path) -> None:
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        PIL.Image.fromarray(PICTURE[:, :, ::-1]).save(tmp_path / "a.tif", exif=exif)
        assert np.array_equal(read_image(tmp_path / "a.tif"), np.rot90(PICTURE, 3))

    def test_an_avif_is_nearly_what_it_was(self, tmp_path: Path) -> None:
        smooth = cv2.GaussianBlur(cv2.resize(PICTURE, (64, 48)), (0, 0), 4)
        PIL.Image.fromarray(smooth[:, :, ::-1]).save(tmp_path / "a.avif", quality=95)
        found = read_image(tmp_path / "a.avif")
        assert np.abs(found.astype(int) - smooth).mean() < 2

    @pytest.mark.parametrize("bits", [8, 10])
    def test_a_heif_is_nearly_what_it_was(self, tmp_path: Path, bits: int) -> None:
        smooth = cv2.GaussianBlur(cv2.resize(PICTURE, (64, 48)), (0, 0), 4)
        wide = np.ascontiguousarray(smooth[:, :, ::-1]).astype(np.uint16) * 257
        pixels, mode = (wide.tobytes(), "RGB;16") if bits == 10 else (smooth[:, :, ::-1].tobytes(), "RGB")
        heif = pillow_heif.from_bytes(mode, (64, 48), pixels)
        heif.save(tmp_path / "a.heic", quality=95)
        assert pillow_heif.open_heif(tmp_path / "a.heic", convert_hdr_to_8bit=False).info["bit_depth"] == bits
        write_image(tmp_path / "b.png", smooth)
        frames = open_frames(parse(str(tmp_path)))
        assert [Path(name).name for name in frames.names] == ["a.heic", "b.png"]
        assert frames.read(0).shape == (48, 64, 3)
        assert np.abs(frames.read(0).astype(int) - smooth).mean() < 2
        half = (tmp_path / "a.heic").read_bytes()[: (tmp_path / "a.heic").stat().st_size // 2]
        with pytest.raises(InputError, match=r"cut\.heic cannot be decoded"):
            read_image(saved(tmp_path / "cut.heic", half))

    def test_exif_does_not_turn_a_heif(self, tmp_path: Path) -> None:
        """Its container says how it lies, which its decoder heeds."""
        image, exif = PIL.Image.fromarray(cv2.resize(PICTURE, (64, 48))), PIL.Image.Exif()
        exif[0x0112] = 6
        pillow_heif.register_heif_opener()
        image.save(tmp_path / "a.heic", exif=exif)
        assert b"Exif" in (tmp_path / "a.heic").read_bytes()
        assert read_image(tmp_path / "a.heic").shape == (48, 64, 3)
        assert turn_of(tmp_path / "a.heic") is None

    @pytest.mark.parametrize("head", [b"heic", b"mif1"])
    def test_what_reads_a_heif_is_named(self, tmp_path: Path, head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        path = saved(tmp_path / "a.heic", b"\0\0\0\x18ftyp" + head + bytes(40))
        with pytest.raises(
            InputError, match=r"is HEIF, which pillow_heif reads: pip install 'refinenet-edge\[images\]'"
        ):
            read_image(path)

    def test_what_claims_too_much_or_is_damaged(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = encoded(".tiff")
        with pytest.raises(InputError, match="cannot be decoded"):
            read_image(saved(tmp_path / "a.tif", data[: len(data) // 2]))
        monkeypatch.setattr(images, "MAX_PIXELS", 100)
        with pytest.raises(InputError, match="13x21 pixels, the limit is 100 in all"):
            read_image(saved(tmp_path / "a.tif", data))

    def test_a_video_is_no_image(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.mp4", b"\0\0\0\x18ftypisom" + bytes(40))
        with pytest.raises(InputError, match="is not a whole PNG"):
            read_image(path)


def test_what_is_left_out_of_a_folder_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(tmp_path / "a.png", PICTURE)
    assert list_images(tmp_path) == [tmp_path / "a.png"]
    assert not caplog.records
    for name in ("b.gif", "c.GIF", "d.mp4", "e.txt", "f.tif"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "f.tif"]
    assert caplog.messages == [f"left out of {tmp_path}, which is read for images: 2 .gif, 1 .mp4"]
