"""Other programs that run the networks: ONNX Runtime and OpenVINO; TensorRT and ExecuTorch take what is exported.

Each file imports only files above it:

    graphs    the networks as functions of tensors alone, with the sizes that may vary
    check     what may be loaded of a folder that was exported
    session   one graph in ONNX Runtime or OpenVINO
    networks  networks that are graphs, in the place of torch's
    compact   an ONNX file with no more in it than it needs
    mobile    graphs as ExecuTorch's programs for phones
    export    photofound export: graphs to files, and how near they are
"""
