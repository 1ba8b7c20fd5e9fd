"""Photographs to train on.

Each file imports only files above it:

    photos       photographs from folders and tars, in memory, crops, captions
    exemplars    training samples with exemplar canvases, made ahead
    sources      image folders, parquet, tars, Hub ids, behind any URL
    chosen       photographs of any source, chosen by their metadata
    precomputed  text embeddings and latents that were made before training
    stream       sources read as a stream in aspect buckets
    drawn        drawn photographs, to try training without data
"""
