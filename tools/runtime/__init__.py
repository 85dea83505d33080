"""The pinned ComfyUI and the virtual environment it runs in."""
