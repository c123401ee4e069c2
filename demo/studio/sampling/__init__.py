"""The part "sampling" of the page: a prompt, its pictures, the settings below them, and the gallery.

What is set is settings.py, what is made of it wanted.py, who makes it workshop.py.
"""

from studio.sampling.page import render

__all__ = ["render"]
