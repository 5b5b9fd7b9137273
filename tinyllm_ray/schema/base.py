"""What every section of an experiment shares: unknown keys are refused, values do not change."""

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Fraction = Annotated[float, Field(ge=0, le=1)]
LABEL = "label"


class UserError(ValueError):
    """A mistake of the user's: the message says what was given, what is allowed and which key to change."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def without_credentials(url: str, instead: str) -> str:
    if re.search(r"://[^/]*@", url):
        raise ValueError(f"the address holds credentials; {instead}")
    return url
