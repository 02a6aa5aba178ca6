"""The seven assets, in pipeline order."""

from dedup_assets.assets.cluster_partitions import cluster_partitions
from dedup_assets.assets.deduplicated_dataset import deduplicated_dataset
from dedup_assets.assets.duplicate_ids import duplicate_ids
from dedup_assets.assets.embeddings import embeddings
from dedup_assets.assets.kmeans_centroids import kmeans_centroids
from dedup_assets.assets.pairwise_similarities import pairwise_similarities
from dedup_assets.assets.raw_shards import raw_shards

SHARD_ASSETS = (
    raw_shards,
    embeddings,
    kmeans_centroids,
    cluster_partitions,
    pairwise_similarities,
    duplicate_ids,
    deduplicated_dataset,
)
