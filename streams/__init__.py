"""The pipeline: accept, owner, historian, and the parts that they run on. README.md has the map."""
