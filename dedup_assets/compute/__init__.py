"""The mathematics: arrays in, arrays out. Knows no Dagster, no Dask, no files."""
