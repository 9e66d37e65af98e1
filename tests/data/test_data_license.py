import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from groundup.data.document import Document, DroppedDocument
from groundup.data.document_reader import read_file
from groundup.data.inputs import InputFile, local_files
from groundup.data.license import PERMISSIVE_LICENSES, expand_allowed, identify_license, is_allowed
from groundup.data.readers.reader_options import ReaderOptions

MIT = (
    "Copyright (c) X\n\nPermission is hereby granted, free of charge, to any person obtaining\na copy of this software"
)
GPL = "                    GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007\n"
BSD = "Redistribution and use in source and binary forms, with or without\n * modification\n\n * Neither the name"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (MIT, "MIT"),
        (GPL, "GPL-3.0"),
        (GPL.replace("GENERAL", "LESSER GENERAL").replace("3", "2.1", 1), "LGPL-2.1"),
        (BSD, "BSD-3-Clause"),
        (BSD.partition("\n\n")[0], "BSD-2-Clause"),
        ("                Apache License\n           Version 2.0, January 2004", "Apache-2.0"),
        ("/* SPDX-License-Identifier: GPL-2.0-only OR MIT */", "GPL-2.0-only OR MIT"),
        ("PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2\n ... GNU General Public License", "PSF-2.0"),
        ("All rights reserved.", None),
    ],
)
def test_license_texts_are_identified(text: str, name: str | None):
    assert identify_license(text) == name


def test_license_of_this_project_is_identified():
    assert identify_license((Path(__file__).parents[2] / "LICENSE").read_text()) == "Apache-2.0"


def test_spdx_expressions():
    assert is_allowed("GPL-2.0-only OR MIT", PERMISSIVE_LICENSES)
    assert is_allowed("(MIT AND Apache-2.0)", PERMISSIVE_LICENSES)
    assert not is_allowed("MIT AND GPL-3.0-or-later", PERMISSIVE_LICENSES)
    assert is_allowed("GPL-3.0-or-later", frozenset(["GPL-3.0"]))
    assert expand_allowed(("permissive", "MPL-2.0")) == PERMISSIVE_LICENSES | {"MPL-2.0"}


FILES = {
    "LICENSE": MIT,
    "a.py": "print(1)\n",
    "b.py": "# SPDX-License-Identifier: GPL-2.0-only\n",
    "lib/COPYING": GPL,
    "lib/deep/c.py": "print(2)\n",
}


def drop_reasons(found: list[Document | DroppedDocument]) -> dict[str, str]:
    return {read.id: getattr(read, "reason", "kept") for read in found}


EXPECTED = {"a.py": "kept", "b.py": "license: GPL-2.0-only", "lib/deep/c.py": "license: GPL-3.0"}


def test_files_of_a_checkout(tmp_path: Path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    options = ReaderOptions(licenses=PERMISSIVE_LICENSES)
    found = [
        read for name, path in local_files(str(tmp_path)) for read in read_file("code", InputFile(name, path), options)
    ]
    assert drop_reasons(found) == EXPECTED
    deep = InputFile("c.py", tmp_path / "lib/deep/c.py")  # the source names a folder deep in the checkout
    assert drop_reasons(list(read_file("code", deep, options))) == {"c.py": "license: unknown"}
    (tmp_path / ".git").mkdir()
    deep = InputFile("d.py", tmp_path / "lib/other/d.py")
    deep.path.parent.mkdir()
    deep.path.write_text("x = 1\n")
    assert drop_reasons(list(read_file("code", deep, options))) == {"d.py": "license: GPL-3.0"}


def test_archive_with_license_file_at_its_end(tmp_path: Path):
    options = ReaderOptions(licenses=PERMISSIVE_LICENSES)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar, zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        for name, text in reversed(FILES.items()):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
            zipped.writestr(name, text)
    for name in ("x.tar.gz", "x.zip"):
        assert drop_reasons(list(read_file("code", InputFile(name, tmp_path / name), options))) == EXPECTED
    with zipfile.ZipFile(tmp_path / "x-1.whl", "w") as wheel:
        wheel.writestr("x/a.py", "print(1)\n")
        wheel.writestr("x-1.dist-info/licenses/LICENSE", MIT)
    assert drop_reasons(list(read_file("code", InputFile("x-1.whl", tmp_path / "x-1.whl"), options))) == {
        "x/a.py": "kept"
    }
