"""What `dedup-assets ui` and `workspace.yaml` serve: the definitions, each run in one process.

Runs that are started in the asset graph have no job of their own and take the executor of their location. A process
for each of the seven steps would add its start, about four seconds each; the parallel work is done by Dask.
"""

import dagster as dg

from dedup_assets import definitions
from dedup_assets.cancellation import cancellable_executor

# Dagster looks for the one Definitions of a module: the other is no name here.
defs = dg.Definitions.merge(definitions.defs, dg.Definitions(executor=cancellable_executor))
