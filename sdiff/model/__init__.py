"""The generative model: autoencoder, denoiser, samplers. Needs torch and numpy alone.

Tensor names end in their shape: B scenes, M agents or tokens (padded), W waypoints, C channels, H x W' pixels.
"""
