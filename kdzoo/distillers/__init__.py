"""Distillation methods, one paper a file. Every file of this folder is imported, so a new one registers
itself."""

from kdzoo.distillers.base import Distiller, build_distiller
from kdzoo.registry import import_modules

__all__ = ["Distiller", "build_distiller"]

import_modules(__name__, list(__path__))
