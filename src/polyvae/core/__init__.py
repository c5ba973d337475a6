"""What a multimodal VAE is: experts, components, likelihoods, bounds. On torch alone."""
