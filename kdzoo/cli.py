"""The command line: the words of every command. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import difflib
import gc
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from kdzoo import commands
from kdzoo.checks import KdzooError, UsageError
from kdzoo.commands import FAULT, INTERRUPTED, MISTAKE

LISTS = ("methods", "sources", "benchmarks", "models", "datasets")
KINDS = ("distiller", "source", "model", "dataset")
FORMATS = ("safetensors", "onnx", "torch")


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it must be an integer, got {text!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it must be a number, got {text!r}") from None


class _Parser(argparse.ArgumentParser):
    """argparse with one-line answers and near-name hints."""

    def error(self, message: str) -> NoReturn:
        """Answer a mistake in one line."""
        words = message.split(": ", 1)[-1].split() if message.startswith("unrecognized") else []
        # What a command does not know is told by the parser above it.
        below = [
            p for a in self._actions if isinstance(a, argparse._SubParsersAction) for p in a.choices.values()
        ]
        known = [
            option
            for parser in (self, *below)
            for action in parser._actions
            for option in action.option_strings
        ]
        close = [m for w in words for m in difflib.get_close_matches(w.split("=")[0], known, n=1)]
        hint = f" Did you mean {' or '.join(close)}?" if close else f" See {self.prog} --help."
        print(f"{self.prog}: {message}.{hint}", file=sys.stderr)
        raise SystemExit(MISTAKE)


def _parser() -> argparse.ArgumentParser:
    from kdzoo import __version__

    parser = _Parser(
        prog="kdzoo", description="The benchmark zoo for knowledge distillation.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"kdzoo {__version__}")
    below = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., int], does: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = below.add_parser(
            name, help=does, description=does, allow_abbrev=False
        )
        made.set_defaults(run=run)
        return made

    _add_bench(command("bench", commands.bench, "train methods side by side and show a leaderboard"))
    _add_leaderboard(command("leaderboard", commands.leaderboard_page, "make a leaderboard from records"))
    lister = command("list", commands.show_list, "show what there is")
    lister.add_argument("what", choices=LISTS)
    lister.add_argument("-v", "--verbose", action="store_true", help="with papers, needs and options")
    _add_plugin(lister)
    _add_new(
        command("new", commands.new, "write a distiller, source, model or data set of your own to start from")
    )
    _add_export(command("export", commands.export, "write a trained student for use elsewhere"))
    _add_predict(command("predict", commands.predict, "show what a trained student sees in images"))
    _add_evaluate(command("evaluate", commands.evaluate, "measure a trained student again"))
    _add_work(command("work", commands.work_list, "show or free what banks, artifacts and checkpoints take"))
    return parser


def _add_plugin(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file of your own that registers distillers, sources, models or data sets",
    )


def _add_leaderboard(board: argparse.ArgumentParser) -> None:
    board.add_argument("records", nargs="*", type=Path, default=[Path("work_dirs/runs")],
                       help="folders or files of records (default: work_dirs/runs)")  # fmt: skip
    board.add_argument(
        "--output",
        type=Path,
        default=Path("leaderboard.md"),
        help="Markdown file to write (default: leaderboard.md)",
    )
    board.add_argument("--csv", type=Path, help="also write one line a record to this CSV file")
    board.add_argument("--title", default="Leaderboard", help="heading of the page")


def _add_new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name", metavar="NAME", help="as methods, configs and records will call it")
    parser.add_argument(
        "--output", type=Path, default=Path("."), metavar="DIR", help="where to write (default: here)"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_name",
        metavar="RUN",
        help="a member's folder or record.json, or its method where only one such run is in the work "
        "directory, as in kd or dkd+reffakd",
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("work_dirs"),
        metavar="DIR",
        help="where RUN is looked for if it is a method (default: work_dirs)",
    )
    parser.add_argument(
        "--benchmark", metavar="NAME", help="the benchmark whose runs are looked at if RUN is a method"
    )
    _add_plugin(parser)


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="safetensors",
        help="safetensors: the weights by name; onnx, torch: the whole student, normalisation included "
        "(default: safetensors)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder to write (default: exports/<the run's name>)"
    )


def _add_predict(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files")
    parser.add_argument("--top", type=_integer, default=5, metavar="N", help="classes to show (default: 5)")
    _add_device(parser)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="measure on this folder of class folders (default: the test images of its data set)",
    )
    parser.add_argument(
        "--data-root", type=Path, metavar="DIR", help="where the data's files are (default: where they were)"
    )
    _add_device(parser)


def _add_work(parser: argparse.ArgumentParser) -> None:
    below = parser.add_subparsers(dest="action", required=True, metavar="ls|rm")
    does = {"ls": "show what a work directory holds", "rm": "remove things of a work directory"}
    for name, words in does.items():
        made = below.add_parser(name, help=words, description=words, allow_abbrev=False)
        made.add_argument(
            "--work-dir", type=Path, default=Path("work_dirs"), metavar="DIR",
            help="whose things they are (default: work_dirs)",
        )  # fmt: skip
        if name == "ls":
            made.add_argument("-v", "--verbose", action="store_true", help="with every finished run")
            continue
        made.set_defaults(run=commands.work_remove)
        made.add_argument(
            "what", nargs="+", metavar="WHAT",
            help="checkpoints, artifacts, banks, or names as `kdzoo work ls` shows them, wildcards included",
        )  # fmt: skip
        made.add_argument("--finished", action="store_true",
                          help="also remove finished runs that are named: records and students")  # fmt: skip
        made.add_argument("--dry-run", action="store_true", help="show what would be removed")


def _add_device(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--threads", type=_integer, metavar="N", help="CPU threads (default: torch's choice)")


def _add_bench(bench: argparse.ArgumentParser) -> None:
    _add_comparison(bench.add_argument_group("what is compared"))
    _add_training(bench.add_argument_group("how it is trained"))
    _add_running(bench.add_argument_group("where and how it runs"))


def _add_comparison(group: argparse._ActionsContainer) -> None:
    add = group.add_argument
    add(
        "--methods",
        action="append",
        metavar="LIST",
        help="distiller[:name=value]*[+source[:name=value]*], comma-separated; table8, all and wildcards "
        "expand (default: scratch,dkd,reffakd)",
    )
    add(
        "--benchmark",
        default="digits",
        metavar="NAME",
        help="a name of `kdzoo list benchmarks`, or a config file (default: digits)",
    )
    add(
        "--seeds",
        default="1",
        metavar="N|LIST",
        help="how many seeds (3 means 0,1,2), or which, as in 0,5 (default: 1)",
    )
    add(
        "--student",
        metavar="NAME",
        help="another student: a name of `kdzoo list models`, timm:NAME, torchvision:NAME or "
        "module:PACKAGE.NAME, with options as in timm:resnet18:pretrained=true",
    )
    add("--teacher", metavar="NAME", help="another teacher, written likewise")
    add("--data", metavar="NAME", help="another data set, as in image_folder:size=96")
    _add_plugin(group)
    add(
        "--teacher-checkpoint",
        type=Path,
        metavar="FILE",
        help="a teacher of your own: .safetensors, or .pt with tensors alone",
    )


def _add_training(group: argparse._ActionsContainer) -> None:
    add = group.add_argument
    add(
        "--epochs",
        type=_integer,
        metavar="N",
        help="epochs of the students; milestones scale (default: the benchmark's)",
    )
    add(
        "--teacher-epochs",
        type=_integer,
        metavar="N",
        help="epochs of the teacher; 0 takes pretrained weights as they are",
    )
    add("--cae-epochs", type=_integer, metavar="N", help="epochs of ReffAKD's autoencoder")
    add(
        "--val-fraction",
        type=_number,
        default=0.0,
        metavar="F",
        help="share of training images split off for validation (default: 0)",
    )
    add(
        "--views",
        type=_integer,
        metavar="V",
        help="let the augmentation repeat every V epochs (default: new views in every epoch)",
    )
    add(
        "--precision",
        default="float32",
        metavar="NAME",
        help="float32, bf16, or auto: bf16 for wide networks where the device has it (default: float32)",
    )
    add(
        "--compile",
        default="auto",
        metavar="CHOICE",
        help="on, off or auto: passes made by torch.compile; auto is off (default: auto)",
    )
    add(
        "--digests",
        default="own",
        metavar="NAME",
        help="float16 rounds the teacher's answers, kept or not, for banks of half the size (default: own)",
    )
    add(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="config entries, as in recipe.batch_size=128",
    )


def _add_running(group: argparse._ActionsContainer) -> None:
    add = group.add_argument
    add(
        "--data-root", type=Path, metavar="DIR", help="where the data's files are (default: the usual places)"
    )
    add(
        "--work-dir",
        type=Path,
        default=Path("work_dirs"),
        metavar="DIR",
        help="artifacts, checkpoints, records (default: work_dirs)",
    )
    add(
        "--teacher-bank",
        default="auto",
        metavar="DIR",
        help="keep what the teacher says, and read it again: auto (in the work directory), off, or a folder",
    )
    add(
        "--bank-limit",
        type=_number,
        default=4.0,
        metavar="GB",
        help="size of a teacher bank; what does not fit is computed anew in every step (default: 4)",
    )
    _add_device(group)
    add(
        "--workers",
        type=_integer,
        metavar="N",
        help="processes that decode streamed pictures (default: one for each processor, at most 8)",
    )
    add(
        "--cuda-graphs",
        default="auto",
        metavar="CHOICE",
        help="on, off or auto: a GPU repeats steps by itself, which changes no number; auto does where "
        "nothing is compiled, but for plug-ins (default: auto)",
    )
    add(
        "--dry-run",
        action="store_true",
        help="show what would be trained, reused and skipped, and how long it takes",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: behind the program's name; None takes the process's own.

    Returns:
        0, or 1 for a fault, 2 for a mistake of the user, 130 for Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a sign such as ± must not end a run.
        sys.stdout.reconfigure(errors="replace")
    try:
        options = _parser().parse_args(given)
        return int(options.run(options, given))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else MISTAKE
    except UsageError as error:
        print(error, file=sys.stderr)
        return MISTAKE
    except KdzooError as error:
        print(error, file=sys.stderr)
        return FAULT
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        sys.stderr.close()
        return FAULT
    finally:
        # Whoever called this in a process of their own goes on with all that is theirs.
        gc.unfreeze()


if __name__ == "__main__":
    sys.exit(main())
