"""Pages that are made from the code when the documentation is built: the command line, the server's addresses, and the
settings of training. docs/hooks.py hands them to mkdocs."""

from __future__ import annotations

import argparse
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

MADE = "*Made from the program itself when these pages are built.*"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def text(words: str) -> str:
    """Words for a cell: no HTML, no marks of Markdown by accident, no ends of cells."""
    return re.sub(r"([*_|])", r"\\\1", html.escape(" ".join(words.split()), quote=False))


def sentence(words: str) -> str:
    """A summary as a sentence."""
    return text(words[:1].upper() + words[1:]) + "." * (not words.endswith("."))


def code(words: str) -> str:
    return f"`{words}`" if words else ""


# ----------------------------------------------------------------------------------------------------- the command line

_COMMANDS = f"""# Command line

{MADE} `photofound COMMAND --help` says the same. The settings of
trainings are in [Settings](settings.md). Exit statuses: 0 done, 1 some files of several failed, 2 refused (one line
says why), 130 interrupted; of a training 75: stopped by a signal, to be resumed.
"""


def commands() -> str:
    """Every command with its options; those that all edits share are listed once."""
    from photofound.cli.arguments import Idle
    from photofound.cli.commands import COMMANDS, parsers
    from photofound.edits.task import get_task, task_names

    made = parsers()
    edits = [name for name in task_names() if name in made]
    usual = [name for name in edits if get_task(name).takes_picture and get_task(name).samples]
    shared = set.intersection(*(set(map(_key, _actions(made[name]))) for name in usual))
    parts = [_COMMANDS, "## Edits\n"]
    for name in edits:
        idle = ", ".join(code(each.option_strings[0]) for each in _actions(made[name]) if isinstance(each, Idle))
        but = f", but {idle}, which change nothing here" if idle else ""
        also = f"And the [options of every edit](#every-edit){but}. {_page(name)}\n"
        parts += [_command(name, made[name], shared), also]
    parts += ["## Options of every edit { #every-edit }\n", *_groups(made[usual[0]], shared, among=True)]
    parts.append("## Other commands\n")
    parts += [_command(name, made[name], set()) for name in COMMANDS]
    return "\n".join(parts)


def _page(task: str) -> str:
    """A link to the task's own page, where it has one."""
    pages = ("packshot", "outpaint", "inpaint", "expand", "erase", "upscale", "cutout", "generate")
    return (
        f"[More about {task}](../tasks/{task}.md)." if task in pages else "[More](../models.md#edits-by-instruction)."
    )


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]


def _key(action: argparse.Action) -> tuple[str, str]:
    return "/".join(action.option_strings) or action.dest, action.help or ""


def _command(name: str, parser: argparse.ArgumentParser, shared: set[tuple[str, str]]) -> str:
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    about = (parser.description or "").strip().partition("\n")[0]
    lines = [f"### {name}\n", f"{sentence(about)}\n", f"```\n{usage}\n```\n"]
    return "\n".join([*lines, *_groups(parser, shared), *_parts(parser)])


def _parts(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The commands of a command, like ``photofound room add``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            abouts = {each.dest: each.help or "" for each in action._choices_actions}
            for name, part in action.choices.items():
                usage = " ".join(part.format_usage().removeprefix("usage: ").split())
                yield f"#### {part.prog.removeprefix('photofound ')}\n\n{sentence(abouts.get(name) or name)}\n"
                yield f"```\n{usage}\n```\n"
                yield from _groups(part, set())


def _groups(parser: argparse.ArgumentParser, shared: set[tuple[str, str]], among: bool = False) -> Iterator[str]:
    """A table of each group of options, of those in ``shared`` or of the others."""
    from photofound.cli.arguments import Idle

    formatter = parser._get_formatter()
    for group in parser._action_groups:
        rows = [
            (code(formatter._format_action_invocation(action)), text(formatter._expand_help(action)))
            for action in group._group_actions
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction | Idle)
            and (_key(action) in shared) == among
        ]
        if rows:
            yield table((group.title or "options", ""), rows)


# ------------------------------------------------------------------------------------------------------ the HTTP server

_HTTP = f"""# HTTP

{MADE} A running server has the same at `/docs`, and as OpenAPI at
`/openapi.json`. [Serving](../serving.md) says how to start it, and its bounds; [Clients](../clients.md) is about
programs that know OpenAI's or IOPaint's addresses. With API keys, send `X-API-Key: KEY` or `Authorization: Bearer KEY`.
"""


class _Everything:
    """A model that has learnt every task: the description needs no weights."""

    name_or_path = "model"

    def offers(self, task: str) -> bool:
        return True


def openapi() -> dict[str, Any]:
    """The server's description with everything switched on."""
    from photofound.serve.app import create_app
    from photofound.serve.config import ServeConfig
    from photofound.serve.openapi import description_of

    model: Any = _Everything()
    return description_of(create_app(model, ServeConfig(jobs=":memory:", choices="choices", keys=("key",))))


