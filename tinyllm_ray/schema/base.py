"""What every section of an experiment shares: unknown keys are refused, values do not change."""

import difflib
import math
import os
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from tinyllm_ray.redact import holds_credentials

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
OUTSIDE_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"  # my_package.module:name
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what NumPy's generators take


def _different(seeds: list[int]) -> list[int]:
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ValueError(f"seed {twice[0]} is given twice, which would count one training twice; give each once")
    return seeds


Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_different)]
LABEL = "label"
TaskName = Literal["choice", "label", "number", "text"]
FREE_TASKS = ("number", "text")  # without choices


class UserError(ValueError):
    """A mistake of the user's: the message says what was given, what is allowed and which key to change."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A sentence that names what is nearest to what was given; empty where nothing is near."""
    near = difflib.get_close_matches(given, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def counted(number: int, noun: str) -> str:
    """counted(1, "trial") is "1 trial", counted(1200, "trial") is "1,200 trials"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_values(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts true as 1, every float field would take infinity, and any text an address with a password."""
        kinds = _kinds_in(cls.model_fields[str(info.field_name)].annotation)
        if any(isinstance(kind, type) and issubclass(kind, Section) for kind in kinds):
            return value  # it looks at its own
        numbers_only = bool(kinds & {int, float}) and not kinds & {bool, Any}
        for leaf in _leaves(value):
            if isinstance(leaf, bool) and numbers_only:
                raise ValueError(f"{str(leaf).lower()} was given; a number is wanted")
            if isinstance(leaf, float) and not math.isfinite(leaf):
                raise ValueError(f"{leaf} was given; numbers must be finite")
            if isinstance(leaf, str) and holds_credentials(leaf):
                raise ValueError(f"the address holds credentials; {_where_instead(leaf, str(info.field_name))}")
        return value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _kinds_in(annotation: Any) -> set[Any]:
    """Every type that a field's type is made of."""
    return {annotation} | {kind for argument in get_args(annotation) for kind in _kinds_in(argument)}


def without_credentials(url: str, instead: str) -> str:
    if re.search(r"://[^/]*@", url):
        raise ValueError(f"the address holds credentials; {instead}")
    return url


_OF_FIELDS = {
    "uri": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "url": "put the key in an environment variable and name it in api_key_env",
}
_GOOGLE, _AZURE = "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
CREDENTIALS_OF = {  # scheme of an address -> the environment variables that its storage reads
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    **{"gs": _GOOGLE, "gcs": _GOOGLE, "abfs": _AZURE, "abfss": _AZURE},
    "hf": "HF_TOKEN",
    "hdfs": "JAVA_HOME, HADOOP_HOME and CLASSPATH",
}


def _where_instead(address: str, field: str) -> str:
    scheme = address.partition("://")[0].lower()
    in_a_variable = "set an environment variable and write ${ITS_NAME} in their place, as in ?sig=${DATA_SIGNATURE}"
    of_scheme = f"leave them out and set {CREDENTIALS_OF[scheme]}" if scheme in CREDENTIALS_OF else ""
    return _OF_FIELDS.get(field) or of_scheme or in_a_variable


STORAGE_SCHEMES = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs")


def storage_address(address: str) -> str:
    """A path, or the URI of a storage that is known, as given. Raises ValueError."""
    scheme, separator, rest = address.partition(":")
    if separator and rest.startswith("/") and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", scheme):
        known = ", ".join(f"{name}://" for name in STORAGE_SCHEMES)
        if scheme not in STORAGE_SCHEMES:
            raise ValueError(f"{scheme}: is no storage that is known; allowed is a path on this machine, or {known}")
        if not rest.startswith("//"):
            raise ValueError(f"{address!r} would be a folder named '{scheme}:' in this place; write {scheme}://")
        if scheme == "file" and not rest.startswith("///"):
            raise ValueError(f"{address!r} names no absolute path; write file:///absolute/path")
        if scheme != "file" and not rest.strip("/").partition("/")[0]:
            raise ValueError(f"{address!r} names no bucket; write {scheme}://bucket/folder")
        if rest.startswith("///") and scheme != "file":
            raise ValueError(f"{address!r} names no bucket; write {scheme}://bucket/folder")
        if re.search(r"[^\x21-\x7e]", rest):
            raise ValueError(f"{address!r} holds a character that an address cannot; write it as %XX")
    elif not address.strip():
        raise ValueError("an empty text was given; leave the key out, or name a folder")
    elif address.startswith("~") and os.path.expanduser(address) == address:
        raise ValueError(f"{address!r}: there is no such user on this machine; give an absolute path")
    return address
