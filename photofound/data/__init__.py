"""Photographs to train on.

Each file imports only files above it:

    ledger       damaged samples: named, counted, left out
    table        a room: photographs in a Lance table; its columns, versions, queries, and writing to it
    rooms        rows of a room, in parts, and weighted by cluster
    lances       rows of any Lance table, and of rooms on object storage
    tars         samples of WebDataset tars, still encoded
    folders      image folders: rows of pictures with what lies beside them
    parquet      parquet files: rows in row groups
    mds          shards of mosaicml-streaming, read and written
    sources      rooms, image folders, parquet, tars, Hub ids, behind any URL: rows in parts, still encoded
    photograph   one photograph, decoded
    objects      the object in a photograph: its box, its matte
    captions     ways to caption a photograph
    photos       the photographs of a folder of tars
    store        photographs in memory, cropped in batches
    buckets      photographs in memory at their own aspects
    exemplars    training samples with exemplar canvases, made ahead
    chosen       photographs of any source, chosen by their metadata
    precomputed  text embeddings and latents that were computed before training
    cache        shards behind URLs, kept on this machine
    shards       one process's share of a source: shards open at once, epoch after epoch
    reader       the order of a stream
    decoder      batches of files to batches of pixels
    stream       sources read as a stream in aspect buckets
    drawn        drawn photographs, to try training without data
    duplicates   near-duplicates among pictures
    nodes        a Ray cluster: work spread over it, its pace and cost
    units        work in units: one after another, over processes, on a Ray cluster
    report       the report on a prepared collection
"""
