"""The pipeline: accept, owner, historian, and the parts they run on."""
