"""The HTTP server.

Each file imports only files above it:

    workers      strangers' pictures in processes of their own
    connections  slow clients, signals
    app          an engine that batches, an application built from what tasks declare
    cluster      the server on a Ray cluster
"""