def http() -> str:
    """Every address with its form; fields that all edits share are listed once."""
    from photofound.edits.task import get_task

    described = openapi()
    forms = {name: _form(described, name, "post") for name in described["paths"] if "post" in described["paths"][name]}
    edits = [name for name, way in described["paths"].items() if "edits" in way.get("post", {}).get("tags", ())]
    usual = [name for name in edits if get_task(name.rpartition("/")[2]).samples]
    shared = [row for row in forms[usual[0]] if all(row in forms[name] for name in usual)]
    errors = {
        status: answer["description"]
        for status, answer in described["paths"][edits[0]]["post"]["responses"].items()
        if status != "200"
    }
    parts = [_HTTP]
    for tag in described["tags"]:
        parts.append(f"## {tag['name'].capitalize()}\n\n{sentence(tag['description'])}\n")
        if tag["name"] == "edits":
            parts += ["### Fields of every edit\n", table(_FIELDS, shared)]
            parts += ["### Errors\n", table(("status", "means"), errors.items())]
        for name, ways in described["paths"].items():
            for method, way in ways.items():
                if tag["name"] in way["tags"]:
                    parts += _address(name, method, way, forms.get(name, []), forms, shared)
    return "\n".join(parts)


_FIELDS = ("field", "type", "default", "meaning")


def _address(
    name: str,
    method: str,
    way: Mapping[str, Any],
    rows: Sequence[tuple[str, ...]],
    forms: Mapping[str, Sequence[tuple[str, ...]]],
    shared: Sequence[tuple[str, ...]],
) -> Iterator[str]:
    summary = way.get("summary", "")
    yield f"### {method.upper()} {name}\n\n{sentence(summary)}\n"
    if method != "post":
        rows = [(code(p["name"]), "text, in the address", "**required**", "") for p in way.get("parameters", ())]
    twin = name.replace("/v1/jobs/", "/v1/")
    if twin != name and twin in forms:
        rows = [row for row in rows if row not in forms[twin]]
        yield f"The fields of [POST {twin}](#post-{twin.strip('/').replace('/', '')}), and:\n"
    elif "edits" in way["tags"]:
        idle = ", ".join(row[0] for row in shared if row not in rows)
        but = f", but {idle}, which change nothing here" if idle else ""
        rows = [row for row in rows if row not in shared]
        yield f"The [fields of every edit](#fields-of-every-edit){but}{', and' if rows else ''}:\n"
    if rows:
        yield table(_FIELDS, rows)
    if "edits" not in way["tags"]:
        answers = (f"{status} {text(each['description'])}" for status, each in way["responses"].items())
        yield f"Answers: {'; '.join(answers)}.\n"


def _form(described: Mapping[str, Any], name: str, method: str) -> list[tuple[str, ...]]:
    """The fields of an address's form or body: name, type, default, meaning."""
    content = described["paths"][name][method].get("requestBody", {}).get("content", {})
    rows = []
    for body in content.values():
        form = _resolved(described, body["schema"])
        for field, schema in form.get("properties", {}).items():
            needed = field in form.get("required", ())
            default = "**required**" if needed else code(_plain(schema.get("default")))
            about = schema.get("description", "") + "; deprecated" * schema.get("deprecated", False)
            rows.append((code(field), _type(schema), default, text(about)))
    return rows


def _resolved(described: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    found: Mapping[str, Any] = described["components"]["schemas"][reference.rpartition("/")[2]] if reference else schema
    return found


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value in (None, "", []) else str(value)


def _type(schema: Mapping[str, Any]) -> str:
    """A field's type in words, with its bounds."""
    options = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    if options:
        return " or ".join(dict.fromkeys(_type(each) for each in options))
    if schema.get("type") == "array":
        return f"{_type(schema['items'])}, also several"
    if "binary" in (schema.get("format"), schema.get("contentEncoding")) or "contentMediaType" in schema:
        return "file"
    if "enum" in schema:
        return ", ".join(code(str(each)) for each in schema["enum"])
    name = {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(
        schema.get("type", ""), schema.get("type", "")
    )
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None and most <= 1e6:
        return f"{name}, {least:g} to {most:g}"
    return f"{name}, up to {schema['maxLength']:,} characters" if "maxLength" in schema else name


# --------------------------------------------------------------------------------------------- the settings of training

_SETTINGS = f"""# Settings of training

{MADE} `photofound train STAGE --help` says the same. A setting stands in the
file of `--config`, or on the command line as `--NAME=VALUE`. [Training](../training.md) explains the important ones.
"""


def settings() -> str:
    """Every setting of every stage. What a stage has in common with the one before is not said twice."""
    from photofound.cli.commands import training_stages
    from photofound.options import sections

    parts, told = [_SETTINGS], {}
    for stage, summary in training_stages().items():
        if stage == "evaluate":  # photofound eval has options, no settings
            continue
        parts.append(f"## {stage}\n\n{sentence(summary)}\n")
        for section in sections(f"photofound.training.{stage}", "PrepareConfig" if stage == "prepare" else "Config"):
            title = text(section.about.rstrip(":")) + ":"
            if told.setdefault(section.options, stage) != stage:
                first = section.options[0].name.rpartition(".")[0]
                where = told[section.options]
                parts.append(f"`{first}.*`: as of [{where}](#{where}).\n")
                continue
            rows = [(code(o.name), text(o.type), code(o.default), text(o.help)) for o in section.options]
            parts += [f"{title}\n", table(("setting", "type", "default", "meaning"), rows)]
    return "\n".join(parts)


PAGES = {"reference/commands.md": commands, "reference/http.md": http, "reference/settings.md": settings}
