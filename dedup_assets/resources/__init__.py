"""What the assets are handed: the workspace, Dask workers and the tasks that run there."""
