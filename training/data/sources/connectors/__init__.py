"""Synthetic photographs of USB connectors with exact class masks, for segmentation.

shapes: faces of the connectors in millimetres, and their pose.
colours, canvas: colours, and the supersampled image with its mask.
connector: places and draws the connectors.
clutter: objects beside and in front of them.
surfaces: the surface on which they lie.
camera: light, blur, noise and JPEG.
scene: puts an image together.
"""

from training.data.sources.connectors.scene import render, render_many
from training.data.sources.connectors.shapes import CLASSES

__all__ = ["CLASSES", "render", "render_many"]
