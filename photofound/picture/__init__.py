"""Pictures: files to pixels and back, with their colours, depth and metadata.

Each file imports only files above it:

    stale       metadata that is no longer true
    profiles    colour profiles in floats
    bounds      what reading a file may cost beyond its pixels
    netpbm      PBM, PGM and PPM by numpy
    image       Picture: loading, saving, masks, colour, 16 bit, EXIF, XMP
    provenance  saying in a file that a part of it was generated
    sheet       pictures side by side in rows
"""
