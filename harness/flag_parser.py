"""A flag is one field of a class: the parser, its help, the check of its value and docs/flags.md follow from it.

Dashes and underscores in names are the same. A wrong value ends in one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeVar, get_args, get_type_hints

from typing_extensions import dataclass_transform

from harness.errors import Stopped, UserError, run_main
from harness.facts import Facts, State

GROUPS = ("data", "network", "training", "stage 2", "output")  # of the help, in this order


class Check(NamedTuple):
    """What a value must be: `words` go on after "it must be"."""

    holds: Callable[[Any], bool]
    words: str


def between(least: float, most: float) -> Check:
    """Return the check of numbers from `least` to `most`."""
    return Check(lambda value: least <= value <= most, f"from {least} to {most}")


def is_inside(path: str) -> bool:
    """Return whether a folder is below another."""
    return path.isprintable() and bool(path) and not Path(path).is_absolute() and ".." not in Path(path).parts


def is_plain(name: str) -> bool:
    """Return whether a file's name has no folder, and nothing that other commands would stumble over."""
    return bool(name) and name.isprintable() and name.strip() == name == Path(name).name and name[0] not in "-."


# What is beyond 1e30 would not be a finite number in float32.
COUNT = Check(lambda value: value >= 1, "at least 1")
FROM_0 = Check(lambda value: 0 <= value < 1e30, "0 or more and below 1e30")
ABOVE_0 = Check(lambda value: 0 < value < 1e30, "above 0 and below 1e30")
SHARE = Check(lambda value: 0 < value <= 1, "above 0 and at most 1")
FILE_NAME = Check(is_plain, "a file name without folders, of printable characters, with no - or . before, nor blanks around")
FOLDER_NAME = Check(is_inside, "a name")


def flag(
    group: str, binds: bool, default: Any, help: str, check: Check | None = None, *names: str, **settings: Any
) -> Any:  # fmt: skip
    """Declare a flag, as the value of a field, whose type is its own.

    Parameters
    ----------
    binds:
        Whether a resumed run must have it as the interrupted one had it.
    names:
        If there is another name than that of the field, all of them.
    settings:
        For `argparse`; `choices` may have their meanings.
    """
    about = {"group": group, "binds": binds, "help": help, "check": check, "names": names, "settings": settings}
    return field(default=default, metadata=about)


data_flag, network_flag, training_flag, stage2_flag, _ = (partial(flag, group, True) for group in GROUPS)
free_data_flag, free_network_flag, free_training_flag, _, output_flag = (partial(flag, group, False) for group in GROUPS)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(flag,))
@dataclass(frozen=True)
class FlagSet:
    """The flags of a command; each class of them is a dataclass. `usual` are defaults that differ from the declared ones."""

    usual: ClassVar[Facts] = {}

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def check(self) -> None:
        """Raise a `UserError` that names the first flag that makes no sense."""
        for one in declared(type(self)):
            value, check = getattr(self, one.name), one.metadata["check"]
            shown = repr(value) if isinstance(value, str) else value
            require(None in (value, check) or bool(check.holds(value)), f"--{one.name}", shown, check and check.words)

    def facts(self) -> dict[str, object]:
        """Return the values by flag."""
        return {f"--{name}": value for name, value in asdict(self).items()}


F = TypeVar("F", bound=FlagSet)


def declared(of: type[FlagSet]) -> list[Field[Any]]:
    """Return the flags of a class."""
    return [one for one in fields(of) if one.metadata]


def option_names(one: Field[Any]) -> Sequence[str]:
    """Return the names of a flag on the command line."""
    return one.metadata["names"] or [f"--{one.name}"]


def described(one: Field[Any], of: type[FlagSet]) -> str:
    """Return the help of a flag, with its choices before its default."""
    help, begins, said = one.metadata["help"].partition(" (default")
    choices, default = one.metadata["settings"].get("choices", ()), of.usual.get(one.name, one.default)
    with_words = [f"{name}: {words}" for name, words in choices.items()] if isinstance(choices, Mapping) else ()
    told = "; ".join(with_words) or ", ".join(choices)
    plain = default is None or default is False or default == ()
    return ": ".join(filter(None, (help, told))) + (begins + said if plain else f" (default: {default})")


def require(condition: bool, flag: str, value: object, rule: str) -> None:
    """Raise a `UserError` that names the flag unless the condition holds."""
    if not condition:
        raise UserError(f"{flag} {value} is not valid: it must be {rule}")


def truth(text: str) -> bool:
    """Read true or false."""
    return bool(("false", "true").index(text.lower()))


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors in which --batch-size and --batch_size are the same.

    FlagSet are not to be cut short: a script that looks at the flags it passes on would not know them.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse after bringing each flag to its declared spelling, with underscores."""
        words = sys.argv[1:] if args is None else args
        spelled = [re.sub("^--[^=]+", lambda found: f"--{found[0][2:].replace('-', '_')}", word) for word in words]
        return super().parse_known_args(spelled, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError` instead of printing the usage and leaving."""
        raise UserError(f"{message} (--help lists the flags)")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Leave after --help."""
        raise Stopped("", status)


def make_parser(description: str | None, *classes: type[FlagSet], **settings: Any) -> Parser:
    """Return the parser of the flags of some classes, of which it returns those that are given."""
    parser = Parser(description=description, usage="%(prog)s [flags]", argument_default=argparse.SUPPRESS, **settings)
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for of in classes:
        types = get_type_hints(of)
        for one in declared(of):
            kind = next(iter(get_args(types[one.name])), types[one.name])
            more = {"type": kind, "metavar": one.name.upper()}
            if kind is bool:
                more = {"type": truth} if one.default else {"action": "store_true"}
            more |= {"help": described(one, of).replace("%", "%%"), **one.metadata["settings"]}
            groups[one.metadata["group"]].add_argument(*option_names(one), **more)
    return parser


def given_flags(argv: Sequence[str] | None, *classes: type[FlagSet]) -> State:
    """Return the values of the flags that are given, by name."""
    return vars(make_parser(None, *classes).parse_args(argv))


def with_defaults(of: type[F], values: Facts) -> F:
    """Return the checked flags of a class: these values as far as it has them, else the defaults."""
    known = {one.name for one in fields(of)}
    flags = of(**{name: value for name, value in {**of.usual, **values}.items() if name in known})
    flags.check()
    return flags


def parse_flags(of: type[F], argv: Sequence[str] | None = None) -> F:
    """Read and check the flags of a class."""
    return with_defaults(of, given_flags(argv, of))


def parse_known(of: type[F], argv: Sequence[str] | None = None) -> tuple[F, list[str]]:
    """Read and check the flags of a class; return them and all other words."""
    known, others = make_parser(None, of, add_help=False).parse_known_args(argv)
    return with_defaults(of, vars(known)), others


def show_help(classes: str) -> NoReturn:
    """Print the help of the script that runs, whose flags are those of "module:class,class", and leave."""
    module, _, names = classes.partition(":")
    of = [getattr(import_module(module), name) for name in names.split(",")]
    run_main(make_parser(sys.modules["__main__"].__doc__, *of).print_help)
    sys.exit()
