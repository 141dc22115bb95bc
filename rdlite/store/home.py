"""Where rdlite keeps what is the user's: models, and the settings beside them."""

import os
from pathlib import Path

VARIABLE = "RDLITE_HOME"


def home() -> Path:
    """Return the folder of the store; it need not exist.

    RDLITE_HOME says where; without it, the place that the system has for a program's data.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("rdlite", appauthor=False)
