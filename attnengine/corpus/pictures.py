"""Image files to RGB pictures, as a person would see them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from attnengine.corpus.wording import said
from attnengine.errors import CorpusError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def open_image(image: Any, name: str = "the image") -> Any:
    """The picture as RGB (PIL.Image), turned as its EXIF orientation says; of several frames the first.

    ``image`` is a path, the bytes of a file, or a PIL.Image, which stays as its owner turned it. Transparency is
    dropped, as transformers' own ``load_image`` does. CorpusError if it cannot be read whole or has no 8-bit range.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = str(image) if isinstance(image, Path) else name
    try:
        if not isinstance(image, Path | bytes):
            return _rgb(image, name)
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
            return _rgb(ImageOps.exif_transpose(picture), name)
    except UnidentifiedImageError as error:
        raise CorpusError(f"{name} is not a readable image: its content is of no kind that Pillow knows") from error
    except CorpusError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them trip over
        raise CorpusError(f"{name} is not a readable image: {said(error)}") from error


def _rgb(picture: Any, name: str) -> Any:
    from PIL import Image

    if picture.mode.startswith("I;16"):  # convert() would clip all but the darkest 1/256 to white
        import numpy as np

        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise CorpusError(f"{name} has 32-bit pixels of unknown range; expected 8 or 16 bits, convert it first")
    if picture.mode in ("P", "PA"):  # a palette's transparency must be resolved before its colours
        picture = picture.convert("RGBA")
    return picture.convert("RGB")
