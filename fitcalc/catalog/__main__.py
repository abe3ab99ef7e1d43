"""`python -m fitcalc.catalog` writes profiles/{index,parsed}.json and profiles/schema/ of a checkout anew."""

from __future__ import annotations

import os

from fitcalc.catalog.files import packaged_folder
from fitcalc.catalog.index import texts

if __name__ == "__main__":
    folder = packaged_folder()
    os.makedirs(os.path.join(folder, "schema"), exist_ok=True)
    for path, text in texts(folder).items():
        with open(os.path.join(folder, path), "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
