"""Names of our settings in other tools, for the hint after an unknown setting or option."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_OTHER_NAMES = {
    "text_columns": "column columns text text_column text_field text_fields content content_column field fields texts",
    "id_column": "id ids id_field id_col key key_column index index_column record_id",
    "embedding_column": "embedding embeddings embedding_col embeddings_col vector vectors vector_column",
    "model": "model_name model_id model_name_or_path embedding_model embedder encoder checkpoint",
    "prompt": "prompt_name instruction prefix query_prompt default_prompt_name",
    "truncate_dim": "dimensions dim dims matryoshka_dim output_dim embedding_dim",
    "revision": "model_revision commit branch tag",
    "trust_remote_code": "trust remote_code allow_remote_code",
    "max_length": "max_len max_tokens max_seq_length seq_length window",
    "vector_dtype": "dtype vector_type",
    "precision": "torch_dtype model_dtype compute_dtype fp16 bf16",
    "unicode_form": "unicode normalization normalize normal_form",
    "threshold": "similarity similarity_threshold sim_threshold cosine_threshold min_similarity min_score cutoff tau",
    "eps": "epsilon distance distance_threshold max_distance eps_to_extract",
    "keep": "which_to_keep keep_rule keep_strategy strategy survivor sort_by",
    "seed": "random_state random_seed rng",
    "clusters": "k n_clusters num_clusters n_cells cells nlist n_centroids num_centroids",
    "batch_size": "bs embedding_batch_size embed_batch_size encode_batch_size",
    "memory_limit": "memory ram max_memory mem",
    "device": "gpu use_gpu cuda accelerator",
    "scheduler": "client cluster dask dask_address scheduler_address",
    "workers": "n_workers num_workers n_jobs jobs nproc num_proc processes threads",
    "output": "out output_dir output_path output_folder out_dir dest",
    "workspace": "workdir work_dir project cache_dir state",
    "changed_shards": "overwrite on_change",
    "duplicate_ids": "on_duplicate_ids",
}
_MEANT = {other: name for name, others in _OTHER_NAMES.items() for other in others.split()}


def meant_by(name: str, known: Iterable[str]) -> str:
    """The known name meant by an unknown one: a synonym of other tools, or else a close spelling; "" if there is
    none."""
    known = list(known)
    plain = name.lstrip("-").replace("-", "_").lower()
    if plain in known:
        return plain
    if _MEANT.get(plain) in known:
        return _MEANT[plain]
    return next(iter(get_close_matches(plain, known, n=1, cutoff=0.7)), "")
