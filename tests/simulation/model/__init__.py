"""The reference model: what the records of one intake partition mean, told one after another, in plain Python.

The model shares no code with the core: shapes of records and the first price book are the product's, rules are not."""
