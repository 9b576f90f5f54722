"""Pictures: scenes, animations, contact sheets, training charts. Pillow alone, no display."""

from sdiff.view.interactions import render_interactions
from sdiff.view.pictures import render

__all__ = ["render", "render_interactions"]
