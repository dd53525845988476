"""Options that several commands share, each described once."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from cyclopts import App, ArgumentCollection, Parameter

from qkv.errors import ConfigError

Model = Annotated[
    str | None,
    Parameter(
        alias="-m",
        help="a folder that qkv train made, a shipped model, or an id of the Hugging Face Hub",
    ),
]
File = Annotated[
    Path | None,
    Parameter(
        alias="-f",
        help="a table (.csv, .tsv, .jsonl, .parquet), or a .txt file with one input per line",
    ),
]
Output = Annotated[
    Path | None,
    Parameter(
        alias="-o",
        help="write the results to this file instead of printing them: .csv, .jsonl or .txt",
    ),
]
ShardOption = Annotated[
    str | None,
    Parameter(
        help="predict only this part of the file's rows, such as 3/16, the third of 16, and write "
        "it to the folder --output, from which a killed run resumes; qkv merge joins the parts; "
        "under torchrun, each process predicts its own part by default"
    ),
]
Columns = Annotated[
    dict[str, str] | None,
    Parameter(help="the table's column for each role, such as --columns.text review"),
]
Json = Annotated[bool, Parameter(help="print one JSON object per input", show_default=False)]
JsonTables = Annotated[
    bool, Parameter(name="--json", help="print one JSON object", show_default=False)
]
NewLabels = Annotated[
    str | None,
    Parameter(
        help='classes that need no training, such as "billing, delivery, praise", or with words '
        'for them, "LOC=a place, NUM=a number|a date"'
    ),
]
Device = Annotated[str, Parameter(help="auto (an accelerator if there is one), cpu, cuda or mps")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "int8", "int4", "auto"] | None,
    Parameter(
        help="dtype of the stored weights, for faster inference on a CPU; auto measures which one "
        "is fastest and reports it; default: float32 in plain PyTorch"
    ),
]
AllowDownload = Annotated[
    bool,
    Parameter(
        help="allow a download of the base model that the model's files name", show_default=False
    ),
]


def whole_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Reject 2.5 for an option that is a whole number; the parser would round it.

    Raises:
        ConfigError: an option has a fraction; the message names it.
    """
    for argument in arguments:
        kinds = {argument.hint, *get_args(argument.hint)}
        for token in argument.tokens if int in kinds and not kinds & {float, str} else ():
            if "." in token.value:
                raise ConfigError(f"{argument.name} = {token.value}; expected a whole number")
