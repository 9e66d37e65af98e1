"""Near duplicates: MinHash signatures (Broder 1997), banded so that similar documents meet in a bucket.

Two documents of Jaccard similarity s over their word shingles agree in a hash with probability s, in a band of r hashes
with s**r, and in at least one of b bands with 1 - (1 - s**r)**b. Only hashes are held, one band at a time.
"""

from pathlib import Path

from groundup.artifacts.progress import Progress
from groundup.data.dedup.clusters import Clusters
from groundup.data.engine import repeats, signatures
from groundup.recipe.data import MinHash


def near_duplicates(
    files: list[Path], work: Path, settings: MinHash, seed: int, progress: Progress
) -> dict[int, int]:
    """Ordinal of each near duplicate -> ordinal of the first document of its cluster."""
    clusters = Clusters()
    with progress.task("near duplicates", total=settings.bands + 1, unit="bands") as task:
        signatures(files, work, bands=settings.bands, rows=settings.rows, shingle=settings.shingle, seed=seed)
        task.advance()
        for band in range(settings.bands):
            for first, others in repeats(work, f"b{band}"):
                for other in others:
                    clusters.join(first, other)
            task.advance()
    return clusters.others()


def found_share(similarity: float, settings: MinHash) -> float:
    """Probability that a pair of this Jaccard similarity becomes a candidate."""
    return 1 - (1 - similarity**settings.rows) ** settings.bands
