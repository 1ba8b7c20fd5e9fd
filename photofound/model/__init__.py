"""The networks, and the folders that hold them.

Each file imports only files above it:

    fused            what eager code on a CPU computes in one pass
    attention        rotary positions, attention to image, padded text and references
    layers           patches, routes, modulation, MLP, embeddings, heads
    cache            blocks that are skipped where little has changed since the last step
    checks           what the transformer refuses
    quantize         weights of eight bits
    adapters         the model with its LoRAs added to its weights
    growing          tasks and inputs that a trained transformer gains
    transformer      EditTransformer: trunk, edit inputs, task heads
    cost             what a forward pass costs
    deep_compression  the blocks of a deep-compression autoencoder, with fewer passes over memory
    autoencoder      pixels <-> latents through any diffusers autoencoder, or none
    condition        a Condition as the transformer's input
    detail           the network that paints at pixel resolution what was guessed in latents
    superresolution  a small network that enlarges pictures by itself
    text             prompts to padded embeddings, through any transformers encoder
    flow             the path between noise and data: times, velocities, the masked loss
    vision           frozen networks that see: features, alignment targets, LPIPS
    folder           what may be loaded: model folders and LoRAs are looked at before they are used
    segmentation     segmentation models of transformers, and of nobg, as segmenters
    prx              a PRX pipeline folder -> ours
    fingerprint      which model it is: a digest of its files
"""
