"""The code location of `dedup-assets ui` and `workspace.yaml`: the definitions, with each run in one process.

Runs started in the asset graph have no job and use the executor of their location. A process for each of the seven
steps would add its start, about four seconds each; Dask does the parallel work.
"""

import dagster as dg

from dedup_assets import definitions
from dedup_assets.cancellation import cancellable_executor

# Dagster expects one Definitions in a module, so the other has no name here.
defs = dg.Definitions.merge(definitions.defs, dg.Definitions(executor=cancellable_executor))
