"""Networks, one family a file. Every file of this folder is imported, so a new one registers itself."""

from kdzoo.models.base import build_model, count_parameters, flops, output_shapes
from kdzoo.registry import import_modules

__all__ = ["build_model", "count_parameters", "flops", "output_shapes"]

import_modules(__name__, list(__path__))
