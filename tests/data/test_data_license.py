import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from groundup.data.document import Document, DroppedDocument
from groundup.data.document_reader import read_file
from groundup.data.inputs import InputFile, local_files
from groundup.data.license import PERMISSIVE_LICENSES, expand_allowed, identify_header, identify_license, is_allowed
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


APACHE_HEADER = """#!/usr/bin/env python
# Copyright 2020 The Mill Authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
"""
GPL_HEADER = """/* mill.c - this file is part of the mill.
 *
 * This program is free software; you can redistribute it and/or modify
 * it under the terms of the GNU General Public License as published by
 * the Free Software Foundation; either version 2 of the License, or
 * (at your option) any later version.
 */"""
BSD_HEADER = f"// {BSD.replace(chr(10), chr(10) + '// ')} may not be used without specific prior written permission"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (APACHE_HEADER, "Apache-2.0"),
        (GPL_HEADER, "GPL-2.0"),
        (BSD_HEADER, "BSD-3-Clause"),
        (GPL_HEADER.replace("General", "Lesser General"), "LGPL-2.0"),
        ("# spdx-license-identifier: mit\n", "MIT"),
        ("/* SPDX-License-Identifier: gpl-2.0-only or mit */", "GPL-2.0-only OR MIT"),
        ("<!-- SPDX-License-Identifier: Apache-2.0 -->", "Apache-2.0"),
        ("# SPDX-License-Identifier: My-Own\n", "My-Own"),
        (f"/*\n{MIT}\n*/", "MIT"),
        ("// Licensed under the MIT license.\n", "MIT"),
        ("/*! mill v1.0 | (c) Mill Foundation | MIT License */", "MIT"),
        ("__license__ = 'MIT'\n", "MIT"),
        ("# License: BSD 3 clause\n", "BSD"),
        ("/* Dual licensed under the MIT and GPL licenses. */\n// MIT license, GPLv2", "MIT OR GPL"),
        ("# Licensed under the GPLv3\n", "GPL"),
        ("# This Source Code Form is subject to the terms of the Mozilla Public\n# License, v. 2.0.", "MPL-2.0"),
        ("// MILL CONFIDENTIAL\n// Unauthorized copying of this file, via any medium", "LicenseRef-proprietary"),
        ("# This software is proprietary and confidential.\n", "LicenseRef-proprietary"),
        (
            "// This file may not be copied, in whole or in part, without written consent of Mill.",
            "LicenseRef-proprietary",
        ),
        ("# Copyright (c) 2020 Mill. All rights reserved.\nprint(1)\n", None),
        (
            "// Use of this source code is governed by a BSD-style license that can be\n// found in the LICENSE file.",
            None,
        ),
        ("import gpl\nclass Permit:\n    license = None\n", None),
        ('"""Copy of a tree. Links are not followed, and must not be copied."""\n', None),
        ("def limit(value):\n    # the value may not be used twice\n", None),
    ],
)
def test_headers_of_source_files(header: str, name: str | None):
    assert identify_header(header + "\n\nint main(void) { return 0; }\n") == name


def test_header_within_a_tree_of_another_license(tmp_path: Path):
    files = {
        "LICENSE": MIT, "a.c": GPL_HEADER, "b.c": "// Unauthorized copying of this file is prohibited\n", "c.c": "int c;\n",
        "d.c": "// spdx-license-identifier: gpl-3.0-or-later\n", "e.c": APACHE_HEADER,
    }  # fmt: skip
    options = ReaderOptions(licenses=PERMISSIVE_LICENSES)
    expected = {
        "a.c": "license: GPL-2.0", "b.c": "license: LicenseRef-proprietary", "c.c": "kept",
        "d.c": "license: GPL-3.0-or-later", "e.c": "kept",
    }  # fmt: skip
    for folder, licensed in ((tmp_path / "tree", True), (tmp_path / "bare", False)):
        folder.mkdir()
        for name, text in files.items():
            if licensed or name != "LICENSE":
                (folder / name).write_text(text)
        found = [
            read
            for name, path in local_files(f"{folder}/*.c")
            for read in read_file("code", InputFile(name, path), options)
        ]
        assert drop_reasons(found) == expected | ({} if licensed else {"c.c": "license: unknown"})


def test_spdx_expressions():
    assert is_allowed("(MIT OR GPL-3.0-only) AND BSD-3-Clause", PERMISSIVE_LICENSES)
    assert not is_allowed("(MIT OR Apache-2.0) AND GPL-3.0-only", PERMISSIVE_LICENSES)
    assert is_allowed("apache-2.0 WITH LLVM-exception", PERMISSIVE_LICENSES)
    assert not is_allowed("", PERMISSIVE_LICENSES)
    assert not is_allowed("MIT (GPL", PERMISSIVE_LICENSES)
    assert is_allowed("MIT", frozenset(["mit"]))
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


EXPECTED = {
    "LICENSE": "not_read", "a.py": "kept", "b.py": "license: GPL-2.0-only", "lib/COPYING": "not_read",
    "lib/deep/c.py": "license: GPL-3.0",
}  # fmt: skip


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
        "x/a.py": "kept",
        "x-1.dist-info/licenses/LICENSE": "not_read",
    }
