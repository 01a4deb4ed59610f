"""Many pictures decoded at once by threads, in order, with all that cannot be read told together."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from PIL import Image

from kdzoo.checks import UsageError
from kdzoo.data import progress
from kdzoo.data.base import Images
from kdzoo.data.pictures import opened, reason, strict
from kdzoo.data.places import few
from kdzoo.data.trees import File, Tree

PIECE = 16  # images that a thread decodes in a row


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
        parts = [files[start : start + PIECE] for start in range(0, len(files), PIECE)]
        pieces = _in_order(piece, parts, _processors())
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


def _in_order(
    work: Callable[[Sequence[File]], list[Images | str]], parts: Sequence[Sequence[File]], threads: int
) -> Iterator[list[Images | str]]:
    """Work on parts by threads, not further ahead of who takes the results than the threads need."""
    waiting: deque[Future[list[Images | str]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _processors() -> int:
    allowed = getattr(os, "sched_getaffinity", None)
    return min(16, len(allowed(0)) if allowed else os.cpu_count() or 1)
