"""The man page, made from what the commands say of themselves: the same words as --help, in roff."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whisperd import __version__

_KINDS = {"float": "NUMBER", "int": "NUMBER", "integer": "NUMBER"}  # names of click's types


def man_page(program: Any) -> str:
    """Of a click command with commands in it; for `man`, and packaging/man/whisperd.1."""
    lines = [
        f'.TH WHISPERD 1 "" "whisperd {__version__}"',
        ".SH NAME",
        r"whisperd \- speech to text on this machine",
        ".SH SYNOPSIS",
        r".B whisperd",
        r"\fICOMMAND\fR [\fIOPTIONS\fR] [\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        *_prose(program.help),
        ".SH COMMANDS",
    ]
    for name, command in _commands(program):
        lines += [f'.SS "{_plain(name)}{_arguments(command)}"', *_prose(command.help or "")]
        lines += [line for option in _options(command) for line in option]
    lines += [".SH EXAMPLES AND ENVIRONMENT", *_prose(program.epilog)]
    return "\n".join(lines) + "\n"


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")
        elif not command.hidden:
            yield before + name, command


def _arguments(command: Any) -> str:
    return "".join(
        f" {_plain(param.metavar or param.name.upper())}{' ...' if param.nargs == -1 else ''}"
        for param in command.params
        if param.param_type_name == "argument"
    )


def _options(command: Any) -> Iterator[list[str]]:
    for param in command.params:
        if param.param_type_name != "option" or param.hidden:
            continue
        names = ", ".join(rf"\fB{_plain(name)}\fR" for name in (*param.opts, *param.secondary_opts))
        value = "" if param.is_flag else rf" \fI{_plain(_value(param))}\fR"
        default = f" Default: {param.default}." if _has_default(param) else ""
        yield [".TP", names + value, _line(" ".join((param.help or "").split()) + default)]


def _value(param: Any) -> str:
    choices = getattr(param.type, "choices", None)
    return param.metavar or ("|".join(choices) if choices else _KINDS.get(param.type.name.split()[0], "TEXT"))


def _has_default(param: Any) -> bool:
    return bool(param.show_default) and not param.is_flag and param.default not in (None, "", ())


def _prose(text: str) -> Iterator[str]:
    """Paragraphs; lines of examples as they are."""
    for paragraph in text.strip().split("\n\n"):
        lines = [line.strip() for line in paragraph.splitlines()]
        if lines[0].startswith("$ "):
            yield from (".PP", ".nf", ".RS 4", *map(_line, lines), ".RE", ".fi")
        else:
            yield from (".PP", *map(_line, lines))


def _line(text: str) -> str:
    """A line of text, and none of commands to roff."""
    plain = _plain(text)
    return rf"\&{plain}" if plain.startswith((".", "'")) else plain


def _plain(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
