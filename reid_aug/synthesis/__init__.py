"""People in new poses: target poses, rendering, the record of it, dumps, gates, and the training of generators."""
