"""Many pictures decoded at once by threads, in order, with all that cannot be read told together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import numpy as np
from PIL import Image

from kdzoo.checks import UsageError
from kdzoo.data import progress
from kdzoo.data.base import Images
from kdzoo.data.pictures import opened, reason, strict
from kdzoo.data.places import few
from kdzoo.data.threads import in_order, processors
from kdzoo.data.trees import File, Tree


def decoded(
    who: str, tree: Tree, files: Sequence[File], convert: Callable[[Image.Image], Images]
) -> Generator[Images, None, None]:
    """Decode files by all processors that this process may use; PIL and torch let threads run side by side.

    Args:
        who: whose data they are, for messages.
        tree: where the files are.
        files: of which order.
        convert: makes an opened picture an image; all must come out of one shape. It runs in several threads.

    Yields:
        [n, C, H, W] uint8, piece after piece in the order of the files; none any more after a fault.

    Raises:
        UsageError: files that cannot be read, after all were tried: how many, and the names of the first.
    """

    def piece(part: Sequence[File]) -> list[Images | str]:
        return [_one(tree, file, convert) for file in part]

    faults: list[str] = []
    with strict():
        pieces = in_order(piece, files, processors())
        for results in progress.counted(f"decoding {who}", len(files), pieces):
            faults += [result for result in results if isinstance(result, str)]
            if not faults:
                yield np.stack([image for image in results if not isinstance(image, str)])
    if faults:
        count = f"{len(faults):,} of {len(files):,} images" if len(faults) > 1 else "an image"
        them = "them" if len(faults) > 1 else "it"
        raise UsageError(f"{who}: cannot use {count}: {few(faults)}. Replace {them} or take {them} away.")


def _one(tree: Tree, file: File, convert: Callable[[Image.Image], Images]) -> Images | str:
    try:
        with tree.open(file) as stream, opened(stream) as picture:
            return convert(picture)
    except Exception as error:
        return f"{tree.told(file.name)} {reason(error)}"
