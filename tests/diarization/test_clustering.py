"""Clustering embeddings that are made up: speakers of known number, far apart or alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.diarization.clustering import cut, largest_speaker, linkage, nearest, speaker_centroids
from app.diarization.models import as_unit

if TYPE_CHECKING:
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

SIZE = 64


def voices(count: int, *, seed: int = 1) -> Vectors:
    return as_unit(np.random.default_rng(seed).standard_normal((count, SIZE)).astype(np.float32))


def embeddings_of(labels: npt.NDArray[np.intp], centres: Vectors, *, spread: float = 0.6) -> Vectors:
    noise = np.random.default_rng(2).standard_normal((len(labels), SIZE)).astype(np.float32) / np.sqrt(SIZE)
    return as_unit(centres[labels] + spread * noise)


def agree(found: npt.NDArray[np.intp], labels: npt.NDArray[np.intp]) -> bool:
    pairs = set(zip(found.tolist(), labels.tolist(), strict=True))
    return len(pairs) == len(set(found.tolist())) == len(set(labels.tolist()))


def seconds(count: int) -> npt.NDArray[np.float32]:
    return np.ones(count, np.float32)


@pytest.mark.parametrize("speakers", [1, 2, 5, 12])
def test_number_of_speakers_is_found(speakers: int) -> None:
    labels = np.arange(speakers * 20) % speakers
    embeddings = embeddings_of(labels, voices(speakers))
    centroids = speaker_centroids(embeddings, seconds(len(labels)))
    assert len(centroids) == speakers
    assert agree(nearest(embeddings, centroids), labels)
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1.0, atol=1e-5)


@pytest.mark.full(reason="clusters 20,000 embeddings")
def test_many_embeddings_are_clustered_in_blocks() -> None:
    labels = np.random.default_rng(3).integers(0, 7, 20_000)
    embeddings = embeddings_of(labels, voices(7))
    centroids = speaker_centroids(embeddings, seconds(len(labels)))
    assert agree(nearest(embeddings, centroids), labels)


def test_more_embeddings_than_a_block_give_the_same_speakers() -> None:
    labels = np.repeat(np.arange(4), 500)
    embeddings = embeddings_of(labels, voices(4))
    assert agree(nearest(embeddings, speaker_centroids(embeddings, seconds(len(labels)))), labels)


def test_embeddings_that_never_merge_still_end() -> None:
    embeddings = as_unit(np.random.default_rng(4).standard_normal((1_700, 1_700)).astype(np.float32))
    centroids = speaker_centroids(embeddings, seconds(len(embeddings)), max_speakers=3)
    assert 1 <= len(centroids) <= 3


def test_no_embeddings_are_no_speakers() -> None:
    assert len(speaker_centroids(np.zeros((0, SIZE), np.float32), seconds(0))) == 0


def test_single_embedding_is_a_speaker() -> None:
    embedding = voices(1)
    assert np.allclose(speaker_centroids(embedding, seconds(1)), embedding, atol=1e-6)


def test_someone_who_hardly_speaks_is_no_speaker() -> None:
    labels = np.array([0] * 30 + [1] * 30 + [2])
    embeddings = embeddings_of(labels, voices(3))
    assert len(speaker_centroids(embeddings, seconds(len(labels)))) == 2


def test_mixture_of_two_voices_is_no_speaker() -> None:
    first, second = voices(2)
    mixture = as_unit((first + second)[np.newaxis])
    centres = np.concatenate([first[np.newaxis], second[np.newaxis], mixture])
    labels = np.array([0] * 60 + [1] * 60 + [2] * 5)
    embeddings = embeddings_of(labels, centres, spread=0.4)
    assert len(speaker_centroids(embeddings, seconds(len(labels)))) == 2


def test_more_speakers_than_clusters_are_forced_apart() -> None:
    labels = np.zeros(40, np.intp)
    embeddings = embeddings_of(labels, voices(1))
    assert len(speaker_centroids(embeddings, seconds(40), min_speakers=3)) == 3


def test_limit_merges_the_most_similar() -> None:
    near = voices(3)
    near[2] = as_unit((0.8 * near[1] + 0.6 * near[2])[np.newaxis])[0]
    labels = np.arange(90) % 3
    embeddings = embeddings_of(labels, near, spread=0.3)
    found = nearest(embeddings, speaker_centroids(embeddings, seconds(90), max_speakers=2))
    assert agree(found, np.minimum(labels, 1))


def test_largest_speaker_has_most_seconds() -> None:
    centres = voices(2)
    labels = np.array([0, 1, 1, 1, 0])
    spoken = np.array([5.0, 1.0, 1.0, 1.0, 5.0], np.float32)
    assert largest_speaker(embeddings_of(labels, centres, spread=0.3), spoken) @ centres[0] > 0.9


def test_linkage_merges_by_the_average_of_all_pairs() -> None:
    """The brute-force definition, on a few vectors."""
    vectors = embeddings_of(np.arange(12) % 3, voices(3), spread=1.0)
    clusters = {index: [index] for index in range(len(vectors))}
    distances = 1.0 - vectors @ vectors.T
    expected = []
    while len(clusters) > 1:
        average = {
            (one, other): float(distances[np.ix_(clusters[one], clusters[other])].mean())
            for one in clusters
            for other in clusters
            if one < other
        }
        one, other = min(average, key=lambda pair: average[pair])
        expected.append(average[one, other])
        clusters[one] += clusters.pop(other)
    merges = linkage(vectors, np.ones(len(vectors), np.float32))
    assert [merge.distance for merge in merges] == pytest.approx(expected, abs=1e-5)


def test_cut_numbers_clusters_from_zero() -> None:
    vectors = embeddings_of(np.array([0, 1, 0, 1]), voices(2), spread=0.1)
    merges = linkage(vectors, np.ones(4, np.float32))
    assert agree(cut(merges, 2), np.array([0, 1, 0, 1]))
    assert cut(merges, 0).tolist() == [0, 1, 2, 3]
    assert cut(merges, 3).tolist() == [0, 0, 0, 0]
