"""Trains the demo Wan: a tiny VAE, text encoder and transformers on a synthetic world of moving shapes."""
