"""The published files that the workflows load, as ComfyUI's own templates name them, and where they come from."""

from tools.workflows.canvas import Model

WAN_2_1 = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
WAN_2_2 = "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"


def _file(repository: str, directory: str, name: str) -> Model:
    return Model(name, f"{repository}/{directory}/{name}", directory)


UMT5 = _file(WAN_2_1, "text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
CLIP_VISION = _file(WAN_2_1, "clip_vision", "clip_vision_h.safetensors")
VAE_2_1 = _file(WAN_2_1, "vae", "wan_2.1_vae.safetensors")
VAE_2_2 = _file(WAN_2_2, "vae", "wan2.2_vae.safetensors")
T2V_1_3B = _file(WAN_2_1, "diffusion_models", "wan2.1_t2v_1.3B_fp16.safetensors")
I2V_480P = _file(WAN_2_1, "diffusion_models", "wan2.1_i2v_480p_14B_fp16.safetensors")
T2V_HIGH_NOISE = _file(WAN_2_2, "diffusion_models", "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors")
T2V_LOW_NOISE = _file(WAN_2_2, "diffusion_models", "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors")
I2V_HIGH_NOISE = _file(WAN_2_2, "diffusion_models", "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors")
I2V_LOW_NOISE = _file(WAN_2_2, "diffusion_models", "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors")
TI2V_5B = _file(WAN_2_2, "diffusion_models", "wan2.2_ti2v_5B_fp16.safetensors")
