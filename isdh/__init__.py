"""Instance Similarity Deep Hashing: images and label sets -> short binary codes, compared."""

__version__ = "0.1.0"
