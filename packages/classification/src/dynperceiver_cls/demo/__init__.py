"""The embedded demo data: pictures of handwritten digits, from easy to hard."""

from .images import DemoParams, is_complete, make_demo_images, render_digit

__all__ = ['DemoParams', 'is_complete', 'make_demo_images', 'render_digit']
