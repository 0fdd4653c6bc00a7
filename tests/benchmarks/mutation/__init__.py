"""The mutation score of the core, and the changes to it that no test can notice."""
