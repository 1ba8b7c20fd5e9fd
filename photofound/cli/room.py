"""``photofound room``: a data room in a folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from photofound.cli.arguments import Parser, count, file_name, number_between, path
from photofound.cli.console import say

if TYPE_CHECKING:
    from photofound.data.nodes import Pace
    from photofound.room.room import Room

SUMMARY = "photographs in a room: add, search, stats, view, export, forget, ..."
_WHERE = "only photographs that this filter in SQL matches: \"licence='CC0' and width>=1024\""


def run(argv: list[str]) -> int:
    args = room_parser().parse_args(argv)
    from photofound.room.room import Room

    room = Room(args.room, getattr(args, "version", None))
    status: int = _COMMANDS[args.command][0](room, args) or 0
    return status


# -------------------------------------------------------------------------------------------------------- the commands


def _add(room: Room, args: argparse.Namespace) -> None:
    with _cluster_of(args) as pace, _bar("photographs", quiet=pace is not None) as progress:
        embed = None if args.embed is None else [name for name in args.embed if name != "none"]
        added = room.add(
            *args.sources,
            embed=embed,
            licence=args.licence,
            reference=args.reference,
            keep_gps=args.keep_gps,
            opt_out=args.opt_out,
            workers=args.workers or 0,
            reread=args.reread,
            progress=progress,
            cluster=pace,
        )
    print(f"{args.room}: {added.line}")


def _search(room: Room, args: argparse.Namespace) -> None:
    from photofound.room import search

    if (args.text is None) == (args.like is None):
        raise ValueError(
            f"search: give words, or a picture with --like; 'photofound room search {args.room} --like FILE'"
        )
    how = ""
    if args.like is not None:
        found = room.search(
            like=args.like, where=args.where, limit=args.limit, embedding=args.embedding, exact=args.exact
        )
    else:
        found, how = search.words(room.table, args.text, args.where, args.limit, args.embedding)
    if how:
        say(f"searched {how}")
    if args.json:
        print(json.dumps([vars(each) for each in found], ensure_ascii=False, indent=1))
        return
    for each in found:
        value = f"{each.distance:.4f}" if each.distance is not None else f"{each.score:.2f}"
        told = " ".join((each.caption or each.name).split())[:60]
        print(f"{value}  {each.key[:16]}  {each.width}x{each.height}  {each.source}  {each.licence or '-'}  {told}")


def _stats(room: Room, args: argparse.Namespace) -> None:
    from photofound import files
    from photofound.room import page, stats

    found = room.stats(args.where)
    drifts = room.drift(args.since) if args.since is not None else []
    print(stats.as_text(found, drifts, args.since))
    if args.html:
        files.write(args.html, page.of_stats(room.table, found, drifts, args.since))
        print(args.html)


def _view(room: Room, args: argparse.Namespace) -> None:
    from photofound import files

    output = args.output or path(f"{room.folder.resolve().name}-view.html")
    files.write(output, room.view(args.where, args.limit))
    print(output)


def _export(room: Room, args: argparse.Namespace) -> None:
    with _bar("photographs", room.table.count(args.where)) as progress:
        written = room.export(args.output, args.to, args.where, progress)
    print(f"{args.output}: {written:,} photographs as {args.to}")


def _forget(room: Room, args: argparse.Namespace) -> None:
    gone = room.forget(source=args.source, hash=args.hash, opted_out=args.opted_out)
    if gone.keys:
        print(
            f"{args.room}: {len(gone.keys):,} photographs are gone from every version; version {gone.version} is left"
        )
    else:
        print(f"{args.room}: nothing of that is in the room")
    print(f"{args.room}: later adds leave it out (optout.txt)")
    for reader, number in gone.readers:
        what = f"training {reader.id}" if reader.kind == "training" else "an export"
        print(f"seen by {what} of {reader.date}: {number:,} of them, {reader.name}")
    if gone.keys and not gone.readers:
        print("no training and no export has read them from this room")


def _versions(room: Room, args: argparse.Namespace) -> None:
    for each in room.versions():
        print(f"{each.number:>6}  {each.made:%Y-%m-%d %H:%M:%S}  {each.photographs:,} photographs")


def _rollback(room: Room, args: argparse.Namespace) -> None:
    number = room.rollback(args.to_version)
    print(f"{args.room}: version {number} is version {args.to_version} again, with {len(room):,} photographs")


def _embed(room: Room, args: argparse.Namespace) -> None:
    with _cluster_of(args) as pace, _bar("photographs", quiet=pace is not None) as progress:
        done = room.embed(args.network, args.where, progress, pace)
    print(f"{args.room}: {done:,} embedded by {args.network}")


def _cluster(room: Room, args: argparse.Namespace) -> None:
    clusters, assigned = room.cluster(args.clusters, args.embedding)
    print(f"{args.room}: {clusters:,} clusters; {assigned:,} photographs have got the number of theirs")


def _dedup(room: Room, args: argparse.Namespace) -> None:
    from photofound import files
    from photofound.room import page

    with _cluster_of(args) as pace:
        found = room.dedup(args.by, args.near, args.similar, args.prefer, args.where, pace)
    print(f'{args.room}: {found.line}; "duplicate_of = key" finds one of each')
    if args.html:
        files.write(args.html, page.of_groups(room.table, found.groups, "Duplicates", found.line))
        print(args.html)


def _filter(room: Room, args: argparse.Namespace) -> None:
    if args.list:
        _list_filters()
        return
    with _cluster_of(args) as pace, _bar("photographs", quiet=pace is not None) as progress:
        workers = args.workers or 0
        found = room.filter(*args.filters, where=args.where, workers=workers, progress=progress, cluster=pace)
    print(found.text)
    print(f'{args.room}: {found.computed:,} photographs got scores; "kept" finds what every filter keeps')
    if args.html:
        from photofound import files
        from photofound.room import page

        files.write(args.html, page.of_filters(room.table, found, args.where))
        print(args.html)


def _list_filters() -> None:
    from photofound.room import filters, judges, own

    every: list[tuple[str, filters.Filter | judges.Question]] = list(filters.MEASURES.items())
    every += [(f"{name}:MODEL", question) for name, question in judges.QUESTIONS.items()]
    for name in own.names():
        try:
            if name in filters.MEASURES or name in judges.QUESTIONS:
                raise ValueError(f"filter: {name!r} is a built-in filter; give your file another name")
            every.append((name, own.load(name)))
        except ValueError as error:  # the others are listed all the same
            say(str(error))
    print("\n".join(f"{name:<18}{each.keeps} {each.threshold:<6g}{each.about}" for name, each in every))


def _caption(room: Room, args: argparse.Namespace) -> None:
    from photofound.cli.model import quiet_libraries

    prompts = {"short": args.short_prompt, "dense": args.dense_prompt}
    quiet_libraries(importing="://" not in args.captioner)
    with _cluster_of(args) as pace, _bar("photographs", quiet=pace is not None) as progress:
        found = room.caption(
            args.captioner,
            model=args.model,
            kinds=args.kind or (),
            prompts={kind: prompt for kind, prompt in prompts.items() if prompt},
            where=args.where,
            replace=args.replace,
            workers=args.workers,
            progress=progress,
            cluster=pace,
        )
    print(f"{args.room}: {found.line}")


def _matte(room: Room, args: argparse.Namespace) -> None:
    from photofound.cli.model import quiet_libraries
    from photofound.finder import Finder, finder

    room.table.count(args.where)  # a mistake in it is an error before a model is loaded
    find = finder(args.segmenter, args.text, args.model)
    quiet_libraries(importing=isinstance(find, Finder))
    name = f"{args.segmenter}: {args.text}" if args.text else args.segmenter
    with _cluster_of(args) as pace, _bar("photographs", quiet=pace is not None) as progress:
        found, nothing = room.matte(find, name, args.where, progress, pace)
    print(f"{args.room}: {found:,} mattes by {name}; nothing was found in {nothing:,} photographs")


def _index(room: Room, args: argparse.Namespace) -> None:
    made = room.index(args.force)
    print(f"{args.room}: " + (f"indices of {', '.join(made)}" if made else "is small enough to be read as a whole"))


@contextmanager
def _cluster_of(args: argparse.Namespace) -> Iterator[Pace | None]:
    """The cluster that was asked for, with lines on stderr of how it goes, the last one in the end; or None."""
    if args.cluster is None:
        if args.price is not None:
            raise ValueError("--price: is of a cluster's node; add --cluster")
        yield None
        return
    from photofound.data.nodes import Pace, connect

    has = connect(args.cluster)
    say(f"cluster: {has.place}, {has}")
    pace = Pace(has, args.price, show=say)
    with redirect_stdout(sys.stderr):  # where Ray says that a worker has died
        yield pace
    say(pace.line)


@contextmanager
def _bar(unit: str, total: int | None = None, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr if that is a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", disable=quiet or not sys.stderr.isatty()) as bar:
        yield lambda number: (bar.update(number), None)[1]


# --------------------------------------------------------------------------------------------------------- the parsers


def room_parser() -> Parser:
    parser = Parser(prog="photofound room", description=SUMMARY)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, summary, arguments) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("room", metavar="ROOM", type=path, help="the room's folder")
        arguments(command)
    return parser


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "sources", metavar="SOURCE", nargs="+", help="a folder, tars, parquet, a URL, an id of the Hub, or another room"
    )
    networks = (
        "compute embeddings by small (offline), a SqueezeNet's .safetensors, an id like openai/clip-vit-base-patch32, "
    )
    add("--embed", metavar="NET", action="append", help=networks + "or none; may be repeated; default: as the room has")
    add("--licence", metavar="NAME", default="", help="of photographs whose metadata name none")
    add("--reference", action="store_true", help="keep paths in place of the files (image folders)")
    add("--keep-gps", action="store_true", help="leave in the files where they were taken; by default it is taken out")
    listed = "a list of hashes, sources, domains and patterns that stay out, now and later: docs/room.md"
    add("--opt-out", metavar="FILE", type=path, help=listed)
    add("--workers", metavar="N", type=count, help="threads that decode; default: one for each processor, at most 8")
    add("--reread", action="store_true", help="read again what was written before")
    _ray_arguments(add)


def _ray_arguments(add: Callable[..., Any]) -> None:
    address = "HOST:PORT of a cluster, or local, this machine's cores; without it, RAY_ADDRESS, else the cluster that "
    address += "'ray start' has put this machine into, else local"
    add("--cluster", metavar="ADDRESS", nargs="?", const="", help=f"work on Ray: {address}")
    add("--price", metavar="DOLLARS", type=number_between(0, 10**6), help="of a node for an hour, to say what it costs")


def _search_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "text", metavar="TEXT", nargs="?", help="words; need a text-image model in the room, else captions are searched"
    )
    add("--like", metavar="FILE", type=path, help="a picture")
    add("--where", metavar="SQL", help=_WHERE)
    add("--limit", metavar="N", type=count, default=10, help="default: 10")
    add("--embedding", metavar="NET", help="the network to search by, where the room has several")
    add("--exact", action="store_true", help="do not use the index of a large room")
    add("--json", action="store_true", help="print a JSON list of objects with key, distance, source, ...")


def _stats_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--where", metavar="SQL", help=_WHERE)
    add("--html", metavar="FILE", type=path, help="write a page with pictures, too")
    add("--since", metavar="N", type=count, help="say how distributions have changed since version N")
    add("--version", metavar="N", type=count, help="look at the room as it was at version N")


def _view_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--where", metavar="SQL", help=_WHERE)
    add("--limit", metavar="N", type=count, default=48, help="default: 48")
    add("-o", "--output", metavar="FILE", type=path, help="default: ROOM-view.html")
    add("--version", metavar="N", type=count, help="look at the room as it was at version N")


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--to", required=True, choices=("webdataset", "parquet", "mds", "folder"), help="the format")
    add("-o", "--output", metavar="DIR", type=path, required=True, help="a new folder")
    add("--where", metavar="SQL", help=_WHERE)
    add("--version", metavar="N", type=count, help="export the room as it was at version N")


def _forget_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    add = which.add_argument
    add("--source", metavar="X", help="what is from there: a source, a domain, a folder, a file's name")
    add("--hash", metavar="H", help="one file: its SHA-256, the beginning of it, or the file itself")
    add("--opted-out", action="store_true", help="what the room's opt-out list names")


def _rollback_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("to_version", metavar="N", type=count, help="a version that 'room versions' lists")


def _embed_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    network = "small, a SqueezeNet's .safetensors, or a folder or id of transformers: openai/clip-vit-base-patch32"
    add("--network", metavar="NET", type=file_name, required=True, help=network)
    add("--where", metavar="SQL", help=_WHERE)
    _ray_arguments(add)


def _cluster_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    help = "find so many clusters anew; without it, new photographs join those that there are"
    add("--clusters", metavar="K", type=count, help=help)
    add("--embedding", metavar="NET", help="the network whose embeddings are clustered, where the room has several")


def _dedup_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--by", metavar="WHAT", default="phash", help="phash (default), or a network whose embeddings the room has")
    add("--near", metavar="BITS", type=int, default=3, help="bits of the hash (64) that may differ; default: 3")
    add("--similar", metavar="COSINE", type=float, default=0.96, help="of embeddings, at least; default: 0.96")
    best = "an expression in SQL: the one with the most of it is kept; default: width * height"
    add("--prefer", metavar="SQL", default="width * height", help=best)
    add("--where", metavar="SQL", help=_WHERE)
    add("--html", metavar="FILE", type=path, help="write a page of the largest groups")
    _ray_arguments(add)


def _filter_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    named = "a filter by NAME, NAME=THRESHOLD, NAME:MODEL or NAME:MODEL=THRESHOLD; default: those that the room has"
    add("filters", metavar="NAME", nargs="*", help=named)
    add("--where", metavar="SQL", help=_WHERE)
    add("--workers", metavar="N", type=count, help="threads; default: one for each processor, at most 8")
    add("--html", metavar="FILE", type=path, help="write a page of what is kept and dropped around each threshold")
    add("--list", action="store_true", help="list the filters, and do nothing")
    _ray_arguments(add)


def _caption_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    which = "a folder or id of transformers, or the URL of an OpenAI-compatible endpoint (http://gpu-box:8000/v1)"
    add("--captioner", metavar="ID|URL", required=True, help=which)
    add("--model", metavar="NAME", help="of a URL: the model to ask for; its key is $PHOTOFOUND_CAPTIONER_KEY")
    add("--kind", action="append", choices=("short", "dense"), help="may be repeated; default: both")
    add("--short-prompt", metavar="TEXT", help="ask this for a short caption")
    add("--dense-prompt", metavar="TEXT", help="ask this for a dense caption")
    add("--where", metavar="SQL", help=_WHERE)
    add("--replace", action="store_true", help="also captions of the source, by another model or of another prompt")
    add("--workers", metavar="N", type=count, default=8, help="questions to an endpoint at once; default: 8")
    _ray_arguments(add)


def _matte_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    who = "cutout (the model's own head, default), grabcut, an id of transformers, ...: docs/segmenters.md"
    add("--segmenter", metavar="NAME", default="cutout", help=who)
    add("--text", metavar="WORDS", default="", help="what to find, for segmenters that take words")
    add("--model", metavar="DIR", help="of cutout: another model than the embedded one")
    add("--where", metavar="SQL", help=_WHERE)
    _ray_arguments(add)


def _index_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="also of a room below 100,000 photographs")


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    pass


_COMMANDS: dict[str, tuple[Callable[[Any, Any], int | None], str, Callable[[argparse.ArgumentParser], None]]] = {
    "add": (_add, "add photographs, each once; what was killed goes on", _add_arguments),
    "search": (_search, "photographs like one, or of words", _search_arguments),
    "stats": (_stats, "counts and distributions, on the terminal and as a page", _stats_arguments),
    "view": (_view, "samples as a page", _view_arguments),
    "export": (_export, "write what matches for other programs", _export_arguments),
    "forget": (_forget, "remove photographs from every version, and say who has seen them", _forget_arguments),
    "versions": (_versions, "list the versions", _no_arguments),
    "rollback": (_rollback, "return to a version", _rollback_arguments),
    "embed": (_embed, "compute the embeddings that are missing", _embed_arguments),
    "cluster": (_cluster, "number the clusters of the embeddings", _cluster_arguments),
    "dedup": (_dedup, "say which photographs double others", _dedup_arguments),
    "filter": (_filter, "score photographs by filters, and say which are kept", _filter_arguments),
    "caption": (_caption, "caption photographs by a vision-language model, short and dense", _caption_arguments),
    "matte": (_matte, "find the object of each photograph that has no matte", _matte_arguments),
    "index": (_index, "make or renew the indices of a large room", _index_arguments),
}
