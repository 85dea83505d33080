"""Programs around the pack: set-up, server, demo, training, benchmarks. Nothing here is used when ComfyUI runs the pack."""
