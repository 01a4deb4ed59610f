"""Trained students outside of training: found, loaded, shown images, measured again, and exported."""

from kdzoo.students.export import export_student
from kdzoo.students.find import find_run
from kdzoo.students.student import Student, load_student

__all__ = ["Student", "export_student", "find_run", "load_student"]
