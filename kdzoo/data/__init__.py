"""Data sets, one a file, and the keyed order and views of their images. A new file registers itself."""

from kdzoo.data.base import Dataset, Split, load_dataset
from kdzoo.registry import import_modules

__all__ = ["Dataset", "Split", "load_dataset"]

import_modules(__name__, list(__path__))
