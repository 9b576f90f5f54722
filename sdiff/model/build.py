"""Models from their configurations: the published one or ours."""

from sdiff.model.autoencoder import Autoencoder
from sdiff.model.denoiser import Denoiser, Preconditioned
from sdiff.model.paper import PaperAutoencoder, PaperDenoiser
from sdiff.model.recipe import AutoencoderConfig, DenoiserConfig, PaperAutoencoderConfig, PaperDenoiserConfig

AnyAutoencoder = Autoencoder | PaperAutoencoder


def build_autoencoder(config: AutoencoderConfig | PaperAutoencoderConfig) -> AnyAutoencoder:
    """With fresh weights."""
    return Autoencoder(config) if isinstance(config, AutoencoderConfig) else PaperAutoencoder(config)


def build_denoiser(config: DenoiserConfig | PaperDenoiserConfig, latent_channels: int) -> Preconditioned:
    """With fresh weights, for latents of so many channels."""
    if isinstance(config, DenoiserConfig):
        return Denoiser(config, latent_channels)
    return PaperDenoiser(config, latent_channels)
