"""What `python -m fastvideo_core` does, as functions."""
