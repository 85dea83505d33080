"""ComfyUI's own folders, for whoever runs it."""

from pathlib import Path


class ComfyFolders:
    """Those below `base`, made when they are asked for."""

    base: Path

    def model_folder(self, kind: str) -> Path:
        """The folder that model loaders list for `kind` ("diffusion_models", "vae", "text_encoders", "loras", ...)."""
        return self._made("models", kind)

    def input_folder(self) -> Path:
        """The folder of LoadImage."""
        return self._made("input")

    def _made(self, *names: str) -> Path:
        folder = self.base.joinpath(*names)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
