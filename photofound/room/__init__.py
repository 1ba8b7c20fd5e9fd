"""The data room: photographs in a folder, found, balanced, exported, forgotten. Its table is ``photofound.data.table``.

Each file imports only files above it:

    describe   what is known of a photograph after one look: a row of the table
    optout     who must not be in the room: hashes, sources, domains, patterns
    shapes     an embedding without a network: edges and colours
    vectors    embeddings by any vision network, and clusters of them
    rows       parts of a source as rows that a room lacks
    add        sources into a room: incremental, resumable, by several processes at once
    readers    which trainings and exports have read which photographs
    search     photographs like one, or of words; the index of large rooms
    stats      counts and distributions, and how they drift between versions
    dedup      which photographs double others
    measures   what a photograph is like, in numbers, without a network
    letters    lines of letters in a picture, without a network
    filters    filters by name: a score for each photograph, and which are kept
    own        filters of yours: files and entry points
    judges     filters by networks of transformers
    scores     filters over a room: in one pass, only what lacks a score, and what is kept in the end
    captioners  captions by vision-language models: of transformers, or behind an endpoint
    captions   short and dense captions in a room, with who made them
    mattes     mattes in a room, by any segmenter
    hosts      networks on a Ray cluster, loaded once, in actors
    spread     adding, columns and duplicates on a Ray cluster
    page       a room as an HTML page with pictures
    export     WebDataset, parquet, MDS or a folder of what a query finds
    forget     photographs removed from every version
    room       Room: all of it by one name
"""
