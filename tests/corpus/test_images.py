"""Any picture a folder may hold reaches the model as a person sees it, or is refused by name."""

import io

import numpy as np
import pytest
from PIL import Image
from transformers import ViTImageProcessor

from attnengine.corpus.images import ImageWindows
from attnengine.corpus.pictures import open_image
from attnengine.corpus.sources import SourceOptions, documents_of, read_corpus
from attnengine.errors import CorpusError
from tests.corpus.corpora import picture


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    (tmp_path / f"a.{kind.lower()}").write_bytes(picture(mode=mode, kind=kind))
    (document,) = read_corpus(str(tmp_path), SourceOptions())
    expected = Image.open(io.BytesIO(picture(mode=mode, kind=kind)))
    found = document.picture()
    assert (found.mode, found.size) == ("RGB", (9, 7))
    assert found.tobytes() == expected.convert("RGB").tobytes()


def test_a_palette_with_transparency_keeps_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    sink = io.BytesIO()
    image.save(sink, "PNG", transparency=b"\xff\x00")
    assert list(open_image(sink.getvalue()).tobytes()) == [255, 0, 0, 0, 0, 255]


def test_sixteen_bits_become_eight_by_their_upper_half_not_white():
    grey = np.asarray([[0, 256, 25700, 65535]], dtype=np.uint16)
    sink = io.BytesIO()
    Image.fromarray(grey).save(sink, "PNG")
    assert list(open_image(sink.getvalue()).tobytes()) == [0] * 3 + [1] * 3 + [100] * 3 + [255] * 3
    sink = io.BytesIO()
    Image.fromarray(np.asarray([[0.5]], dtype=np.float32)).save(sink, "TIFF")
    with pytest.raises(CorpusError, match=r"x\.tif has 32-bit pixels of unknown range"):
        open_image(sink.getvalue(), "x.tif")


def test_a_photo_taken_with_the_camera_turned_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to see it right
    upright = open_image(picture((9, 7), kind="PNG", exif=exif.tobytes()))
    assert upright.size == (7, 9)
    as_stored = Image.open(io.BytesIO(picture((9, 7))))
    assert upright.tobytes() == as_stored.transpose(Image.Transpose.ROTATE_270).tobytes()


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 3), (3, 3), (500, 2)])
def test_tiny_and_narrow_pictures_keep_their_colours_through_the_processor(size):
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, do_normalize=False)
    red = Image.new("RGB", size, (255, 0, 0))
    feed = ImageWindows(documents_of([red]), processor, grid=(2, 2), prefix=1)
    values = feed.pixels([0], "cpu")
    assert values.shape == (1, 3, 8, 8)
    assert values[0].amin((1, 2)).tolist() == pytest.approx([1, 0, 0])
    assert values[0].amax((1, 2)).tolist() == pytest.approx([1, 0, 0])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_picture_cut_in_half_is_refused_by_name(tmp_path, kind):
    data = picture((64, 64), kind=kind)
    path = tmp_path / f"half.{kind.lower()}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CorpusError, match=rf"half\.{kind.lower()} is not a readable image: ."):
        read_corpus(str(path), SourceOptions())


def test_pictures_are_told_apart_by_their_pixels_and_shape():
    digests = {d.digest for d in documents_of([Image.new("RGB", size) for size in ((2, 3), (3, 2), (6, 1), (2, 3))])}
    assert len(digests) == 3
