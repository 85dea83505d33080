"""Everything that knows Wan: variants, loading, the denoiser over diffusers' network, the VAE, the seam."""
