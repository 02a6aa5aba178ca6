"""The resources of the assets: the workspace, Dask workers and their tasks."""
