"""The published files that the workflows load, as ComfyUI's own templates name them, and where they come from."""

from tools.workflows.canvas import Model

WAN_2_1 = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
WAN_2_2 = "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
LIGHTX2V = "https://huggingface.co/Kijai/WanVideo_comfy/resolve/main/Lightx2v"


def _file(repository: str, directory: str, name: str, size: float) -> Model:
    return Model(name, f"{repository}/{directory}/{name}", directory, size)


def _lora(name: str, size: float) -> Model:
    return Model(name, f"{LIGHTX2V}/{name}", "loras", size)


UMT5 = _file(WAN_2_1, "text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors", 6.74)
CLIP_VISION = _file(WAN_2_1, "clip_vision", "clip_vision_h.safetensors", 1.26)
VAE_2_1 = _file(WAN_2_1, "vae", "wan_2.1_vae.safetensors", 0.25)
VAE_2_2 = _file(WAN_2_2, "vae", "wan2.2_vae.safetensors", 1.41)
T2V_1_3B = _file(WAN_2_1, "diffusion_models", "wan2.1_t2v_1.3B_fp16.safetensors", 2.84)
T2V_14B = _file(WAN_2_1, "diffusion_models", "wan2.1_t2v_14B_fp8_scaled.safetensors", 14.3)
I2V_480P = _file(WAN_2_1, "diffusion_models", "wan2.1_i2v_480p_14B_fp8_scaled.safetensors", 16.4)
I2V_720P = _file(WAN_2_1, "diffusion_models", "wan2.1_i2v_720p_14B_fp8_scaled.safetensors", 16.4)
FLF2V = _file(WAN_2_1, "diffusion_models", "wan2.1_flf2v_720p_14B_fp16.safetensors", 32.8)
T2V_HIGH_NOISE = _file(WAN_2_2, "diffusion_models", "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", 14.3)
T2V_LOW_NOISE = _file(WAN_2_2, "diffusion_models", "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors", 14.3)
I2V_HIGH_NOISE = _file(WAN_2_2, "diffusion_models", "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", 14.3)
I2V_LOW_NOISE = _file(WAN_2_2, "diffusion_models", "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors", 14.3)
TI2V_5B = _file(WAN_2_2, "diffusion_models", "wan2.2_ti2v_5B_fp16.safetensors", 10.0)
T2V_14B_LORA = _lora("lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank64_bf16.safetensors", 0.63)
I2V_480P_LORA = _lora("lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors", 0.74)
T2V_HIGH_NOISE_LORA = _file(WAN_2_2, "loras", "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors", 1.23)
T2V_LOW_NOISE_LORA = _file(WAN_2_2, "loras", "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors", 1.23)
I2V_HIGH_NOISE_LORA = _file(WAN_2_2, "loras", "wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors", 1.23)
I2V_LOW_NOISE_LORA = _file(WAN_2_2, "loras", "wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors", 1.23)
