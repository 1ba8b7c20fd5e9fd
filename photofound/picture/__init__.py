"""Pictures: files to pixels and back, with their colours, depth and metadata.

Other folders import ``photofound.image``, which has the public names of all files.

Each file imports only files above it:

    bounds      what reading a file may cost, and the errors of files that are refused
    formats     which formats are read and written, and what each can hold
    arrays      arrays, tensors and PIL images <-> pixels
    netpbm      PBM, PGM and PPM by numpy
    profiles    ICC profiles in floats: parsed, built, applied to 16 bits
    metadata    EXIF, XMP, resolution, and which of them stay true
    places      taking out of a file where it was taken; its pixels stay as they are
    colour      native colours <-> sRGB
    png         a PNG's chunks that are not pixels
    jpeg        a JPEG's quantisation tables and subsampling, kept when it is written again
    white       white that stays exactly white in a JPEG
    webp        plain lossy WebP files, decoded by OpenCV
    reading     opening a file, and what Pillow leaves out
    show        what a notebook shows of a picture
    picture     Picture: loading, compositing, resizing
    encode      writing: formats, 16 bits, checks of the output
    mask        what is marked in a mask
    digest      what stands for pixels in a recipe: digests of pictures and regions
    provenance  saying in a file that a part of it was generated, and how it was made
    compare     which pixels of two pictures are identical, and where one lies in the other
    credentials  Content Credentials (C2PA): signing a file, and who has signed one
    layers      pictures laid over each other, and their flat picture
    openraster  layers as an OpenRaster file
    psd         layers as a Photoshop file
    layered     files of layers: which there are, and writing them
    sheet       pictures side by side in rows
"""
