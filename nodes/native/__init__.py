"""What stands between ComfyUI and the engine: guiders, runs, hooks. No node is defined here."""
