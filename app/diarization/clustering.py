"""The speakers among embeddings: average-linkage clustering in bounded memory, and rules for what a speaker is.

Average linkage merges the two clusters whose members differ least on average, again and again, up to a threshold. It
needs the distances of all pairs, so thousands of embeddings are clustered block by block, and then the clusters' means.
The mean of a cluster keeps its length: the distance of two means is exactly the average distance of their members.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from app.diarization.models import as_unit

if TYPE_CHECKING:
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]
    Weights = npt.NDArray[np.float32]
    Labels = npt.NDArray[np.intp]

#: Clusters whose members differ by less, as 1 minus their cosine, are of one speaker.
_THRESHOLD: Final = 0.5
#: Speakers whose centroids have a larger cosine are one.
_SAME_COSINE: Final = 0.8
#: A cluster is small beside a speaker of ten times its seconds. It is no speaker if it has a larger cosine with such a
#: speaker, or with the sum of two.
_SMALL: Final = 0.1
_BLEND_COSINE: Final = 0.65
#: A speaker speaks for this many seconds, and for this share of all speech.
_MIN_SECONDS: Final = 2.5
_MIN_SHARE: Final = 0.002
#: The distances of this many vectors take 9 MB.
_BLOCK: Final = 1500
#: Blocks are clustered more strictly than the whole: first, and when they hold clusters already.
_BLOCK_THRESHOLDS: Final = (0.8 * _THRESHOLD, 0.9 * _THRESHOLD)
#: Merging in blocks ends when a pass leaves more than this share of the clusters.
_STUCK: Final = 0.9
#: How many more clusters are tried to find as many speakers as there must be.
_MORE_CLUSTERS: Final = 400
_ROUNDS: Final = 2


@dataclass(frozen=True, slots=True)
class _Clusters:
    """Clusters by the unnormalised mean, the weight and the seconds of speech of each."""

    means: Vectors
    weights: Weights
    seconds: Weights

    def __len__(self) -> int:
        return len(self.means)

    def merged(self, labels: Labels) -> _Clusters:
        """Return the clusters of clusters that ``labels`` describe."""
        weights = np.bincount(labels, self.weights).astype(np.float32)
        sums = np.zeros((len(weights), self.means.shape[1]), np.float32)
        np.add.at(sums, labels, self.means * self.weights[:, np.newaxis])
        seconds = np.bincount(labels, self.seconds).astype(np.float32)
        return _Clusters(sums / weights[:, np.newaxis], weights, seconds)

    def only(self, chosen: npt.NDArray[np.intp]) -> _Clusters:
        return _Clusters(self.means[chosen], self.weights[chosen], self.seconds[chosen])


def speaker_centroids(
    embeddings: Vectors, seconds: Weights, *, min_speakers: int = 1, max_speakers: int | None = None
) -> Vectors:
    """Return the direction of each speaker's voice, shape ``(speakers, dimensions)``.

    ``embeddings`` have unit length; ``seconds`` is the length of the speech of each. There are at least
    ``min_speakers``, if there are as many embeddings, and at most ``max_speakers``.
    """
    if not len(embeddings):
        return embeddings
    single = _Clusters(embeddings, seconds, seconds)
    few = _merged_in_blocks(single)
    speakers = _largest_clusters(few, min_speakers, max_speakers, max(_MIN_SECONDS, _MIN_SHARE * float(seconds.sum())))
    centroids = _distinct(speakers, min_speakers)
    for _ in range(_ROUNDS):
        labels = nearest(embeddings, centroids)
        used = np.unique(labels)
        if len(used) < min(min_speakers, len(centroids)):
            break
        centroids = as_unit(single.merged(np.searchsorted(used, labels)).means)
    return centroids


def largest_speaker(embeddings: Vectors, seconds: Weights) -> Vectors:
    """Return the centroid of the cluster with most speech, shape ``(dimensions,)``."""
    single = _Clusters(embeddings, seconds, seconds)
    merges = linkage(embeddings, seconds)
    clusters = single.merged(cut(merges, sum(merge.distance < _THRESHOLD for merge in merges)))
    return as_unit(clusters.means[clusters.seconds.argmax()])


def nearest(embeddings: Vectors, centroids: Vectors) -> Labels:
    """Return the index of the centroid with the largest cosine for each embedding."""
    labels: Labels = (embeddings @ centroids.T).argmax(axis=1)
    return labels


def _merged_in_blocks(clusters: _Clusters) -> _Clusters:
    """Return at most a block of clusters: those that are nearest to each other are merged, the smallest left out."""
    thresholds = iter(_BLOCK_THRESHOLDS)
    threshold = next(thresholds)
    while len(clusters) > _BLOCK:
        labels = np.zeros(len(clusters), np.intp)
        count = 0
        for start in range(0, len(clusters), _BLOCK):
            block = clusters.only(np.arange(start, min(start + _BLOCK, len(clusters))))
            merges = linkage(block.means, block.weights)
            block_labels = cut(merges, sum(merge.distance < threshold for merge in merges))
            labels[start : start + _BLOCK] = block_labels + count
            count += int(block_labels.max()) + 1
        if count > _STUCK * len(clusters):
            return clusters.only(np.argsort(-clusters.seconds, kind="stable")[:_BLOCK])
        clusters = clusters.merged(labels)
        threshold = next(thresholds, threshold)
    return clusters


def _largest_clusters(
    clusters: _Clusters, min_speakers: int, max_speakers: int | None, min_seconds: float
) -> _Clusters:
    """Return the clusters that are speakers: those of at least ``min_seconds``, or the largest if none is."""
    merges = linkage(clusters.means, clusters.weights)
    merged = sum(merge.distance < _THRESHOLD for merge in merges)

    def speakers(merge_count: int) -> tuple[_Clusters, npt.NDArray[np.intp]]:
        candidates = clusters.merged(cut(merges, merge_count))
        return candidates, np.flatnonzero(candidates.seconds >= min_seconds)

    found, chosen = speakers(merged)
    while max_speakers is not None and len(chosen) > max_speakers and merged < len(merges):
        merged += 1
        found, chosen = speakers(merged)
    fewer = merged
    while len(chosen) < min_speakers and fewer > max(0, merged - _MORE_CLUSTERS):
        fewer -= 1
        found, chosen = speakers(fewer)
    if len(chosen) < max(min_speakers, 1):
        found, _ = speakers(max(0, min(merged, len(clusters) - min_speakers)))
        chosen = np.argsort(-found.seconds, kind="stable")[: max(min_speakers, 1)]
    return found.only(chosen)


def _distinct(clusters: _Clusters, min_speakers: int) -> Vectors:
    """Return the centroids of the clusters that are a speaker of their own, the largest first.

    Small clusters are often two people who speak at once, which the segmentation has not noticed.
    """
    directions = as_unit(clusters.means)
    speakers: list[int] = []
    for cluster in np.argsort(-clusters.seconds, kind="stable").tolist():
        others = directions[speakers]
        is_small = clusters.seconds[cluster] < _SMALL * clusters.seconds[speakers]
        if len(speakers) < max(min_speakers, 1) or not _is_blend(directions[cluster], others, is_small):
            speakers.append(cluster)
    return directions[speakers]


def _is_blend(direction: Vectors, others: Vectors, is_small: npt.NDArray[np.bool_]) -> bool:
    """Return True if a voice is that of another speaker, or of two if it is small beside both."""
    if (others @ direction >= np.where(is_small, _BLEND_COSINE, _SAME_COSINE)).any():
        return True
    larger = others[is_small]
    pairs = as_unit(larger[:, np.newaxis] + larger)
    return bool((pairs @ direction >= _BLEND_COSINE).any())


@dataclass(frozen=True, slots=True)
class Merge:
    """The merge of the cluster that holds item ``second`` into the one that holds item ``first``."""

    distance: float
    first: int
    second: int


def linkage(means: Vectors, weights: Weights) -> list[Merge]:
    """Return the merges of average linkage, nearest first, in O(n²) time and 4 n² bytes.

    The algorithm is the nearest-neighbour chain (Murtagh 1983). The distance of two vectors is 1 minus their product.
    """
    count = len(means)
    sizes = weights.astype(np.float32)
    distances = 1.0 - means @ means.T
    np.fill_diagonal(distances, np.inf)
    is_alive = np.ones(count, np.bool_)
    chain: list[int] = []
    merges: list[Merge] = []
    for _ in range(count - 1):
        if not chain:
            chain.append(int(is_alive.argmax()))
        while True:
            last = distances[chain[-1]]
            neighbour = int(last.argmin())
            if len(chain) > 1 and last[chain[-2]] <= last[neighbour]:
                break
            chain.append(neighbour)
        first, second = chain.pop(), chain.pop()
        merges.append(Merge(float(distances[first, second]), first, second))
        total = sizes[first] + sizes[second]
        merged = (sizes[first] * distances[first] + sizes[second] * distances[second]) / total
        sizes[first] = total
        is_alive[second] = False
        merged[~is_alive] = merged[first] = np.inf
        distances[first] = distances[:, first] = merged
        distances[second] = distances[:, second] = np.inf
    return sorted(merges, key=lambda merge: merge.distance)


def cut(merges: list[Merge], count: int) -> Labels:
    """Return the cluster of each item after the first ``count`` merges, numbered from 0."""
    parents = list(range(len(merges) + 1))

    def root(item: int) -> int:
        while parents[item] != item:
            parents[item] = parents[parents[item]]
            item = parents[item]
        return item

    for merge in merges[:count]:
        parents[root(merge.second)] = root(merge.first)
    return np.unique([root(item) for item in parents], return_inverse=True)[1]
