"""Sources of soft labels, one a file. Every file of this folder is imported, so a new one registers
itself."""

from kdzoo.registry import import_modules
from kdzoo.sources.base import Source, build_source

__all__ = ["Source", "build_source"]

import_modules(__name__, list(__path__))
